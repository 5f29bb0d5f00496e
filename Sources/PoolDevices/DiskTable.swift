import PoolEngine
import Synchronization

/// The disks this process has open, by the index the engine knows them by.
///
/// An index stays with its disk until it is removed, and is not handed out again before every other
/// one has been: a late message about a disk that is gone then names nothing.
public final class DiskTable: Sendable {
    private struct State {
        var disks: [Disk?] = []
        var next = 0
    }

    private let state = Mutex(State())
    public static let capacity = 4096

    public init() {}

    /// nil: the table is full, or the very same device or file is in it under another path.
    public func add(_ disk: Disk) -> DeviceIndex? {
        state.withLock { state in
            guard !state.disks.contains(where: { $0?.identity == disk.identity }) else {
                return nil
            }
            if state.disks.count < Self.capacity {
                state.disks.append(disk)
                return DeviceIndex(UInt16(state.disks.count - 1))
            }
            for step in 0..<Self.capacity {
                let index = (state.next + step) % Self.capacity
                guard state.disks[index] == nil else { continue }
                state.disks[index] = disk
                state.next = (index + 1) % Self.capacity
                return DeviceIndex(UInt16(index))
            }
            return nil
        }
    }

    public func remove(_ index: DeviceIndex) {
        state.withLock { state in
            guard Int(index.rawValue) < state.disks.count else { return }
            state.disks[Int(index.rawValue)] = nil
        }
    }

    public func disk(_ index: DeviceIndex) -> Disk? {
        state.withLock { state in
            Int(index.rawValue) < state.disks.count ? state.disks[Int(index.rawValue)] : nil
        }
    }

    /// Finds a disk by what it is, not by its path.
    public func index(of identity: Disk.Identity) -> DeviceIndex? {
        state.withLock { state in
            state.disks.firstIndex { $0?.identity == identity }.map { DeviceIndex(UInt16($0)) }
        }
    }
}
