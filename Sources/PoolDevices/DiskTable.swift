import PoolEngine
import Synchronization

/// The disks this process has open, by the index the engine knows them by.
///
/// An index stays with its disk until it is removed, and is not handed out again before every other
/// one has been: a late message about a disk that is gone then names nothing.
public final class DiskTable: Sendable {
    private struct Entry {
        var disk: Disk
        /// Who has yet to let go of it.
        var users: Int
    }

    private struct State {
        var entries: [Entry?] = []
        var next = 0
    }

    private let state = Mutex(State())
    private let users: Int
    /// The engine keeps sets of devices in 256 bits.
    public static let capacity = 256

    /// - Parameter users: how many shards use each disk.
    public init(users: Int = 1) {
        precondition(users > 0)
        self.users = users
    }

    /// nil: the table is full, or the very same device or file is in it under another path.
    ///
    /// - Parameter other: an index under which it may be in the table: it was opened beside that.
    public func add(_ disk: Disk, beside other: DeviceIndex? = nil) -> DeviceIndex? {
        state.withLock { state in
            for (at, entry) in state.entries.enumerated()
            where entry?.disk.identity == disk.identity {
                guard at == other.map({ Int($0.rawValue) }) else { return nil }
            }
            if state.entries.count < Self.capacity {
                state.entries.append(Entry(disk: disk, users: users))
                return DeviceIndex(UInt16(state.entries.count - 1))
            }
            for step in 0..<Self.capacity {
                let index = (state.next + step) % Self.capacity
                guard state.entries[index] == nil else { continue }
                state.entries[index] = Entry(disk: disk, users: users)
                state.next = (index + 1) % Self.capacity
                return DeviceIndex(UInt16(index))
            }
            return nil
        }
    }

    /// One user less; with the last the index is free.
    public func remove(_ index: DeviceIndex) {
        state.withLock { state in
            let at = Int(index.rawValue)
            guard at < state.entries.count, let entry = state.entries[at] else { return }
            if entry.users > 1 {
                state.entries[at]?.users -= 1
            } else {
                state.entries[at] = nil
            }
        }
    }

    public func disk(_ index: DeviceIndex) -> Disk? {
        state.withLock { state in
            let at = Int(index.rawValue)
            return at < state.entries.count ? state.entries[at]?.disk : nil
        }
    }

    /// Finds a disk by what it is, not by its path.
    public func index(of identity: Disk.Identity) -> DeviceIndex? {
        state.withLock { state in
            state.entries.firstIndex { $0?.disk.identity == identity }.map { DeviceIndex(UInt16($0)) }
        }
    }
}
