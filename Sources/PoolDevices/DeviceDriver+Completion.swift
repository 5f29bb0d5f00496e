import Glibc
import PoolEngine

extension DeviceDriver {
    /// For each of the ring's completions whose kind is ``RingUserData/Kind/disk``.
    public func handle(userData: UInt64, result: Int32, nowNs: UInt64) {
        clockNs = nowNs
        let slot = Int(RingUserData.payload(userData))
        precondition(slot < capacity, "a completion of no slot")
        precondition(unsafe slots[slot].isUnderWay, "a completion of a free slot")
        if unsafe slots[slot].isAbandoned {
            abandonedCount -= 1
            free(slot)
            return startBacklog(nowNs: nowNs)
        }
        switch unsafe slots[slot].operation.kind {
        case .read, .write: handleTransfer(slot, result: result, nowNs: nowNs)
        case .flush: handleFlush(slot, result: result)
        case .discard: handleDiscard(slot, result: result)
        }
        startBacklog(nowNs: nowNs)
    }

    private func handleTransfer(_ slot: Int, result: Int32, nowNs: UInt64) {
        let operation = unsafe slots[slot].operation
        let at = Int(operation.device.rawValue)
        let remaining = unsafe Int(operation.lengthBytes) - slots[slot].doneBytes
        let outcome = unsafe OperationOutcome.ofTransfer(
            result: result, remainingBytes: remaining, sectorBytes: Int(devices[at].sectorBytes),
            attempts: slots[slot].attempts)
        switch outcome {
        case .done:
            finish(slot, .ok)
        case .moreAfter(let bytes):
            unsafe slots[slot].doneBytes += bytes
            // Progress was made, so the count of vain attempts starts again.
            unsafe slots[slot].attempts = 0
            reissue(slot, at, nowNs: nowNs)
        case .retry:
            unsafe slots[slot].attempts += 1
            reissue(slot, at, nowNs: nowNs)
        case .endOfFile:
            if let disk = disks[at], disk.kind == .regularFile, !disk.hasLocalSize {
                noteShrunk(at, disk, "it ends before byte \(operation.offsetBytes)")
            } else {
                _ = hasShrunk(at)
            }
            fail(slot, EIO)
        case .failed(let code):
            fail(slot, code)
        }
    }

    /// The rest of a write is a write of its own: the file may have shrunk since.
    private func reissue(_ slot: Int, _ at: Int, nowNs: UInt64) {
        if unsafe slots[slot].operation.kind == .write, hasShrunk(at, nowNs: nowNs) {
            fail(slot, EIO)
        } else {
            issue(slot)
        }
    }

    private func handleFlush(_ slot: Int, result: Int32) {
        let at = unsafe Int(slots[slot].operation.device.rawValue)
        switch OperationOutcome.ofFlush(result: result) {
        case .done:
            // A file cut short under us has lost what this flush was to make durable.
            endFlush(slot, at, hasShrunk(at) ? EIO : 0)
        case .failed(let code):
            endFlush(slot, at, code)
        case .moreAfter, .retry, .endOfFile:
            preconditionFailure("a flush moves nothing and is never asked again")
        }
    }

    private func endFlush(_ slot: Int, _ at: Int, _ code: Int32) {
        let number = unsafe slots[slot].flush
        guard let ledger = disks[at]?.flushes else { return fail(slot, EIO) }
        switch ledger.end(number, hasSucceeded: code == 0, tell: { teller(slot) }) {
        case .succeeded: finish(slot, .ok)
        case .failed: fail(slot, code == 0 ? EIO : code)
        case .held:
            heldFlushes += 1
            unsafe slots[slot].isHeld = true
        }
    }

    /// What ends a flush that is held, whichever shard's thread finds out how.
    private func teller(_ slot: Int) -> @Sendable (_ hasSucceeded: Bool) -> Void {
        // Used on this shard's thread only: there it is called, or brought by the mailbox.
        let holder = Holder(driver: self)
        guard let mailbox else { return { holder.driver.endHeldFlush(slot, $0) } }
        return { hasSucceeded in
            mailbox.post { holder.driver.endHeldFlush(slot, hasSucceeded) }
        }
    }

