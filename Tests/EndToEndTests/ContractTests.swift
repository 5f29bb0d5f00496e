import Foundation
import Testing

extension EndToEnd {
    /// What libnbd can see and do, and what it should not be able to do.
    @Suite struct Contract {
        /// Kept in step with the script by ``everyCheckIsRun()``.
        static let checks = [
            "advertised", "listed", "unknown_export", "export_name_option", "unknown_option",
            "round_trip", "neighbours_untouched", "never_written_reads_zeros", "fua_and_flush",
            "trim_reads_zeros", "write_zeroes", "four_gibibytes_at_once", "structured_reads",
            "simple_replies", "block_status", "long_maps_go_on", "contexts",
            "unfragmented_reads", "cached_ranges", "nbdinfo_map", "qemu_map_and_convert",
            "nbdcopy_skips_holes", "deep_queue", "overlapping_writes_settle",
            "two_connections_see_each_other", "unaligned_is_refused",
            "beyond_the_end_is_refused", "requests_from_hell", "abandoned_connections",
        ]
        static let script = Tool.clients + "/nbd_contract.py"

        @Test(needsLibnbd()) func everyCheckIsRun() throws {
            let listed = try succeed(Tool.python, [Self.script, "--list"])
            #expect(Set(listed.split(separator: "\n").map(String.init)) == Set(Self.checks))
        }

        @Test(needsLibnbd(), arguments: ["simple", "mirror2"])
        func libnbdFindsTheContractKept(resiliency: String) throws {
            try withSpace(size: "5G", resiliency: resiliency) { machine in
                for check in Self.checks {
                    let finished = try run(
                        Tool.python, [Self.script, machine.socket, "demo/files", check],
                        timeout: 120)
                    #expect(
                        finished.status == 0, "\(finished.everything)\n\(machine.log.suffix(2000))")
                    try #require(
                        machine.process?.isRunning == true,
                        "poold died in \(check): \(machine.log)")
                }
            }
        }
    }
}
