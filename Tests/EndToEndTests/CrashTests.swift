import Foundation
import Glibc
import Testing

extension EndToEnd {
    /// Promise 1 with a real process, real sockets and real files: what was flushed survives.
    @Suite struct Crashes {
        @Test(needs("nbdcopy"), needs("cmp"), arguments: ["simple", "mirror2", "parity1"])
        func flushedDataSurvivesKill9(resiliency: String) throws {
            try withSpace(size: "64M", resiliency: resiliency) { machine in
                let before = machine.scratch.path("before")
                let after = machine.scratch.path("after")
                try writeImage(before, mebibytes: 64, seed: 4)
                try succeed("nbdcopy", ["--flush", before, machine.uri("demo/files")])
                let epoch = try machine.json("space", "status", "demo/files")["epoch"]?.asInteger
                for _ in 0..<3 {
                    machine.kill9()
                    try machine.start()
                    try succeed("nbdcopy", [machine.uri("demo/files"), after])
                    try succeed("cmp", [before, after])
                }
                let later = try machine.json("space", "status", "demo/files")["epoch"]?.asInteger
                #expect(try #require(later) >= #require(epoch) + 3, "an epoch for each start")
            }
        }

        @Test(needsLibnbd()) func killedUnderLoadAgainAndAgain() throws {
            let scratch = try Scratch(name: "crash")
            let environment = ProcessInfo.processInfo.environment
            let seed = environment["POOLD_TEST_SEED"] ?? String(UInt32.random(in: 0...UInt32.max))
            let finished = try run(
                Tool.python,
                [
                    Tool.clients + "/crash_loop.py", "--bin", Tool.builtPrograms,
                    "--scratch", scratch.folder, "--rounds", "8", "--seed", seed,
                ], timeout: 400)
            let log = read(scratch.path("poold.log"))
            #expect(finished.status == 0, "\(finished.everything)\n\(log.suffix(4000))")
        }

        @Test(needsLibnbd()) func killedWhileDisksLeaveAndComeBack() throws {
            try drive("crash_loop.py", ["--depart", "--rounds", "5"])
        }

        @Test(needs("nbdcopy"), needs("cmp")) func cleanStopNeedsNoFlush() throws {
            try withSpace(size: "32M") { machine in
                let before = machine.scratch.path("before")
                let after = machine.scratch.path("after")
                try writeImage(before, mebibytes: 32, seed: 5)
                try succeed("nbdcopy", [before, machine.uri("demo/files")])
                #expect(machine.terminate() == 0)
                try machine.start()
                try succeed("nbdcopy", [machine.uri("demo/files"), after])
                try succeed("cmp", [before, after])
            }
        }
    }

    /// The process as an administrator sees it.
    @Suite struct DaemonProcess {
        @Test func secondDaemonOnTheSameFolderIsRefused() throws {
            try withSpace { machine in
                let second = Machine(name: machine.name, scratch: machine.scratch)
                try second.launch()
                let status = second.waitForEnd(seconds: 20)
                #expect(status == 1, "\(machine.log)")
                try machine.control("pool", "status", "demo")
            }
        }

        @Test func staleSocketsAreReplaced() throws {
            try withMachine { machine in
                machine.kill9()
                #expect(FileManager.default.fileExists(atPath: machine.socket))
                try machine.start()
                try machine.control("pool", "ls")
            }
        }

        @Test func filesAreForTheDaemonsGroupOnly() throws {
            try withMachine { machine in
                let folder = try mode(machine.directory)
                let sockets = try ["nbd.sock", "control.sock"].map {
                    try mode(machine.directory + "/" + $0)
                }
                #expect(folder == 0o750)
                #expect(sockets == [0o660, 0o660])
            }
        }

        @Test(needs("nbdinfo")) func tcpOnlyWhenAskedFor() throws {
            let machine = Machine(scratch: try Scratch(name: "e2e"))
            let settings = machine.scratch.path("settings")
            let port = Int.random(in: 20_000...30_000)
            try "# a comment\nnbd = tcp:127.0.0.1:\(port)\n".write(
                toFile: settings, atomically: true, encoding: .utf8)
            try machine.start(["--config", settings])
            try machine.makePool()
            try machine.makeSpace("demo/files", size: "64M")
            let size = try succeed("nbdinfo", ["--size", "nbd://127.0.0.1:\(port)/demo/files"])
            #expect(size == "67108864\n")
            #expect(machine.terminate() == 0)
            try machine.start()
            #expect(try run("nbdinfo", ["nbd://127.0.0.1:\(port)/demo/files"]).status != 0)
            #expect(machine.terminate() == 0)
        }

        @Test func unknownSettingIsNamed() throws {
            let machine = Machine(scratch: try Scratch(name: "e2e"))
            let settings = machine.scratch.path("settings")
            try "frobnicate = yes\n".write(toFile: settings, atomically: true, encoding: .utf8)
            try machine.launch(["--config", settings])
            let status = machine.waitForEnd(seconds: 20)
            #expect(status == 1 || status == 64, "\(String(describing: status))")
            #expect(machine.log.contains("frobnicate"), "\(machine.log)")
        }

        private func mode(_ path: String) throws -> Int {
            let attributes = try FileManager.default.attributesOfItem(atPath: path)
            let permissions = attributes[.posixPermissions] as? NSNumber
            return try #require(permissions).intValue & 0o777
        }
    }
}
