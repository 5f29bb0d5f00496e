import PoolEngine

/// The engine's seam over real disks: takes its operations, carries them out on the shard's ring,
/// and hands back one completion for each.
///
/// Confined to the shard's thread. An operation lives in a slot of a fixed table from
/// ``submit(_:nowNs:)`` until its completion; with every slot taken it waits in line. Nothing is
/// allocated per operation.
///
///     free --submit--> under way --CQE: all of it, or an error--> free, completion appended
///                        ^   |
///                        +---+ CQE: part of it, not begun, or another way to discard
///
/// A device that does not answer is given up (``abandon(_:)``): its operations fail at once, and
/// their slots are free when the kernel lets go of them.
///
/// Safe from outside: its tables are fixed in size, and every index into them is checked first.
@safe public final class DeviceDriver {
    /// Outcomes since the caller last emptied this list; in the order they were learnt.
    public var completions: [DeviceCompletion] = []
    /// Devices that were detached and now have nothing under way; the caller empties this list.
    public var detached: [DeviceIndex] = []
    /// Operations the kernel has, and those that wait for a slot.
    public var inFlightCount: Int {
        underWay - abandonedCount - heldFlushes + backlog.count - backlogHead
    }

    let ring: Ring
    let log: @Sendable (String) -> Void
    let capacity: Int
    let slots: UnsafeMutablePointer<Slot>
    private var firstFree: Int32 = 0
    private var underWay = 0
    /// Of those, the ones whose outcome has been told though the kernel still has them.
    var abandonedCount = 0
    /// Of the kernel's workers, those that wait for a disk, as far as the ring was told.
    var stuckWorkers = 0
    /// Flushes that the kernel is done with and whose outcome other shards decide.
    var heldFlushes = 0
    /// The time as it was told last.
    var clockNs: UInt64 = 0
    /// How other shards reach this one; nil: there are none.
    let mailbox: ShardMailbox?
    private var backlog: [DeviceOperation] = []
    private var backlogHead = 0

    /// Trivial state by device index, apart from the objects so that it costs no reference counts.
    let devices: UnsafeMutablePointer<Device>
    var disks: [Disk?] = Array(repeating: nil, count: DiskTable.capacity)
    var errors: [DeviceErrors] = Array(repeating: DeviceErrors(), count: DiskTable.capacity)

    struct Slot {
        var operation: DeviceOperation
        /// Of a read or write: moved so far.
        var doneBytes: Int
        var attempts: UInt8
        /// Of a discard: the method the kernel was asked with.
        var discardMethod: DiscardMethod
        var isUnderWay: Bool
        var startedNs: UInt64
        /// Its outcome has been told: the kernel has it still.
        var isAbandoned = false
        /// A flush that the kernel is done with, see ``FlushLedger``.
        var isHeld = false
        var nextFree: Int32
        /// Of a flush: its number in the disk's ledger.
        var flush: UInt64 = 0
    }

    struct Device {
        var file = RingFile(descriptor: -1)
        /// Of a disk that was opened beside another: the ring keeps the lock, as it does with a
        /// file that has its own, until the last operation has ended.
        var lock = RingFile(descriptor: -1)
        var sizeBytes: UInt64 = 0
        var sectorBytes: UInt32 = 512
        var underWay: UInt32 = 0
        var checkedSizeNs: UInt64 = 0
        var isAttached = false
        var isDetaching = false
        /// It is given nothing any more.
        var isAbandoned = false
        /// A file whose size has to be watched: a write behind its end would silently grow it. Not
        /// one whose size is not known here: asking could take for ever.
        var canShrink = false
        var hasShrunk = false
        var discardMethod = DiscardMethod.none
        var pace = DevicePace()
    }

    /// - Parameters:
    ///   - capacity: operations the kernel may have at once.
    ///   - mailbox: this shard's, where drivers of other shards have the same disks.
    public init(
        ring: Ring, capacity: Int = 4096, mailbox: ShardMailbox? = nil,
        log: @escaping @Sendable (String) -> Void = { _ in }
    ) {
        precondition(capacity > 0 && capacity <= 1 << 20)
        self.mailbox = mailbox
        self.ring = ring
        self.log = log
        self.capacity = capacity
        unsafe slots = .allocate(capacity: capacity)
        let unused = DeviceOperation(
            kind: .flush, device: DeviceIndex(0), token: 0, offsetBytes: 0, lengthBytes: 0,
            bufferOffset: 0)
        for index in 0..<capacity {
            let next = index + 1 < capacity ? Int32(index + 1) : -1
            unsafe (slots + index).initialize(
                to: Slot(
                    operation: unused, doneBytes: 0, attempts: 0, discardMethod: .none,
                    isUnderWay: false, startedNs: 0, nextFree: next))
        }
        unsafe devices = .allocate(capacity: DiskTable.capacity)
        unsafe devices.initialize(repeating: Device(), count: DiskTable.capacity)
        completions.reserveCapacity(capacity)
        backlog.reserveCapacity(capacity)
    }

