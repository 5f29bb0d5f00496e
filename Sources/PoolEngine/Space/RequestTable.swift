import PoolFormat

/// A request's place in the table.
struct RequestIndex: Hashable {
    var rawValue: UInt32
    init(_ rawValue: UInt32) { self.rawValue = rawValue }
    static let none = RequestIndex(UInt32.max)
}

/// Where a request is on its way.
///
///     queued ──► preparing ◄──► parked     (something it needs is fetched or granted)
///                 │     ▲
///                 │     └─────► detour     (edge blocks are read; copies are tried one by one)
///                 │               ▲  │
///                 └──► transferring  │     (legs at the devices)
///                          │         │
///                          └─────────┴──► committing ──► done (replied, record free)
///                 transferring ──► lingering ──► record free
///
/// From `preparing` up to the end of the transfer the request holds its block range: nothing that
/// overlaps it and writes, and for a write nothing that overlaps it at all, is beyond `queued`.
enum RequestState: UInt8 {
    /// Behind an overlapping request that came first.
    case queued
    /// Holds its range; whatever it needs is being checked, from the top.
    case preparing
    /// Holds its range and waits: for a page, a grain, a mark, room, a settled grain, a buffer.
    case parked
    /// Legs are at the devices.
    case transferring
    /// A read that another copy has answered: its legs are at the devices still.
    case lingering
    /// A slow path, or its children, work for it.
    case detour
    /// Done but for durability: waits for a commit. Holds no range any more.
    case committing
}

enum RequestKind: UInt8 {
    case read
    case write
    /// Blocks become UNWRITTEN; a whole grain is unmapped.
    case trim
    /// Like trim, but the grain stays (or becomes) mapped.
    case zero
    /// Part of one block is zeroed: a write, unless the block is UNWRITTEN already.
    case zeroEdge
    case flush
    case blockStatus
    case cache
    /// Nobody's request: the mover holds a whole grain alone.
    case hold
}

/// One request under way. Plain data: the table's memory is never initialised field by field.
struct RequestRecord {
    var space: UInt32 = 0
    var kind: RequestKind = .read
    var state: RequestState = .queued
    var isFUA = false
    /// A leg failed at its device.
    var deviceFailed = false
    /// Of a write: the devices of those legs.
    var failedDevices = DeviceSet()
    /// Edge blocks have been merged into the buffer.
    var isFilled = false
    /// Of a write: a block of it is, or may become, durably something else than UNWRITTEN.
    var isOverwrite = false
    /// It has its whole grain to itself, whichever blocks it touches.
    var isExclusive = false
    /// Its blocks go to slots of the write-back cache, or are read there; and it has the slots.
    var isCached = false
    var hasSlots = false
    /// Of a write to the cache, `Space.cacheRound` when it began.
    var cacheRound = 0
    /// A write that has been sent, and whose values are not taken yet.
    var isAtDevices = false
    /// The copy a read uses.
    var copy: UInt8 = 0
    /// Another copy has been asked, too; 0: none, else what tells this time from any other.
    var hedge: UInt32 = 0
    /// When it came.
    var takenNs: UInt64 = 0
    /// Of a read that may be hedged, when its legs were sent; 0 otherwise.
    var sentNs: UInt64 = 0
    var status: RequestStatus = .ok
    var legsOutstanding: UInt16 = 0
    var children: UInt8 = 0
    var parent: RequestIndex = .none
    var offsetBytes: UInt64 = 0
    var lengthBytes: UInt32 = 0
    var bufferOffset = 0
    var cookie: UInt64 = 0
    var grain: UInt64 = 0
    /// The blocks it touches, within its grain; 4 KiB each.
    var firstBlock: UInt16 = 0
    var blockCount: UInt16 = 0
    /// Pinned page of the grain's block values, or none.
    var frame: Int32 = -1
    /// Scratch pages for reading edge blocks, or -1.
    var headScratch = -1
    var tailScratch = -1
    /// When it stops waiting for room; 0: it has not waited yet.
    var parkDeadlineNs: UInt64 = 0
    /// Next in the chain of its lock bucket, oldest first.
    var nextInBucket: RequestIndex = .none

