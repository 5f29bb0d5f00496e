import Foundation
import Testing

extension EndToEnd {
    /// The clients people use, each doing what it is used for, and checked by what it says.
    @Suite struct Clients {
        @Test(needs("nbdinfo")) func nbdinfoDescribesTheExport() throws {
            try withSpace(size: "1G") { machine in
                let uri = machine.uri("demo/files")
                #expect(try succeed("nbdinfo", ["--size", uri]) == "1073741824\n")
                let text = try succeed("nbdinfo", ["--json", uri])
                let export = try JSONDecoder().decode(JSON.self, from: Data(text.utf8))
                let first = try #require(export["exports"]?.elements.first)
                #expect(first["export-name"] == .text("demo/files"))
                #expect(first["block_size_minimum"] == .integer(512))
                #expect(first["block_size_preferred"] == .integer(4096))
                for ability in ["can_multi_conn", "can_fua", "can_flush", "can_trim", "can_zero"] {
                    #expect(first[ability] == .truth(true), "\(ability) in \(text)")
                }
                let everything = "nbd+unix:///?socket=\(machine.socket)"
                #expect(
                    try succeed("nbdinfo", ["--list", everything]).contains("demo/files"))
                #expect(try run("nbdinfo", [machine.uri("demo/filse")]).status != 0)
                #expect(try run("nbdinfo", [everything]).status != 0, "an empty name is unknown")
            }
        }

        @Test(needs("nbdcopy"), needs("cmp"), arguments: ["simple", "mirror2"])
        func nbdcopyThereAndBack(resiliency: String) throws {
            try withSpace(size: "96M", resiliency: resiliency) { machine in
                let before = machine.scratch.path("before")
                let after = machine.scratch.path("after")
                try writeImage(before, mebibytes: 96, seed: 1)
                try succeed("nbdcopy", ["--flush", before, machine.uri("demo/files")])
                try succeed("nbdcopy", [machine.uri("demo/files"), after])
                try succeed("cmp", [before, after])
            }
        }

        @Test(needs("nbdcopy"), needs("cmp")) func nbdcopyFromSpaceToSpace() throws {
            try withSpace(size: "64M") { machine in
                let before = machine.scratch.path("before")
                let after = machine.scratch.path("after")
                try machine.makeSpace("demo/second", size: "64M", resiliency: "simple")
                try writeImage(before, mebibytes: 64, seed: 2)
                try succeed("nbdcopy", [before, machine.uri("demo/files")])
                try succeed("nbdcopy", [machine.uri("demo/files"), machine.uri("demo/second")])
                try succeed("nbdcopy", [machine.uri("demo/second"), after])
                try succeed("cmp", [before, after])
            }
        }

