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
public struct SimulatedDisk {
    public let sizeBytes: UInt64
    public let sectorBytes: Int
    public let supportsDiscard: Bool

    private var durable: DiskImage
    private var current: DiskImage
    private var pending: [PendingChange] = []
    private var inFlight: [InFlight] = []
    private var completions: UInt64 = 0
    /// Reads that fail now and then; nil: none does, but those of sectors gone bad.
    public var readFaults: ReadFaults?
    /// By page of 4 KiB. Only ever asked for members.
    private var badPages: Set<UInt64> = []
    /// Reads that ended in an error.
    public private(set) var failedReads = 0

    public struct ReadFaults: Sendable {
        /// Of reads that fail.
        public var percent: Int
        /// Of those, the ones that leave a bad sector behind.
        public var stayingPercent: Int
        public init(percent: Int, stayingPercent: Int) {
            self.percent = percent
            self.stayingPercent = stayingPercent
        }
    }

    /// What a power cut may take back.
    private struct PendingChange {
        var completion: UInt64
        var offset: UInt64
        var length: UInt64
        /// nil: a discard.
        var payload: Payload?
    }

    private struct InFlight {
        var operation: DeviceOperation
        var payload: Payload?
        /// Completions before the submission: what a flush makes durable.
        var barrier: UInt64
    }

    public init(sizeBytes: UInt64, sectorBytes: Int, supportsDiscard: Bool, seed: UInt64) {
        precondition(sectorBytes == 512 || sectorBytes == 4096)
        self.sizeBytes = sizeBytes
        self.sectorBytes = sectorBytes
        self.supportsDiscard = supportsDiscard
        durable = DiskImage(seed: seed)
        current = durable
    }

    public var operationsInFlight: Int { inFlight.count }
    /// Completed writes and discards that no flush covers yet.
    public var unflushedChanges: Int { pending.count }