    private struct Holder: @unchecked Sendable {
        let driver: DeviceDriver
    }

    private func endHeldFlush(_ slot: Int, _ hasSucceeded: Bool) {
        heldFlushes -= 1
        if hasSucceeded { finish(slot, .ok) } else { fail(slot, EIO) }
    }

    private func handleDiscard(_ slot: Int, result: Int32) {
        guard result < 0 else {
            finish(slot, .ok)
            return
        }
        let at = unsafe Int(slots[slot].operation.device.rawValue)
        switch unsafe DiscardMethod.refusal(-result, attempts: slots[slot].attempts) {
        case .method:
            giveUpDiscardMethod(slot, at, -result)
        case .once:
            finish(slot, .unsupported)
        case .retry:
            unsafe slots[slot].attempts += 1
            issue(slot)
        case .failure:
            fail(slot, -result)
        }
    }

    /// Goes to the next method; another discard under way may have gone there already, then this
    /// one just follows, and each method is tried at most once by an operation.
    private func giveUpDiscardMethod(_ slot: Int, _ at: Int, _ code: Int32) {
        let refused = unsafe slots[slot].discardMethod
        if unsafe devices[at].discardMethod == refused {
            unsafe devices[at].discardMethod = refused.next
            if unsafe devices[at].discardMethod == .none, let disk = disks[at] {
                log("\(disk.path): discard refused (\(errnoText(code))), not tried again")
            }
        }
        issue(slot)
    }

    private func fail(_ slot: Int, _ code: Int32) {
        let operation = unsafe slots[slot].operation
        let at = Int(operation.device.rawValue)
        errors[at].count(operation.kind)
        let count = errors[at].of(operation.kind)
        // The 1st, 2nd, 4th, 8th...: a dying disk must not fill the log.
        if count & (count - 1) == 0, let disk = disks[at] {
            log(
                "\(disk.path): \(operation.kind) of \(operation.lengthBytes) bytes at "
                    + "\(operation.offsetBytes) failed: \(errnoText(code)) (\(count) so far)")
        }
        finish(slot, .ioError)
    }

    // MARK: - files that become smaller

    /// How long a write may trust the last look at its file's size. Every flush and every read that
    /// meets the end looks again, so a flush is never good on a file that was cut short.
    private static var sizeCheckIntervalNs: UInt64 { 100_000_000 }

    func hasShrunk(_ at: Int, nowNs: UInt64) -> Bool {
        guard unsafe devices[at].canShrink else { return unsafe devices[at].hasShrunk }
        let age = unsafe nowNs &- devices[at].checkedSizeNs
        guard age >= Self.sizeCheckIntervalNs, unsafe !devices[at].hasShrunk else {
            return unsafe devices[at].hasShrunk
        }
        unsafe devices[at].checkedSizeNs = nowNs
        return hasShrunk(at)
    }

    /// Looks now. Once smaller, always: what was cut off is lost, whatever grows there again.
    func hasShrunk(_ at: Int) -> Bool {
        guard unsafe devices[at].canShrink, unsafe !devices[at].hasShrunk, let disk = disks[at]
        else { return unsafe devices[at].hasShrunk }
        let now = disk.currentSizeBytes() ?? 0
        guard now < disk.sizeBytes else { return false }
        noteShrunk(at, disk, "\(disk.sizeBytes) bytes, now \(now)")
        return true
    }

    private func noteShrunk(_ at: Int, _ disk: Disk, _ how: String) {
        guard unsafe !devices[at].hasShrunk else { return }
        unsafe devices[at].hasShrunk = true
        disk.flushes.fail()
        log(
            "\(disk.path): the file is smaller than when it was opened (\(how)); it takes no more "
                + "writes")
    }
}