    deinit {
        unsafe slots.deallocate()
        unsafe devices.deallocate()
    }

    // MARK: - devices

    /// Makes a disk reachable under this index. The index must not be in use here.
    public func attach(_ disk: Disk, as index: DeviceIndex) -> DeviceDescription {
        let at = Int(index.rawValue)
        precondition(at < DiskTable.capacity && disks[at] == nil, "the index is in use")
        disks[at] = disk
        errors[at] = DeviceErrors()
        if ring.engine == .libaio && !disk.isDirect {
            log("\(disk.path): without O_DIRECT libaio's reads and writes block their shard")
        }
        let hasLock = disk.lockedBy === disk.file
        let lock = hasLock ? RingFile(descriptor: -1) : ring.register(disk.lockedBy.descriptor)
        // Not in the ring's table: what that has stays open until the kernel is through with the ring,
        // so after a kill one disk that hangs would keep the locks of all. An operation under way
        // holds its own file, and so its lock, just as well.
        var file = RingFile(descriptor: disk.descriptor)
        file.mayBlock = disk.kind == .regularFile && !disk.hasLocalSize
        unsafe devices[at] = Device(
            file: file, lock: lock, sizeBytes: disk.sizeBytes,
            sectorBytes: disk.sectorBytes, isAttached: true,
            canShrink: disk.hasLocalSize,
            discardMethod: Self.firstDiscardMethod(of: disk))
        return DeviceDescription(
            index: index, sizeBytes: disk.sizeBytes, sectorBytes: disk.sectorBytes,
            supportsDiscard: disk.supportsDiscard)
    }

    /// Takes no more operations for this device (they fail), finishes what is under way and then
    /// names it in ``detached``; its disk is let go of at that moment.
    public func detach(_ index: DeviceIndex) {
        let at = Int(index.rawValue)
        guard at < DiskTable.capacity, disks[at] != nil else { return }
        unsafe devices[at].isAttached = false
        unsafe devices[at].isDetaching = true
        finishDetaching(at)
    }

    /// Whether a disk is here under this index, one that is being detached included.
    public func isAttached(_ index: DeviceIndex) -> Bool {
        let at = Int(index.rawValue)
        return at < DiskTable.capacity && disks[at] != nil
    }

    /// What has gone wrong on a device since it was attached.
    public func errors(of index: DeviceIndex) -> DeviceErrors {
        let at = Int(index.rawValue)
        return at < DiskTable.capacity ? errors[at] : DeviceErrors()
    }

    private static func firstDiscardMethod(of disk: Disk) -> DiscardMethod {
        guard disk.supportsDiscard else { return .none }
        return switch disk.kind {
        case .blockDevice: .blockCommand
        case .regularFile: .punchHole
        }
    }

    private func finishDetaching(_ at: Int) {
        guard unsafe devices[at].isDetaching && devices[at].underWay == 0 else { return }
        unsafe ring.unregister(devices[at].file)
        unsafe ring.unregister(devices[at].lock)
        unsafe devices[at] = Device()
        disks[at] = nil
        detached.append(DeviceIndex(UInt16(at)))
    }

    // MARK: - operations

    /// Starts operations, in this order. What cannot be started completes at once, through
    /// ``completions``. They reach the kernel with the ring's next submission.
    public func submit(_ operations: [DeviceOperation], nowNs: UInt64) {
        for operation in operations { submit(operation, nowNs: nowNs) }
    }

    public func submit(_ operation: DeviceOperation, nowNs: UInt64) {
        // Whoever came first goes first: a flush must not overtake what it is meant to cover.
        guard backlogHead == backlog.count, firstFree >= 0 else {
            backlog.append(operation)
            return
        }
        start(operation, nowNs: nowNs)
    }

    private func start(_ operation: DeviceOperation, nowNs: UInt64) {
        clockNs = nowNs
        let at = Int(operation.device.rawValue)
        if let refusal = refusal(of: operation, at, nowNs: nowNs) {
            complete(operation, refusal)
            return
        }
        let slot = firstFree
        unsafe firstFree = slots[Int(slot)].nextFree
        unsafe slots[Int(slot)] = Slot(
            operation: operation, doneBytes: 0, attempts: 0, discardMethod: .none,
            isUnderWay: true, startedNs: nowNs, nextFree: -1)
        unsafe devices[at].underWay += 1
        underWay += 1
        issue(Int(slot))
    }