    /// Those it touches, whole.
    var blocks: Range<Int> { Int(firstBlock)..<Int(firstBlock) + Int(blockCount) }
    /// Head or tail lies within a block.
    var headIsPartial: Bool { offsetBytes % 4096 != 0 }
    var tailIsPartial: Bool { (offsetBytes + UInt64(lengthBytes)) % 4096 != 0 }
    /// What it does to its range makes a copy that was taken before another's.
    var changesGrain: Bool { writes && kind != .hold }
    var writes: Bool {
        switch kind {
        case .write, .trim, .zero, .zeroEdge, .hold: true
        case .read, .blockStatus, .cache, .flush: false
        }
    }
}

/// Every request record of a shard, in one block of memory made at the start.
@safe
final class RequestTable: @unchecked Sendable {
    let capacity: Int
    private let records: UnsafeMutablePointer<RequestRecord>
    /// 256 block values for each request: computed before a write, expected by a read.
    private let values: UnsafeMutablePointer<UInt32>
    /// 256 slots of the cache for each request.
    private let slots: UnsafeMutablePointer<UInt32>
    private let free: UnsafeMutablePointer<UInt32>
    private var freeCount: Int

    init(capacity: Int) {
        self.capacity = capacity
        unsafe records = .allocate(capacity: capacity)
        unsafe records.initialize(repeating: RequestRecord(), count: capacity)
        unsafe values = .allocate(capacity: capacity * Units.blocksPerGrain)
        unsafe values.initialize(repeating: 0, count: capacity * Units.blocksPerGrain)
        unsafe slots = .allocate(capacity: capacity * Units.blocksPerGrain)
        unsafe slots.initialize(repeating: 0, count: capacity * Units.blocksPerGrain)
        unsafe free = .allocate(capacity: capacity)
        for index in 0..<capacity { unsafe free[index] = UInt32(capacity - 1 - index) }
        freeCount = capacity
    }

    deinit {
        unsafe records.deallocate()
        unsafe values.deallocate()
        unsafe slots.deallocate()
        unsafe free.deallocate()
    }

    /// Room for a client's request and the children it may need. What is left then is for the engine's
    /// own: clients who never pause must not keep it from making copies equal.
    var hasRoom: Bool { freeCount >= 8 }
    /// Room for one more of the engine's own.
    var hasOwnRoom: Bool { freeCount >= 4 }
    var inFlight: Int { capacity - freeCount }

    func take() -> RequestIndex {
        precondition(freeCount > 0, "more requests than the table's bound were submitted")
        freeCount -= 1
        let index = unsafe RequestIndex(free[freeCount])
        self[index] = RequestRecord()
        return index
    }

    func give(_ index: RequestIndex) {
        precondition(freeCount < capacity && !self[index].isAtDevices)
        unsafe free[freeCount] = index.rawValue
        freeCount += 1
    }

    /// The writes of a space that have been sent and are not done.
    func forEachAtDevices(ofSpace space: UInt32, _ body: (RequestIndex) -> Void) {
        for index in 0..<capacity {
            let request = RequestIndex(UInt32(index))
            if self[request].isAtDevices, self[request].space == space { body(request) }
        }
    }

    subscript(_ index: RequestIndex) -> RequestRecord {
        @inline(__always) unsafeAddress {
            precondition(Int(index.rawValue) < capacity)
            return unsafe UnsafePointer(records + Int(index.rawValue))
        }
        @inline(__always) unsafeMutableAddress {
            precondition(Int(index.rawValue) < capacity)
            return unsafe records + Int(index.rawValue)
        }
    }

    @inline(__always)
    func value(_ index: RequestIndex, _ block: Int) -> UInt32 {
        precondition(block < Units.blocksPerGrain && Int(index.rawValue) < capacity)
        return unsafe values[Int(index.rawValue) * Units.blocksPerGrain + block]
    }

