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
}
