import Glibc
import PoolEngine

/// A disk with a volatile write cache, as the engine may assume it and no better.
///
/// 1. A write takes effect when it completes; a read that overlaps one in flight may see either,
///    sector by sector.
/// 2. What completed is durable only once a flush submitted *after* that completion has completed.
/// 3. At a power cut every sector of every write that is not durable, in flight or completed, is
///    kept or dropped by itself: torn and reordered. When the process is killed the cache survives,
///    and what was in flight landed or did not.
/// 4. A discarded range reads as garbage or as the old bytes, never as zeros.
/// 5. Reads fail when ``readFaults`` says so; a sector that has gone bad fails every read until its
///    4 KiB are written anew.
/// 6. Requests must be aligned to the sector and inside the disk, and a buffer must not change
///    while it is being written: anything else is a violation of the engine's.
///
/// Nothing else goes wrong, and no more is drawn, unless a fault is set. ``DiskFault`` has each as
/// a value, and the numbers go on where the faults are: `SimulatedDisk+Faults.swift` for those that
/// the disk reports (7 to 11), `SimulatedDisk+SilentFaults.swift` for damage to bytes (12 to 15).
public struct SimulatedDisk {
    /// As it was made, whatever it says at present.
    public let fullSizeBytes: UInt64
    /// What the disk says at present.
    public internal(set) var sizeBytes: UInt64
    public let sectorBytes: Int
    public let supportsDiscard: Bool

    var durable: DiskMedium
    var current: DiskMedium
    /// Ascending by completion.
    var pending: [CachedChange] = []
    var inFlight: [FlyingOperation] = []
    private var completions: UInt64 = 0

    // MARK: faults that are set

    /// Reads that fail now and then; nil: none does, but those of sectors gone bad.
    public var readFaults: ReadFaults?
    /// Writes that fail.
    public var writeErrors: WriteSelection?
    /// The next flush fails.
    public var failsNextFlush = false
    /// The next flush reports ok and makes nothing durable: no redundancy promises to bear it.
    public var liesOnce = false
    /// Writes that are acknowledged and change nothing.
    public var lostWrites: WriteSelection?
    /// Writes that are acknowledged and land elsewhere.
    public var misdirectedWrites: Misdirection?
    /// How much later than drawn its operations end.
    public var slowness: Slowness?
    /// Until when nothing ends.
    public internal(set) var hanging: Hanging?
    public internal(set) var isUnreachable = false
    /// Every flush fails until ``reopen()``.
    public internal(set) var hasFailedFlush = false
    /// What ``comeBackAsRemembered()`` restores.
    var remembered: DiskMedium?

    // MARK: faults that struck

    /// Reads that ended in an error.
    public internal(set) var failedReads = 0
    public internal(set) var failedWrites = 0
    public internal(set) var failedFlushes = 0
    /// Those of them that lost something.
    public internal(set) var lostFlushes = 0
    /// Flushes that lied.
    public internal(set) var liedFlushes = 0
    /// How many silent faults have happened; ``silentFaults`` are those that are still there.
    public internal(set) var silentFaultCount = 0

    public struct ReadFaults: Hashable, Sendable {
        /// Of reads that fail.
        public var percent: Int
        /// Of those, the ones that leave a bad sector behind.
        public var stayingPercent: Int
        public init(percent: Int, stayingPercent: Int) {
            self.percent = percent
            self.stayingPercent = stayingPercent
        }
    }

    public init(sizeBytes: UInt64, sectorBytes: Int, supportsDiscard: Bool, seed: UInt64) {
        precondition(sectorBytes == 512 || sectorBytes == 4096)
        fullSizeBytes = sizeBytes
        self.sizeBytes = sizeBytes
        self.sectorBytes = sectorBytes
        self.supportsDiscard = supportsDiscard
        durable = DiskMedium(image: DiskImage(seed: seed))
        current = durable
    }

    public var operationsInFlight: Int { inFlight.count }
    /// Completed writes and discards that no flush covers yet.
    public var unflushedChanges: Int { pending.count }

    /// Whether a power cut could leave more than one state.
    public var hasVolatileChanges: Bool {
        !pending.isEmpty
            || inFlight.contains {
                !$0.isDoomed && [.write, .discard].contains($0.operation.kind)
            }
    }

    // MARK: - operations

    /// Starts an operation. The bytes of a write are taken now.
    ///
    /// - Returns: what is wrong with it, or nil.
    public mutating func submit(_ operation: DeviceOperation, arena: BufferArena) -> String? {
        if let wrong = misuse(operation, arena) { return wrong }
        var payload: Payload?
        if operation.kind == .write {
            payload = unsafe Payload(
                copying: arena.bytes(operation.bufferOffset, Int(operation.lengthBytes)))
        }
        inFlight.append(
            FlyingOperation(
                operation: operation, payload: payload, barrier: completions,
                isDoomed: isUnreachable))
        return nil
    }

