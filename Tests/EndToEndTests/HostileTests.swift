import Foundation
import Testing

extension EndToEnd {
    /// Clients that mean harm: after each attack others are served as before, and nothing of it is
    /// left in the daemon.
    @Suite struct Hostile {
        /// Kept in step with the script by ``everyAttackIsRun()``. The last one waits for the end of
        /// a client that was deaf from the start, so it comes last.
        static let attacks = [
            "idle_handshakes", "dripping_handshakes", "improper_handshakes", "come_and_go",
            "out_of_descriptors", "flags_and_commands", "ranges", "payloads", "wrong_magic",
            "break_off", "half_open", "unread_replies", "endless_ranges", "never_reading",
        ]
        static let script = Tool.clients + "/hostile.py"

        @Test func everyAttackIsRun() throws {
            let listed = try succeed(Tool.python, [Self.script, "--list"])
            #expect(listed.split(separator: "\n").map(String.init) == Self.attacks)
        }

        @Test func nothingIsLeftOfAnAttack() throws {
            let machine = Machine(scratch: try Scratch(name: "hostile"))
            // On TCP a reset is a reset; the script finds out that the daemon listens there.
            try machine.start([
                "--nbd", "unix:" + machine.socket, "--nbd", "tcp:127.0.0.1:\(try freePort())",
            ])
            try machine.makePool()
            try machine.makeSpace("demo/files", size: "5G", resiliency: "mirror2")
            let process = try #require(machine.processIdentifier)
            let finished = try run(
                Tool.python,
                [Self.script, "--pid", String(process), machine.socket, "demo/files"]
                    + Self.attacks, timeout: 240)
            #expect(finished.status == 0, "\(finished.everything)\n\(machine.log.suffix(4000))")
            let succeeded = finished.output.split(separator: "\n").count { $0.hasPrefix("ok ") }
            #expect(succeeded == Self.attacks.count, "\(finished.output)")
            try #require(machine.process?.isRunning == true, "poold died: \(machine.log)")
            #expect(machine.terminate() == 0, "\(machine.log.suffix(4000))")
        }

        /// A port nobody listens on now.
        private func freePort() throws -> Int {
            let script = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); "
            let said = try succeed(Tool.python, ["-c", script + "print(s.getsockname()[1])"])
            return try #require(Int(said.trimmingCharacters(in: .whitespacesAndNewlines)))
        }
    }
}
