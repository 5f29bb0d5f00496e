import Foundation
import Testing

extension EndToEnd {
    /// Promise 3: a read returns the right bytes or EIO, whatever a disk makes of them meanwhile.
    @Suite struct Rot {
        @Test(needs("qemu-io")) func mirrorAnswersFromTheOtherCopy() throws {
            try withRotten(resiliency: "mirror2", disks: 2) { machine in
                try qemuIO(machine.uri("demo/files"), ["read -P 0x5a 0 1M", "read -P 0 1M 1M"])
                #expect(try machine.control("pool", "status", "demo").contains("healthy"))
            }
        }

        @Test(needs("qemu-io")) func simpleSaysSoAndServesTheRest() throws {
            try withRotten(resiliency: "simple", disks: 1) { machine in
                let uri = machine.uri("demo/files")
                let finished = try run("qemu-io", ["-f", "raw", "-c", "read -P 0x5a 0 1M", uri])
                #expect(finished.everything.contains("Input/output error"))
                #expect(!finished.everything.contains("verification failed"))
                // The one block is lost, its neighbours and its successor are not.
                try qemuIO(uri, ["read -P 0x5a 64k 960k", "write -P 0x5a 0 64k", "flush"])
                try qemuIO(uri, ["read -P 0x5a 0 1M"])
            }
        }

        /// A MiB of a pattern, and one 4 KiB block of it, in its first 64 KiB, spoilt on one disk
        /// behind the daemon's back.
        private func withRotten(
            resiliency: String, disks: Int, _ body: (Machine) throws -> Void
        ) throws {
            try withMachine { machine in
                let paths = try machine.makePool(disks: disks, size: "1G")
                try machine.makeSpace("demo/files", size: "64M", resiliency: resiliency)
                try qemuIO(machine.uri("demo/files"), ["write -P 0x5a 0 1M", "flush"])
                #expect(machine.terminate() == 0)
                let spoil = """
                    import mmap, sys
                    with open(sys.argv[1], "r+b") as file:
                        disk = mmap.mmap(file.fileno(), 0)
                        at = disk.find(b"\\x5a" * 65536)
                        assert at >= 0 and at % 4096 == 0, at
                        disk[at + 8192 : at + 12288] = b"\\xa5" * 4096
                        disk.flush()
                    """
                try succeed(Tool.python, ["-c", spoil, paths[0]])
                try machine.start()
                try body(machine)
            }
        }
    }
}
