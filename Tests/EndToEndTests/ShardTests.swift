import Foundation
import Testing

extension EndToEnd {
    /// One daemon with several threads, each with some of the spaces.
    @Suite struct Shards {
        private static let spaces = ["a", "b", "c", "d"]

        @Test(needsLibnbd()) func everyShardServesCountsAndRecovers() throws {
            let machine = Machine(scratch: try Scratch(name: "e2e"))
            try machine.start(["--shards", "3"])
            try machine.makePool()
            for space in Self.spaces { try machine.makeSpace("demo/\(space)", size: "64M") }
            try client(machine, "write")
            machine.kill9()
            // What was flushed is there, wherever its space is now.
            for shards in ["2", "1", "3"] {
                try machine.start(["--shards", shards])
                try client(machine, "read")
                let status = try machine.json("pool", "status", "demo")
                #expect(status["spaces"]?.elements.count == Self.spaces.count)
                #expect(machine.terminate() == 0, "\(machine.log.suffix(4000))")
            }
        }

        @Test(arguments: ["0", "17", "two", "-1"]) func countIsChecked(count: String) throws {
            let machine = Machine(scratch: try Scratch(name: "e2e"))
            try machine.launch(["--shards=\(count)"])
            #expect(machine.waitForEnd(seconds: 20) == 64, "\(machine.log)")
        }

        /// Two connections to each space; while they last no space can be destroyed.
        private func client(_ machine: Machine, _ mode: String) throws {
            let script = """
                import json, nbd, subprocess, sys
                mode, socket, poolctl, directory, *spaces = sys.argv[1:]
                def connect(space):
                    handle = nbd.NBD()
                    handle.connect_uri(f"nbd+unix:///demo/{space}?socket={socket}")
                    return handle
                def control(*words):
                    return subprocess.run([poolctl, *words, "--dir", directory],
                                          capture_output=True, text=True, timeout=60)
                handles = {space: (connect(space), connect(space)) for space in spaces}
                def block(space, at):
                    return bytes([ord(space) + at]) * 65536
                if mode == "write":
                    for at in range(32):
                        for space, (one, _) in handles.items():
                            one.pwrite(block(space, at), at << 20)
                    for _, other in handles.values():
                        other.flush()
                for at in range(32):
                    for space, (_, other) in handles.items():
                        assert other.pread(65536, at << 20) == block(space, at), (space, at)
                for space in spaces:
                    refused = control("space", "destroy", f"demo/{space}", "--yes")
                    assert refused.returncode == 1 and "in use" in refused.stderr, refused
                status = json.loads(control("pool", "status", "demo", "--json").stdout)
                counts = [space["connections"] for space in status["spaces"]]
                assert counts == [2] * len(spaces), counts
                refused = control("pool", "export", "demo")
                assert refused.returncode == 1 and "8 clients" in refused.stderr, refused
                for pair in handles.values():
                    for handle in pair:
                        handle.shutdown()
                """
            let finished = try run(
                Tool.python,
                [
                    "-c", script, mode, machine.socket, try Tool.path(of: "poolctl"),
                    machine.directory,
                ] + Self.spaces, timeout: 120)
            try #require(
                finished.status == 0, "\(finished.everything)\n\(machine.log.suffix(4000))")
        }
    }
}
