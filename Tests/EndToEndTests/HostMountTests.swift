import Testing

extension EndToEnd {
    /// An export as a file system of this machine, by way of nbdfuse and a loop device.
    @Suite struct HostMount {
        @Test(needsLoopMounts()) func aFileSystemsLife() throws {
            try drive("host_mount.py", ["life"])
        }

        /// Nothing that SQLite has committed with synchronous=FULL is lost when the daemon dies.
        @Test(needsLoopMounts()) func committedTransactionsSurviveKill9() throws {
            try drive("host_mount.py", ["sqlite", "--rounds", "6"])
        }
    }

    /// Multi-conn between processes: one flushes for all of them.
    @Suite struct MultiConn {
        @Test(needsLibnbd(), arguments: ["simple", "mirror2"])
        func aFlushCoversEveryonesWrites(resiliency: String) throws {
            try drive("multi_conn.py", ["--resiliency", resiliency, "--rounds", "5"])
        }

        /// The same load whose flushes are only pretended has to be found out.
        @Test(needsLibnbd()) func aFlushThatIsLeftOutIsNoticed() throws {
            let finished = try result("multi_conn.py", ["--no-flush", "--rounds", "20"])
            #expect(finished.status == 1, "\(finished.everything)")
            #expect(finished.output.contains(", allowed: "), "\(finished.everything)")
        }
    }
}