    private func misuse(_ operation: DeviceOperation, _ arena: BufferArena) -> String? {
        let unit = UInt64(sectorBytes)
        switch operation.kind {
        case .flush:
            return nil
        case .read, .write, .discard:
            guard operation.lengthBytes > 0, operation.lengthBytes <= fullSizeBytes,
                operation.offsetBytes <= fullSizeBytes - operation.lengthBytes
            else { return "range beyond the disk" }
            guard operation.offsetBytes % unit == 0, operation.lengthBytes % unit == 0 else {
                return "not aligned to the \(sectorBytes)-byte sector"
            }
            guard operation.kind != .discard else { return nil }
            guard operation.lengthBytes <= 1 << 20 else { return "longer than 1 MiB" }
            guard operation.bufferOffset % sectorBytes == 0, operation.bufferOffset >= 0,
                operation.bufferOffset <= arena.sizeBytes - Int(operation.lengthBytes)
            else { return "buffer misaligned or outside the arena" }
            return nil
        }
    }

    /// Ends an operation in flight with its effect.
    ///
    /// - Returns: the status for the engine, and what is wrong if the engine broke the contract.
    public mutating func complete(
        token: UInt32, arena: BufferArena, random: inout SeededRandom
    ) -> (status: DeviceStatus, violation: String?) {
        guard let at = inFlight.firstIndex(where: { $0.operation.token == token }) else {
            return (.aborted, "completion of an operation that is not in flight")
        }
        let finished = inFlight.remove(at: at)
        let operation = finished.operation
        switch operation.kind {
        case .read:
            guard !isRefused(finished), !failsRead(operation, &random) else {
                failedReads += 1
                return (.ioError, nil)
            }
            let target = unsafe arena.bytes(operation.bufferOffset, Int(operation.lengthBytes))
            unsafe current.image.read(operation.offsetBytes, into: target)
            unsafe overlayInFlight(operation.offsetBytes, target, &random)
            return (.ok, nil)
        case .write:
            guard let payload = finished.payload else { return (.ioError, "write without bytes") }
            let wrong =
                finished.isGivenUp || isUnchanged(payload, operation, arena)
                ? nil : "buffer changed while its write was in flight"
            guard !isRefused(finished) else {
                failedWrites += 1
                return (.ioError, wrong)
            }
            return (land(payload, of: operation, &random), wrong)
        case .flush:
            return (flush(finished, &random), nil)
        case .discard:
            guard supportsDiscard else { return (.unsupported, nil) }
            guard !isRefused(finished) else { return (.ioError, nil) }
            // Half of the discards change nothing at all: both are legal for real disks.
            guard random.chance(50) else { return (.ok, nil) }
            cache(operation.range, .discarded)
            return (.ok, nil)
        }
    }

    /// The engine does without an operation in flight, whose buffer it may use for something else.
    ///
    /// - Returns: whether it still ends, some time: nobody asks for what a read finds then.
    mutating func giveUp(token: UInt32) -> Bool {
        guard let at = inFlight.firstIndex(where: { $0.operation.token == token }) else {
            return false
        }
        switch inFlight[at].operation.kind {
        case .write, .discard:
            inFlight[at].isGivenUp = true
            return true
        case .read, .flush:
            inFlight.remove(at: at)
            return false
        }
    }

    private func isUnchanged(
        _ payload: Payload, _ operation: DeviceOperation, _ arena: BufferArena
    ) -> Bool {
        let now = unsafe arena.bytes(operation.bufferOffset, Int(operation.lengthBytes))
        return unsafe memcmp(now.baseAddress!, payload.bytes.baseAddress!, now.count) == 0
    }

    private mutating func failsRead(
        _ operation: DeviceOperation, _ random: inout SeededRandom
    ) -> Bool {
        var fails = current.damage.isUnreadable(operation.range)
        if let faults = readFaults, random.chance(faults.percent) {
            fails = true
            if random.chance(faults.stayingPercent) {
                let first = operation.offsetBytes / 4096
                let last = (operation.offsetBytes + operation.lengthBytes - 1) / 4096
                let page = first + UInt64(random.below(Int(last - first) + 1))
                makeUnreadable([page * 4096..<page * 4096 + 4096])
            }
        }
        return fails
    }

    /// Takes a change into the cache: the last one that covers a place is what is read there.
    mutating func cache(_ range: Range<UInt64>, _ content: CachedChange.Content) {
        completions += 1
        let change = CachedChange(completion: completions, range: range, content: content)
        Self.apply(change, to: &current)
        pending.append(change)
    }