    /// Whether a power cut could leave more than one state.
    public var hasVolatileChanges: Bool {
        !pending.isEmpty
            || inFlight.contains { [.write, .discard].contains($0.operation.kind) }
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
            InFlight(operation: operation, payload: payload, barrier: completions))
        return nil
    }

    private func misuse(_ operation: DeviceOperation, _ arena: BufferArena) -> String? {
        let unit = UInt64(sectorBytes)
        switch operation.kind {
        case .flush:
            return nil
        case .read, .write, .discard:
            guard operation.lengthBytes > 0, operation.lengthBytes <= sizeBytes,
                operation.offsetBytes <= sizeBytes - operation.lengthBytes
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
        let length = Int(operation.lengthBytes)
        switch operation.kind {
        case .read:
            guard !failsRead(operation, &random) else { return (.ioError, nil) }
            let target = unsafe arena.bytes(operation.bufferOffset, length)
            unsafe current.read(operation.offsetBytes, into: target)
            unsafe overlayInFlight(operation.offsetBytes, target, &random)
            return (.ok, nil)
        case .write:
            guard let payload = finished.payload else { return (.ioError, "write without bytes") }
            let now = unsafe arena.bytes(operation.bufferOffset, length)
            let same = unsafe memcmp(now.baseAddress!, payload.bytes.baseAddress!, length) == 0
            completions += 1
            forgetBadPages(operation)
            unsafe current.write(operation.offsetBytes, from: payload.bytes)
            pending.append(
                PendingChange(
                    completion: completions, offset: operation.offsetBytes,
                    length: operation.lengthBytes, payload: payload))
            return (.ok, same ? nil : "buffer changed while its write was in flight")
        case .flush:
            var covered = 0
            while covered < pending.count, pending[covered].completion <= finished.barrier {
                Self.apply(pending[covered], to: &durable)
                covered += 1
            }
            pending.removeFirst(covered)
            return (.ok, nil)
        case .discard:
            guard supportsDiscard else { return (.unsupported, nil) }
            // Half of the discards change nothing at all: both are legal for real disks.
            guard random.chance(50) else { return (.ok, nil) }
            completions += 1
            let change = PendingChange(
                completion: completions, offset: operation.offsetBytes,
                length: operation.lengthBytes, payload: nil)
            Self.apply(change, to: &current)
            pending.append(change)
            return (.ok, nil)
        }
    }

    private mutating func failsRead(
        _ operation: DeviceOperation, _ random: inout SeededRandom
    ) -> Bool {
        let first = operation.offsetBytes / 4096
        let last = (operation.offsetBytes + operation.lengthBytes - 1) / 4096
        var fails = !badPages.isEmpty && (first...last).contains { badPages.contains($0) }
        if let faults = readFaults, random.chance(faults.percent) {
            fails = true
            if random.chance(faults.stayingPercent) {
                badPages.insert(first + UInt64(random.below(Int(last - first) + 1)))
            }
        }
        if fails { failedReads += 1 }
        return fails
    }

    private mutating func forgetBadPages(_ operation: DeviceOperation) {
        guard !badPages.isEmpty else { return }
        let end = (operation.offsetBytes + operation.lengthBytes) / 4096
        var page = (operation.offsetBytes + 4095) / 4096
        while page < end {
            badPages.remove(page)
            page += 1
        }
    }

    /// A read may catch any sector of a write in flight.
    private func overlayInFlight(
        _ offset: UInt64, _ target: UnsafeMutableRawBufferPointer, _ random: inout SeededRandom
    ) {
        let end = offset + UInt64(target.count)
        for other in inFlight {
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

    private static func apply(_ change: PendingChange, to image: inout DiskImage) {
        if let payload = change.payload {
            unsafe image.write(change.offset, from: payload.bytes)
        } else {
            image.forget(change.offset, change.length)
        }
    }

    // MARK: - crashes

    /// Power is gone: what is not durable survives as far as `policy` says.
    public mutating func cutPower(_ policy: CutPolicy, random: inout SeededRandom) {
        for change in pending { land(change, policy, inFlight: false, &random) }
        for (change, _) in landingInFlight(&random) {
            land(change, policy, inFlight: true, &random)
        }
        pending.removeAll()
        inFlight.removeAll()
        current = durable
    }

    /// The process is gone, the machine is not: the cache stays, what was in flight may land.
    public mutating func killProcess(random: inout SeededRandom) {
        for (change, landed) in landingInFlight(&random) where landed {
            completions += 1
            Self.apply(change, to: &current)
            var cached = change
            cached.completion = completions
            pending.append(cached)
        }
        inFlight.removeAll()
    }

    /// What is in flight, in any order, with a coin each.
    private func landingInFlight(_ random: inout SeededRandom) -> [(PendingChange, Bool)] {
        var changes: [(PendingChange, Bool)] = []
        for flying in inFlight {
            let operation = flying.operation
            switch operation.kind {
            case .read, .flush:
                continue
            case .discard where !supportsDiscard:
                continue
            case .write, .discard:
                let change = PendingChange(
                    completion: 0, offset: operation.offsetBytes, length: operation.lengthBytes,
                    payload: flying.payload)
                changes.append((change, random.chance(50)))
            }
        }
        changes.shuffle(using: &random)
        return changes
    }

    private mutating func land(
        _ change: PendingChange, _ policy: CutPolicy, inFlight: Bool, _ random: inout SeededRandom
    ) {
        switch policy {
        case .dropAll:
            return
        case .keepAll:
            Self.apply(change, to: &durable)
        case .keepCompleted:
            if !inFlight { Self.apply(change, to: &durable) }
        case .operations(let percent):
            if random.chance(percent) { Self.apply(change, to: &durable) }
        case .sectors(let percent):
            guard let payload = change.payload else {
                if random.chance(percent) { Self.apply(change, to: &durable) }
                return
            }
            unsafe landSectors(change.offset, payload.bytes, percent, &random)
        }
    }

    private mutating func landSectors(
        _ offset: UInt64, _ bytes: UnsafeRawBufferPointer, _ percent: Int,
        _ random: inout SeededRandom
    ) {
        var at = 0
        while at < bytes.count {
            if random.chance(percent) {
                unsafe durable.write(
                    offset + UInt64(at),
                    from: UnsafeRawBufferPointer(rebasing: bytes[at..<at + sectorBytes]))
            }
            at += sectorBytes
        }
    }

    // MARK: - inspection and planted damage

    /// The newest completed bytes, as a read without anything in flight would see them.
    public func contents(_ offset: UInt64, _ count: Int) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        unsafe bytes.withUnsafeMutableBytes { unsafe current.read(offset, into: $0) }
        return bytes
    }

    /// Changes bytes behind the engine's back, durably: rot.
    public mutating func corrupt(_ offset: UInt64, _ bytes: [UInt8]) {
        unsafe bytes.withUnsafeBytes { source in
            unsafe current.write(offset, from: source)
            unsafe durable.write(offset, from: source)
        }
    }
}

/// What a power cut leaves of the writes that were not durable.
public enum CutPolicy: Hashable, Sendable {
    case dropAll
    case keepAll
    /// Everything completed, nothing in flight.
    case keepCompleted
    /// Each write whole or not at all, kept `percent` times in a hundred.
    case operations(percent: Int)
    /// Each sector of each write by itself.
    case sectors(percent: Int)
}
