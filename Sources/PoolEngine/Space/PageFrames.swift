import PoolFormat

/// Checksum pages in memory: the values of the blocks of three grains each, shared by the spaces
/// of a shard within one budget.
///
/// 1. A frame is evicted only when it is clean, unpinned and has no change that is not durable.
/// 2. A dirty frame's changes since `dirtySince` are in the journal, or pending; the journal keeps
///    them until the page has been written and flushed.
@safe
final class PageFrames: @unchecked Sendable {
    struct Frame {
        var space: UInt32 = .max
        var page: UInt32 = 0
        /// The oldest journal batch whose change is only here; 0: clean.
        var dirtySince: UInt64 = 0
        /// Requests that rely on it staying.
        var pins: UInt32 = 0
        /// Blocks with a change that is not durable.
        var unflushed: UInt32 = 0
        /// The newer of its two slots on disk.
        var slot: UInt8 = 0
        var recentlyUsed = false
        var isLoading = false
    }

    let capacity: Int
    private let memory: UnsafeMutableRawPointer
    private let frames: UnsafeMutablePointer<Frame>
    /// Frames never used yet are handed out in order, so memory grows with use.
    private var untouched = 0
    private var hand = 0
    private var free: [Int32] = []
    /// Frames of all spaces with `dirtySince` set.
    private(set) var dirtyCount = 0

    init(capacity: Int) {
        self.capacity = capacity
        unsafe memory = .allocate(
            byteCount: capacity * Units.blockBytes, alignment: Units.blockBytes)
        unsafe frames = .allocate(capacity: capacity)
        unsafe frames.initialize(repeating: Frame(), count: capacity)
    }

    deinit {
        unsafe memory.deallocate()
        unsafe frames.deallocate()
    }

    subscript(_ frame: Int32) -> Frame {
        @inline(__always) unsafeAddress {
            precondition(frame >= 0 && Int(frame) < capacity)
            return unsafe UnsafePointer(frames + Int(frame))
        }
        @inline(__always) unsafeMutableAddress {
            precondition(frame >= 0 && Int(frame) < capacity)
            return unsafe frames + Int(frame)
        }
    }

    /// The page image, 4 KiB.
    @inline(__always)
    func image(_ frame: Int32) -> UnsafeMutableRawBufferPointer {
        precondition(frame >= 0 && Int(frame) < capacity)
        return unsafe UnsafeMutableRawBufferPointer(
            start: memory + Int(frame) * Units.blockBytes, count: Units.blockBytes)
    }

    /// A frame to load a page into, or nil while every frame is in use.
    ///
    /// - Parameter evicted: told which page of which space left.
    func take(evicted: (_ space: UInt32, _ page: UInt32) -> Void) -> Int32? {
        if let frame = free.popLast() { return frame }
        if untouched < capacity {
            untouched += 1
            return Int32(untouched - 1)
        }
        // Clock: one turn clears the marks, the next finds a victim if there is one.
        for _ in 0..<(2 * capacity) {
            let frame = Int32(hand)
            hand = (hand + 1) % capacity
            if self[frame].recentlyUsed {
                self[frame].recentlyUsed = false
            } else if self[frame].pins == 0, self[frame].unflushed == 0,
                self[frame].dirtySince == 0, !self[frame].isLoading,
                self[frame].space != .max
            {
                evicted(self[frame].space, self[frame].page)
                return frame
            }
        }
        return nil
    }

    func give(_ frame: Int32) {
        if self[frame].dirtySince != 0 { dirtyCount -= 1 }
        self[frame] = Frame()
        free.append(frame)
    }

    func markDirty(_ frame: Int32, since sequence: UInt64) {
        precondition(sequence != 0)
        if self[frame].dirtySince == 0 {
            self[frame].dirtySince = sequence
            dirtyCount += 1
        }
    }

    func markClean(_ frame: Int32) {
        if self[frame].dirtySince != 0 { dirtyCount -= 1 }
        self[frame].dirtySince = 0
    }
}
