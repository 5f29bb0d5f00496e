import Foundation
import Glibc
import Testing

/// Runs one of the client scripts, which start their own daemon, in a folder of its own.
func result(_ script: String, _ arguments: [String]) throws -> Finished {
    let scratch = try Scratch(name: "drive")
    let environment = ProcessInfo.processInfo.environment
    let seed = environment["POOLD_TEST_SEED"] ?? String(UInt32.random(in: 0...UInt32.max))
    let fixed = ["--bin", Tool.builtPrograms, "--scratch", scratch.folder, "--seed", seed]
    var finished = try run(
        Tool.python, [Tool.clients + "/" + script] + arguments + fixed, timeout: 240, grace: 30)
    finished.errors += read(scratch.path("poold.log")).suffix(3000)
    return finished
}

func drive(_ script: String, _ arguments: [String]) throws {
    let finished = try result(script, arguments)
    #expect(finished.status == 0, "\(finished.everything)")
}

/// Skips a test, by name, where nothing can be mounted over a loop device.
func needsLoopMounts() -> ConditionTrait {
    let programs = ["nbdfuse", "fusermount3", "losetup", "mkfs.ext4", "e2fsck", "fstrim"]
    let missing =
        programs.filter { !Tool.isInstalled($0) }
        + ["/dev/fuse", "/dev/loop-control"].filter {
            !FileManager.default.fileExists(atPath: $0)
        }
        + (Tool.hasLibnbd ? [] : ["python3-libnbd"])
        + (geteuid() == 0 ? [] : ["root"])
    return .enabled(if: missing.isEmpty, "missing: \(missing)")
}