    /// Why an operation cannot be started, or nil. In pairs with the checks on its completion.
    private func refusal(
        of operation: DeviceOperation, _ at: Int, nowNs: UInt64
    ) -> DeviceStatus? {
        guard at < DiskTable.capacity, unsafe devices[at].isAttached,
            unsafe !devices[at].isAbandoned
        else { return .ioError }
        let (size, sector) = unsafe (devices[at].sizeBytes, UInt64(devices[at].sectorBytes))
        let (offset, length) = (operation.offsetBytes, operation.lengthBytes)
        switch operation.kind {
        case .flush:
            break
        case .read, .write, .discard:
            guard length > 0, length <= size, offset <= size - length,
                offset % sector == 0, length % sector == 0
            else { return .ioError }
        }
        switch operation.kind {
        case .read:
            return length > UInt64(Self.highestTransferBytes) ? .ioError : nil
        case .write:
            guard length <= UInt64(Self.highestTransferBytes) else { return .ioError }
            return hasShrunk(at, nowNs: nowNs) ? .ioError : nil
        case .flush:
            return unsafe devices[at].hasShrunk ? .ioError : nil
        case .discard:
            if unsafe devices[at].discardMethod == .none { return .unsupported }
            return hasShrunk(at, nowNs: nowNs) ? .ioError : nil
        }
    }

    /// The arena's largest buffer bounds a transfer; this keeps counts in 32 bits.
    private static let highestTransferBytes = 16 << 20

    /// Queues what is left of a slot's operation.
    func issue(_ slot: Int) {
        let operation = unsafe slots[slot].operation
        let done = unsafe slots[slot].doneBytes
        let at = Int(operation.device.rawValue)
        let file = unsafe devices[at].file
        let userData = RingUserData.make(.disk, UInt64(slot))
        switch operation.kind {
        case .read:
            ring.readFixed(
                file, offsetBytes: operation.offsetBytes + UInt64(done),
                arenaOffset: operation.bufferOffset + done,
                lengthBytes: Int(operation.lengthBytes) - done, userData: userData)
        case .write:
            ring.writeFixed(
                file, offsetBytes: operation.offsetBytes + UInt64(done),
                arenaOffset: operation.bufferOffset + done,
                lengthBytes: Int(operation.lengthBytes) - done, userData: userData)
        case .flush:
            unsafe slots[slot].flush = disks[at]?.flushes.begin() ?? 0
            ring.fsync(file, dataOnly: true, userData: userData)
        case .discard:
            let method = unsafe devices[at].discardMethod
            unsafe slots[slot].discardMethod = method
            switch method {
            case .blockCommand:
                ring.discardBlocks(
                    file, offsetBytes: operation.offsetBytes, lengthBytes: operation.lengthBytes,
                    userData: userData)
            case .punchHole:
                // PUNCH_HOLE | KEEP_SIZE.
                ring.fallocate(
                    file, mode: 3, offsetBytes: operation.offsetBytes,
                    lengthBytes: operation.lengthBytes, userData: userData)
            case .none:
                finish(slot, .unsupported)
            }
        }
    }

    /// Frees the slot and tells the outcome.
    func finish(_ slot: Int, _ status: DeviceStatus) {
        let operation = unsafe slots[slot].operation
        unsafe devices[Int(operation.device.rawValue)].pace.note(
            clockNs &- slots[slot].startedNs)
        complete(operation, status)
        free(slot)
    }

    /// The kernel has nothing of it any more.
    func free(_ slot: Int) {
        let at = unsafe Int(slots[slot].operation.device.rawValue)
        unsafe slots[slot].isUnderWay = false
        unsafe slots[slot].nextFree = firstFree
        firstFree = Int32(slot)
        underWay -= 1
        unsafe devices[at].underWay -= 1
        finishDetaching(at)
    }

    func complete(_ operation: DeviceOperation, _ status: DeviceStatus) {
        completions.append(DeviceCompletion(token: operation.token, status: status))
    }

    /// Starts what waited for a slot, as far as there are some now.
    func startBacklog(nowNs: UInt64) {
        guard backlogHead < backlog.count else { return }
        while firstFree >= 0, backlogHead < backlog.count {
            let operation = backlog[backlogHead]
            backlogHead += 1
            start(operation, nowNs: nowNs)
        }
        // A line that never empties must not grow for ever.
        if backlogHead == backlog.count || backlogHead >= capacity {
            backlog.removeFirst(backlogHead)
            backlogHead = 0
        }
    }
}

/// What has gone wrong on one device, by kind of operation.
public struct DeviceErrors: Hashable, Sendable {
    public var reads: UInt64 = 0
    public var writes: UInt64 = 0
    public var flushes: UInt64 = 0
    public var discards: UInt64 = 0
    public init() {}

    mutating func count(_ kind: DeviceOperation.Kind) {
        switch kind {
        case .read: reads += 1
        case .write: writes += 1
        case .flush: flushes += 1
        case .discard: discards += 1
        }
    }

    func of(_ kind: DeviceOperation.Kind) -> UInt64 {
        switch kind {
        case .read: reads
        case .write: writes
        case .flush: flushes
        case .discard: discards
        }
    }
}