    @inline(__always)
    func setValue(_ index: RequestIndex, _ block: Int, _ value: UInt32) {
        precondition(block < Units.blocksPerGrain && Int(index.rawValue) < capacity)
        unsafe values[Int(index.rawValue) * Units.blocksPerGrain + block] = value
    }

    @inline(__always)
    func slot(_ index: RequestIndex, _ block: Int) -> UInt32 {
        precondition(block < Units.blocksPerGrain && Int(index.rawValue) < capacity)
        return unsafe slots[Int(index.rawValue) * Units.blocksPerGrain + block]
    }

    @inline(__always)
    func setSlot(_ index: RequestIndex, _ block: Int, _ slot: UInt32) {
        precondition(block < Units.blocksPerGrain && Int(index.rawValue) < capacity)
        unsafe slots[Int(index.rawValue) * Units.blocksPerGrain + block] = slot
    }
}

/// Orders overlapping requests: the first to come goes first, before anything fans out, or the
/// copies of a mirror would diverge.
///
/// Requests of grains that share a bucket hang in one chain, oldest first; only those of the same
/// grain with a common block, at least one of them writing, wait for each other. What writes to a
/// parity's stripe writes all of it anew, and has all its blocks in common with everybody.
@safe
final class RangeLocks: @unchecked Sendable {
    private let table: RequestTable
    private let heads: UnsafeMutablePointer<RequestIndex>
    private let bucketCount = 4096

    init(_ table: RequestTable) {
        self.table = table
        unsafe heads = .allocate(capacity: bucketCount)
        unsafe heads.initialize(repeating: .none, count: bucketCount)
    }

    deinit { unsafe heads.deallocate() }

    private func bucket(_ grain: UInt64) -> Int {
        Int(truncatingIfNeeded: (grain &* 0x9E37_79B9_7F4A_7C15) >> 52)
    }

    private func conflict(_ a: RequestRecord, _ b: RequestRecord) -> Bool {
        a.grain == b.grain && (a.writes || b.writes)
            && (a.isExclusive || b.isExclusive
                || a.firstBlock < b.firstBlock + b.blockCount
                    && b.firstBlock < a.firstBlock + a.blockCount)
    }

    /// Puts a request at the end of its chain. True: it holds its range at once.
    func enter(_ request: RequestIndex) -> Bool {
        let bucket = bucket(table[request].grain)
        var last = unsafe heads[bucket]
        guard last != .none else {
            unsafe heads[bucket] = request
            return true
        }
        var isFree = true
        while true {
            if conflict(table[last], table[request]) { isFree = false }
            if table[last].nextInBucket == .none { break }
            last = table[last].nextInBucket
        }
        table[last].nextInBucket = request
        return isFree
    }

    /// Takes a request out; appends to `runnable` those that hold their range from now on.
    func leave(_ request: RequestIndex, runnable: inout [RequestIndex]) {
        let bucket = bucket(table[request].grain)
        let next = table[request].nextInBucket
        var at = unsafe heads[bucket]
        if at == request {
            unsafe heads[bucket] = next
        } else {
            while table[at].nextInBucket != request {
                precondition(table[at].nextInBucket != .none, "a request left that never entered")
                at = table[at].nextInBucket
            }
            table[at].nextInBucket = next
        }
        var later = next
        while later != .none {
            if table[later].state == .queued, conflict(table[request], table[later]),
                !hasEarlierConflict(bucket, later)
            {
                table[later].state = .preparing
                runnable.append(later)
            }
            later = table[later].nextInBucket
        }
        table[request].nextInBucket = .none
    }

    private func hasEarlierConflict(_ bucket: Int, _ request: RequestIndex) -> Bool {
        var earlier = unsafe heads[bucket]
        while earlier != request {
            if conflict(table[earlier], table[request]) { return true }
            earlier = table[earlier].nextInBucket
        }
        return false
    }
}
