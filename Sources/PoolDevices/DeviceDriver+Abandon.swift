import PoolEngine

/// Devices that do not answer.
///
/// An operation that the kernel has cannot be taken back: a disk that hangs keeps it for as long as
/// it hangs, and with it the pages it reads into or writes from. Giving the device up ends all of
/// them here, with errors, and leaves the pages to the kernel: the arena gets other memory in their
/// place. So whoever had asked can go on at once, and what lands later lands nowhere.
extension DeviceDriver {
    /// Devices with an operation that began this long ago and has not ended, those included that were
    /// given up before. Cost: a look at each slot; for once in a while.
    public func stalled(nowNs: UInt64, afterNs: UInt64) -> [DeviceIndex] {
        var found: [DeviceIndex] = []
        for slot in 0..<capacity where isWaiting(slot) {
            guard unsafe nowNs &- slots[slot].startedNs >= afterNs else { continue }
            let device = unsafe slots[slot].operation.device
            if !found.contains(device) { found.append(device) }
        }
        return found
    }

    /// Whether the kernel has something of a device that was given up: until it has not, what that
    /// writes may still land.
    public func isStuck(_ index: DeviceIndex) -> Bool {
        let at = Int(index.rawValue)
        return unsafe at < DiskTable.capacity && devices[at].isAbandoned && devices[at].underWay > 0
    }

    public var hasStuckWorkers: Bool { stuckWorkers > 0 }

    /// Lets the kernel work for other disks, however many of its workers wait for one that hangs.
    public func makeWayAround(lateAfterNs: UInt64, nowNs: UInt64) {
        var late = 0
        for slot in 0..<capacity {
            let (isUnderWay, isHeld, startedNs) = unsafe (
                slots[slot].isUnderWay, slots[slot].isHeld, slots[slot].startedNs
            )
            if isUnderWay, !isHeld, nowNs &- startedNs >= lateAfterNs { late += 1 }
        }
        guard late != stuckWorkers else { return }
        stuckWorkers = late
        ring.noteStuckWorkers(late)
    }

    /// Gives a device up: what it has under way fails now, and so does everything that comes. Until
    /// the kernel has let go of it, and it is opened anew, the device stays attached.
    ///
    /// What cannot be left to the kernel yet, ``giveUpTheRest(nowNs:)`` does.
    public func abandon(_ index: DeviceIndex, nowNs: UInt64) {
        let at = Int(index.rawValue)
        guard at < DiskTable.capacity, let disk = disks[at] else { return }
        unsafe devices[at].isAbandoned = true
        disk.flushes.fail()
        giveUp(at, disk, nowNs: nowNs)
    }

    /// Goes on with devices that were given up: to be called now and then.
    public func giveUpTheRest(nowNs: UInt64) {
        for at in 0..<DiskTable.capacity
        where unsafe devices[at].isAbandoned && devices[at].underWay > 0 {
            if let disk = disks[at] { giveUp(at, disk, nowNs: nowNs) }
        }
    }

    private func giveUp(_ at: Int, _ disk: Disk, nowNs: UInt64) {
        // What the kernel has not seen yet would use the new memory, and so would what waits there
        // for a worker: by then it has found one.
        guard canLetGo(disk), ring.submitAll() else { return }
        let youngest = unsafe devices[at].file.mayBlock ? Self.workerPatienceNs : 0
        let given = (0..<capacity).filter {
            unsafe isWaiting($0) && Int(slots[$0].operation.device.rawValue) == at
                && nowNs &- slots[$0].startedNs >= youngest && leaveMemory($0)
        }
        guard !given.isEmpty else { return }
        ring.noteNewMemory()
        for slot in given { giveUp(slot, at, disk) }
        log("\(disk.path): it does not answer; \(given.count) operations are given up")
    }

    private static var workerPatienceNs: UInt64 { 1_000_000_000 }

    private func giveUp(_ slot: Int, _ at: Int, _ disk: Disk) {
        let operation = unsafe slots[slot].operation
        unsafe slots[slot].isAbandoned = true
        abandonedCount += 1
        errors[at].count(operation.kind)
        if operation.kind == .flush {
            _ = unsafe disk.flushes.end(slots[slot].flush, hasSucceeded: false) { { _ in } }
        }
        complete(operation, .ioError)
    }

    /// The kernel has it, and nobody has been told of an outcome.
    private func isWaiting(_ slot: Int) -> Bool {
        unsafe slots[slot].isUnderWay && !slots[slot].isAbandoned && !slots[slot].isHeld
    }

    /// Memory that is neither registered nor pinned by a direct transfer is used by its address, at
    /// whatever time.
    private func canLetGo(_ disk: Disk) -> Bool { ring.hasRegisteredBuffers || disk.isDirect }

    /// Leaves a transfer's memory to the kernel. False: there is none to take its place.
    private func leaveMemory(_ slot: Int) -> Bool {
        let operation = unsafe slots[slot].operation
        return switch operation.kind {
        case .read, .write:
            ring.arena.replaceMemory(operation.bufferOffset, Int(operation.lengthBytes))
        case .flush, .discard: true
        }
    }
}
