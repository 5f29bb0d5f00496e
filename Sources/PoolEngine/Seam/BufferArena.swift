import Glibc

/// The one region of memory that data moves through: sockets receive into it, disks read and write
/// it, and a driver may register it with the kernel as a single buffer.
///
/// Buffers are handed out in four size classes from free lists, so the budget is global and taking
/// one costs a few nanoseconds. A buffer is named by its byte offset from ``baseAddress``, which
/// makes an operation a plain value. Memory is touched, and so resident, only once used.
@safe public final class BufferArena: @unchecked Sendable {
    /// Capacities: 4 KiB, 16 KiB, 128 KiB, 1 MiB + 8 KiB (a whole grain and two edge blocks).
    public static let classBytes = [4 << 10, 16 << 10, 128 << 10, (1 << 20) + (8 << 10)]

    public let sizeBytes: Int
    public let baseAddress: UnsafeMutableRawPointer
    private let counts: [Int]
    private var freeLists: [[Int]]
    private let classStarts: [Int]

    /// - Parameter counts: buffers of each class, smallest first.
    public init(counts: [Int] = [2048, 512, 128, 64]) {
        precondition(counts.count == Self.classBytes.count)
        self.counts = counts
        (freeLists, classStarts, sizeBytes) = Self.layOut(counts)
        let memory = unsafe mmap(
            nil, sizeBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        guard let memory = unsafe memory, unsafe memory != MAP_FAILED else {
            preconditionFailure("no address space for \(sizeBytes) bytes of buffers")
        }
        unsafe baseAddress = unsafe memory
    }

    /// One shard's share of what one shard alone would have, and no less than its engine's own
    /// buffers need with as much for its clients.
    public convenience init(shardCount: Int) {
        let least = [256, 128, 16, 32]
        let alone = [2048, 512, 128, 64]
        self.init(counts: zip(alone, least).map { max($0 / shardCount, $1) })
    }

    deinit { unsafe munmap(baseAddress, sizeBytes) }

    private static func layOut(_ counts: [Int]) -> (lists: [[Int]], starts: [Int], bytes: Int) {
        var start = 0
        var starts: [Int] = []
        var lists: [[Int]] = []
        for (bytes, count) in zip(classBytes, counts) {
            starts.append(start)
            let base = start
            // Lowest offsets are handed out first, so that a quiet daemon stays small.
            lists.append((0..<count).reversed().map { base + $0 * bytes })
            start += bytes * count
        }
        return (lists, starts, start)
    }

    /// Takes every buffer back, whoever held it: for a driver whose engine has stopped.
    public func reset() { freeLists = Self.layOut(counts).lists }

    /// A buffer of at least `bytes` (at most 1 MiB + 8 KiB), or nil while none of its class or a
    /// larger one is free: the caller waits, it never grows the budget.
    public func take(bytes: Int) -> Int? {
        precondition(bytes <= Self.classBytes[3])
        for index in 0..<Self.classBytes.count where Self.classBytes[index] >= bytes {
            if let offset = freeLists[index].popLast() { return offset }
        }
        return nil
    }

    /// Another buffer of the very size of the one that an offset lies in; nil while none is free.
    func takeAnother(like offset: Int) -> Int? { freeLists[classIndex(of: offset)].popLast() }

    /// Where the buffer begins that an offset lies in.
    func start(of offset: Int) -> Int {
        let index = classIndex(of: offset)
        return offset - (offset - classStarts[index]) % Self.classBytes[index]
    }

    /// Buffers have come back that their users do not know of: whoever waits for one may look.
    public var hasReturns = false

    public func give(_ offset: Int) {
        let index = classIndex(of: offset)
        precondition((offset - classStarts[index]) % Self.classBytes[index] == 0)
        freeLists[index].append(offset)
    }

    /// How many bytes the buffer at an offset holds.
    public func capacity(of offset: Int) -> Int { Self.classBytes[classIndex(of: offset)] }

    private func classIndex(of offset: Int) -> Int {
        precondition(offset >= 0 && offset < sizeBytes)
        var index = classStarts.count - 1
        while classStarts[index] > offset { index -= 1 }
        return index
    }

    /// Buffers that ``take(bytes:)`` could hand out now for this size.
    public func freeBuffers(bytes: Int) -> Int {
        var count = 0
        for index in 0..<Self.classBytes.count where Self.classBytes[index] >= bytes {
            count += freeLists[index].count
        }
        return count
    }

    public var freeBytes: Int {
        zip(freeLists, Self.classBytes).reduce(0) { $0 + $1.0.count * $1.1 }
    }

    // MARK: - memory that a device does not let go of

    /// Puts other memory with the same bytes in a range's place. What the kernel still has of the
    /// old (pinned, or registered) stays its own: nothing that lands there later is seen here.
    ///
    /// - Parameters:
    ///   - offset: a multiple of 4096.
    /// - Returns: false where there is no memory; the range is as it was.
    public func replaceMemory(_ offset: Int, _ count: Int) -> Bool {
        precondition(offset % 4096 == 0)
        // A page belongs to one buffer, and what an operation leaves of its last page to nobody.
        let whole = (count + 4095) & ~4095
        let range = unsafe bytes(offset, whole)
        let kept = unsafe [UInt8](range)
        let memory = unsafe mmap(
            range.baseAddress, whole, PROT_READ | PROT_WRITE,
            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0)
        guard unsafe memory == range.baseAddress else { return false }
        unsafe kept.withUnsafeBytes { unsafe range.copyMemory(from: $0) }
        return true
    }

    /// The bytes of a range; bounds are checked against the arena.
    @inline(__always)
    public func bytes(_ offset: Int, _ count: Int) -> UnsafeMutableRawBufferPointer {
        precondition(offset >= 0 && count >= 0 && offset <= sizeBytes - count)
        return unsafe UnsafeMutableRawBufferPointer(start: baseAddress + offset, count: count)
    }
}