    /// A read may catch any sector of a write in flight.
    private func overlayInFlight(
        _ offset: UInt64, _ target: UnsafeMutableRawBufferPointer, _ random: inout SeededRandom
    ) {
        let end = offset + UInt64(target.count)
        for other in inFlight where !other.isDoomed {
            guard let payload = other.payload, other.operation.offsetBytes < end else { continue }
            let otherStart = other.operation.offsetBytes
            var at = max(offset, otherStart)
            let stop = unsafe min(end, otherStart + UInt64(payload.bytes.count))
            while at < stop {
                if random.chance(50) {
                    let from = Int(at - otherStart)
                    let to = Int(at - offset)
                    unsafe UnsafeMutableRawBufferPointer(rebasing: target[to..<to + sectorBytes])
                        .copyMemory(
                            from: UnsafeRawBufferPointer(
                                rebasing: payload.bytes[from..<from + sectorBytes]))
                }
                at += UInt64(sectorBytes)
            }
        }
    }

    static func apply(_ change: CachedChange, to medium: inout DiskMedium) {
        let range = change.range
        switch change.content {
        case .bytes(let payload, let from):
            unsafe medium.write(range.lowerBound, from: payload.slice(from, range.count))
        case .stray(let payload, let from):
            unsafe medium.write(range.lowerBound, from: payload.slice(from, range.count))
            medium.damage.add(SilentFault(range, .strayWrite))
        case .discarded:
            medium.discard(range.lowerBound, UInt64(range.count))
        case .missing(let kind):
            medium.damage.add(SilentFault(range, kind))
        }
    }

    // MARK: - inspection and planted damage

    /// The newest completed bytes, as a read without anything in flight would see them.
    public func contents(_ offset: UInt64, _ count: Int) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        unsafe bytes.withUnsafeMutableBytes { unsafe current.image.read(offset, into: $0) }
        return bytes
    }

    /// What of a range was ever written, in whole pages of 4 KiB; ascending.
    public func written(_ range: Range<UInt64>) -> [Range<UInt64>] {
        let page = UInt64(DiskImage.pageBytes)
        var found: [Range<UInt64>] = []
        for start in stride(from: range.lowerBound, to: range.upperBound, by: DiskImage.pageBytes)
        where current.image.isResident(page: start / page) {
            if let last = found.last, last.upperBound == start {
                found[found.count - 1] = last.lowerBound..<start + page
            } else {
                found.append(start..<start + page)
            }
        }
        return found
    }

    /// Changes bytes behind the engine's back, durably: rot.
    public mutating func corrupt(_ offset: UInt64, _ bytes: [UInt8]) {
        unsafe bytes.withUnsafeBytes { source in
            unsafe current.spoil(offset, from: source)
            unsafe durable.spoil(offset, from: source)
        }
    }
}

/// What a power cut may take back: something that completed and that no flush covers yet.
struct CachedChange {
    enum Content {
        /// Of a payload, from there on.
        case bytes(Payload, from: Int)
        /// The same, and it was meant for elsewhere.
        case stray(Payload, from: Int)
        case discarded
        /// A write was acknowledged and nothing changed here: durable, it is a silent fault.
        case missing(SilentFault.Kind)
    }

    /// How many had completed with it.
    var completion: UInt64
    var range: Range<UInt64>
    var content: Content

    /// What of it lies inside a range.
    func clipped(to bounds: Range<UInt64>) -> CachedChange? {
        let inside = range.clamped(to: bounds)
        guard !inside.isEmpty else { return nil }
        var clipped = self
        clipped.range = inside
        let skipped = Int(inside.lowerBound - range.lowerBound)
        switch content {
        case .bytes(let payload, let from):
            clipped.content = .bytes(payload, from: from + skipped)
        case .stray(let payload, let from):
            clipped.content = .stray(payload, from: from + skipped)
        case .discarded, .missing:
            break
        }
        return clipped
    }
}

struct FlyingOperation {
    var operation: DeviceOperation
    var payload: Payload?
    /// Completions before the submission: what a flush makes durable.
    var barrier: UInt64
    /// The disk was away meanwhile: it ends in an error, and what it was to do is over.
    var isDoomed: Bool
    /// The engine has been told that it failed.
    var isGivenUp = false
}

extension DeviceOperation {
    var range: Range<UInt64> { offsetBytes..<offsetBytes + lengthBytes }
}

extension Payload {
    func slice(_ from: Int, _ count: Int) -> UnsafeRawBufferPointer {
        unsafe UnsafeRawBufferPointer(rebasing: bytes[from..<from + count])
    }
}

extension SilentFault {
    init(_ range: Range<UInt64>, _ kind: Kind) {
        self.init(offset: range.lowerBound, length: UInt64(range.count), kind: kind)
    }
}
