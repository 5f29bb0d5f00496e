import Foundation
import Testing

extension EndToEnd {
    /// The kernel's own NBD client, in a kernel of its own.
    @Suite struct KernelClient {
        /// mkfs, mount, verified I/O, fstrim and fsck; then the daemon is killed under I/O, and
        /// neither the mount nor a raw device notices more than a delay.
        @Test(needs("linux.uml"), needs("nbd-client"), needs("fio"), arguments: ["ext4", "xfs"])
        func mountsLiveAndOutliveTheDaemon(fileSystem: String) throws {
            let scratch = try Scratch(name: "kernel")
            let finished = try run(
                Tool.clients + "/kernel_client", [Tool.builtPrograms, scratch.folder, fileSystem],
                timeout: 320, grace: 30)
            #expect(finished.status == 0, "\(finished.everything)")
        }
    }

    /// A virtual machine: its disks are exports, the one it boots from among them.
    @Suite struct VirtualMachine {
        static let kernel =
            ProcessInfo.processInfo.environment["POOLD_GUEST_KERNEL"]
            ?? Tool.tools + "/../.build/guest-kernel"

        @Test(needsVirtualMachine()) func bootsWorksAndOutlivesTheDaemon() throws {
            let scratch = try Scratch(name: "guest")
            let finished = try run(
                Tool.clients + "/qemu_guest", [Tool.builtPrograms, scratch.folder, Self.kernel],
                timeout: 300, grace: 30)
            #expect(finished.status == 0, "\(finished.everything)")
        }
    }
}

/// Skips a test, by name, where no guest can be started.
func needsVirtualMachine() -> ConditionTrait {
    let programs = ["qemu-system-x86_64", "busybox", "mke2fs", "e2fsck", "nbdcopy"]
    let kernel = EndToEnd.VirtualMachine.kernel + "/vmlinuz"
    let missing =
        programs.filter { !Tool.isInstalled($0) }
        + (FileManager.default.fileExists(atPath: kernel) ? [] : ["a guest's kernel"])
    return .enabled(if: missing.isEmpty, "missing: \(missing)")
}
