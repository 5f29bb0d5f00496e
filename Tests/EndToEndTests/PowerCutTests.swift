import Foundation
import Testing

extension EndToEnd {
    /// Promise 1 where it is hard: the disks lose what was not flushed, all in one instant.
    @Suite struct PowerCuts {
        static let script = Tool.clients + "/power_cut.py"

        @Test(needsVolatileDisks(), arguments: ["simple", "mirror2", "parity1"])
        func flushedDataSurvivesThem(resiliency: String) throws {
            let finished = try cutPower(["--resiliency", resiliency, "--rounds", "6"])
            #expect(finished.status == 0, "\(finished.everything)")
        }

        /// Most cuts fall while a disk is away, being brought up to date, or being emptied; at the end
        /// everything is there without all disks that may be lost.
        @Test(needsVolatileDisks(), arguments: Redundancy.mirrors + [.parity2])
        func soItDoesWhileDisksLeaveAndComeBack(kind: Redundancy) throws {
            let finished = try cutPower([
                "--resiliency", kind.rawValue, "--depart", "--rounds", "4",
            ])
            #expect(finished.status == 0, "\(finished.everything)")
            #expect(finished.output.contains("cuts under load by phase"))
        }

        /// The daemon's folder, its witness in it, is on such a disk as well.
        @Test(needsVolatileDisks(), needsLoopMounts())
        func soDoesItWithTheDaemonsOwnState() throws {
            let finished = try cutPower(["--resiliency", "mirror2", "--rounds", "6", "--state"])
            #expect(finished.status == 0, "\(finished.everything)")
        }

        /// Disks that forget what they flush, at once or a little, have to be found out: a check
        /// that cannot fail proves nothing.
        @Test(needsVolatileDisks(), arguments: ["1", "100"], ["simple", "mirror2"])
        func lyingDisksAreCaught(oneSectorIn: String, resiliency: String) throws {
            let finished = try cutPower([
                "--resiliency", resiliency, "--rounds", "40", "--lie", oneSectorIn,
            ])
            #expect(finished.status == 1, "\(finished.everything)")
            #expect(finished.output.contains("FAILED in round"), "\(finished.everything)")
        }

        @Test(needsVolatileDisks()) func lyingDisksAreCaughtWhileOthersLeave() throws {
            let finished = try cutPower([
                "--resiliency", "mirror3", "--depart", "--rounds", "20", "--lie", "1",
            ])
            #expect(finished.status == 1, "\(finished.everything)")
            #expect(finished.output.contains("FAILED in round"), "\(finished.everything)")
        }

        private func cutPower(_ arguments: [String]) throws -> Finished {
            let scratch = try Scratch(name: "cut")
            let plugin = scratch.path("volatile_disk.so")
            try succeed(Tool.tools + "/powercut/build", [plugin])
            let disks = scratch.path("disks")
            try FileManager.default.createDirectory(
                atPath: disks, withIntermediateDirectories: false)
            let environment = ProcessInfo.processInfo.environment
            let seed = environment["POOLD_TEST_SEED"] ?? String(UInt32.random(in: 0...UInt32.max))
            let fixed = [
                Self.script, "--bin", Tool.builtPrograms, "--scratch", disks,
                "--plugin", plugin, "--seed", seed,
            ]
            var finished = try run(Tool.python, fixed + arguments, timeout: 300, grace: 30)
            finished.errors += read(disks + "/poold.log").suffix(3000)
            return finished
        }
    }
}

/// Skips a test, by name, where disks with a power switch cannot be built or mounted.
func needsVolatileDisks() -> ConditionTrait {
    let programs = ["nbdkit", "nbdfuse", "fusermount3", "gcc"]
    let header = "/usr/include/nbdkit-plugin.h"
    let missing =
        programs.filter { !Tool.isInstalled($0) }
        + [header, "/dev/fuse"].filter { !FileManager.default.fileExists(atPath: $0) }
        + (Tool.hasLibnbd ? [] : ["python3-libnbd"])
    return .enabled(if: missing.isEmpty, "missing: \(missing)")
}