        @Test(needs("qemu-img")) func qemuImgConvertsAndCompares() throws {
            try withSpace(size: "80M") { machine in
                let uri = machine.uri("demo/files")
                let raw = machine.scratch.path("image.raw")
                let qcow = machine.scratch.path("image.qcow2")
                let info = try succeed("qemu-img", ["info", "--output=json", uri])
                #expect(info.contains("\"virtual-size\": 83886080"), "\(info)")
                try writeImage(raw, mebibytes: 80, seed: 3)
                try succeed("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", raw, qcow])
                try succeed("qemu-img", ["convert", "-n", "-O", "raw", qcow, uri])
                let same = try succeed(
                    "qemu-img", ["compare", "-f", "raw", "-F", "raw", raw, uri])
                #expect(same.contains("identical"))
                // And the comparison can tell: one sector more makes the difference.
                try succeed("qemu-io", ["-f", "raw", "-c", "write -P 0xee 5M 512", uri])
                let differs = try run(
                    "qemu-img", ["compare", "-f", "raw", "-F", "raw", raw, uri])
                #expect(differs.status == 1, "\(differs.everything)")
            }
        }

        @Test(needs("qemu-io"), arguments: ["simple", "mirror2"])
        func qemuIoPatternsDiscardsAndZeroes(resiliency: String) throws {
            try withSpace(size: "64M", resiliency: resiliency) { machine in
                try qemuIO(
                    machine.uri("demo/files"),
                    [
                        "read -P 0 0 64M",
                        "write -P 0x5a 1M 6M", "read -P 0x5a 1M 6M", "read -P 0 7M 1M",
                        "write -f -P 0xa5 1049088 8704", "read -P 0xa5 1049088 8704",
                        "read -P 0x5a 1M 512", "read -P 0x5a 1057792 4096",
                        "discard 2M 1M", "read -P 0 2M 1M", "read -P 0x5a 3M 1M",
                        "write -z 4M 512k", "read -P 0 4M 512k", "read -P 0x5a 4718592 512k",
                        "write -z -u 5M 1536", "read -P 0 5M 1536", "read -P 0x5a 5244416 4096",
                        "aio_write -P 1 16M 4M", "aio_write -P 2 20M 4M", "aio_flush",
                        "read -P 1 16M 4M", "read -P 2 20M 4M", "flush",
                    ])
            }
        }

        @Test(
            needs("fio"),
            arguments: [
                ["--rw=randwrite", "--bs=4k"],
                ["--rw=randwrite", "--bssplit=512/20:4k/50:20k/20:128k/10", "--bs_unaligned=1"],
                ["--rw=randrw", "--bs=16k", "--verify_backlog=64"],
                ["--rw=write", "--bs=1m"],
            ])
        func fioVerifiesWhatItWrote(job: [String]) throws {
            try withSpace(size: "128M") { machine in
                let fixed = [
                    "--name=verify", "--ioengine=nbd", "--uri=\(machine.uri("demo/files"))",
                    "--size=48m", "--iodepth=16", "--verify=crc32c", "--do_verify=1",
                    "--verify_fatal=1", "--verify_state_save=0", "--randseed=7",
                    "--output-format=json",
                ]
                let report = try succeed("fio", fixed + job, timeout: 240)
                #expect(report.contains("\"error\" : 0"), "\(report.suffix(2000))")
            }
        }

        @Test(needs("fio")) func fioFromFourClientsAtOnce() throws {
            try withSpace(size: "128M") { machine in
                let report = try succeed(
                    "fio",
                    [
                        "--name=verify", "--ioengine=nbd", "--uri=\(machine.uri("demo/files"))",
                        "--rw=randwrite", "--bs=4k", "--size=8m", "--offset_increment=16m",
                        "--numjobs=4", "--iodepth=8", "--verify=crc32c", "--verify_fatal=1",
                        "--verify_state_save=0",
                        "--group_reporting", "--output-format=json",
                    ], timeout: 240)
                #expect(report.contains("\"error\" : 0"), "\(report.suffix(2000))")
            }
        }
    }
}

/// Runs qemu-io's commands on an export; a pattern that does not match fails.
func qemuIO(_ uri: String, _ commands: [String]) throws {
    let finished = try run("qemu-io", ["-f", "raw"] + commands.flatMap { ["-c", $0] } + [uri])
    try #require(finished.status == 0, "\(finished.everything)")
    let said = finished.output + finished.errors
    try #require(!said.contains("verification failed"), "\(said)")
    try #require(!said.contains("failed:"), "\(said)")
}

/// An image with incompressible data, repeated data and holes, the same for the same seed.
func writeImage(_ path: String, mebibytes: Int, seed: UInt64) throws {
    let handle = try writable(path)
    defer { try? handle.close() }
    var state = seed
    for mebibyte in 0..<mebibytes where mebibyte % 5 != 3 {
        var words = [UInt64](repeating: UInt64(mebibyte), count: (1 << 20) / 8)
        if mebibyte % 5 != 1 {
            for index in words.indices {
                // splitmix64
                state &+= 0x9E37_79B9_7F4A_7C15
                var mixed = state
                mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
                mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
                words[index] = mixed ^ (mixed >> 31)
            }
        }
        try handle.seek(toOffset: UInt64(mebibyte) << 20)
        try handle.write(contentsOf: unsafe words.withUnsafeBytes { unsafe Data($0) })
    }
    try handle.truncate(atOffset: UInt64(mebibytes) << 20)
}
