import Testing

extension EndToEnd {
    /// Space that comes back, and a pool that fills.
    @Suite struct Room {
        @Test(needsLibnbd(), arguments: ["scattered", "waiting", "fixed"])
        func isGivenBackAndWaitedFor(what: String) throws {
            try drive("room.py", [what])
        }

        @Test(needsLoopMounts()) func aFileSystemGivesBackWhatItDeletes() throws {
            try drive("room.py", ["filesystem"])
        }
    }
}
