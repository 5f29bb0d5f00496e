import CLinuxAIO
import CLiburing
import Glibc

/// Reads, writes and flushes: Linux AIO. And what it does not have: helper threads.
extension LinuxAIO {
    private enum Command: UInt16 {
        case read = 0
        case write = 1
        case sync = 2
        case dataSync = 3
    }

    /// Most transfers given to the kernel, or taken from it, in one call.
    static var batchCapacity: Int { 256 }

    func queueTransfer(_ item: Queued) {
        let entry = item.entry
        var block = iocb()
        block.aio_data = entry.user_data
        block.aio_fildes = UInt32(bitPattern: descriptor(of: item))
        block.aio_flags = 1  // IOCB_FLAG_RESFD
        block.aio_resfd = UInt32(bitPattern: bell.descriptor)
        let command: Command
        switch LinuxAIO.opcode(entry) {
        case .fsync: command = entry.fsync_flags & 1 != 0 ? .dataSync : .sync
        case .write, .writeFixed: command = .write
        case .read, .readFixed: command = .read
        case .nop, .pollAdd, .sendMessage, .receiveMessage, .timeout, .accept, .cancel, .fallocate,
            .close, .send, .receive, .shutdown, .command:
            preconditionFailure("not a transfer")
        }
        block.aio_lio_opcode = command.rawValue
        switch command {
        case .read, .write:
            block.aio_buf = entry.addr
            block.aio_nbytes = UInt64(entry.len)
            block.aio_offset = Int64(bitPattern: entry.off)
        case .sync, .dataSync: break
        }
        transfers.append(block)
        transferFiles.append(item.file)
    }

    /// Gives transfers to the kernel. What it has no room for waits until something completes.
    func submitTransfers() {
        while transfersHead < transfers.count {
            let count = min(transfers.count - transfersHead, Self.batchCapacity)
            let taken = unsafe transfers.withUnsafeMutableBufferPointer { blocks in
                for index in 0..<count {
                    unsafe scratch.blocks[index] = blocks.baseAddress! + transfersHead + index
                }
                return unsafe poold_io_submit(context, count, scratch.blocks)
            }
            switch taken {
            case 1...:
                for _ in 0..<taken { tookTransfer() }
                transfersUnderWay += taken
            case -Int(EINTR): continue
            case 0, -Int(EAGAIN), -Int(ENOMEM):
                transfersAreStuck = transfersUnderWay == 0
                return dropTaken()
            default:
                // The error is the first one's; those behind it have not been looked at.
                refuseTransfer(Int32(clamping: taken))
            }
        }
        transfersAreStuck = false
        dropTaken()
    }

    /// Whether the kernel has everything that was queued.
    var isQueueEmpty: Bool { queued.isEmpty && transfersHead == transfers.count }

    private func dropTaken() {
        transfers.removeFirst(transfersHead)
        transferFiles.removeFirst(transfersHead)
        transfersHead = 0
    }

    /// The kernel holds the file now.
    private func tookTransfer() {
        release(transferFiles[transfersHead])
        transfersHead += 1
    }

    private func refuseTransfer(_ result: Int32) {
        let block = transfers[transfersHead]
        let file = transferFiles[transfersHead]
        transfersHead += 1
        switch Command(rawValue: block.aio_lio_opcode) {
        case .sync, .dataSync:
            guard result == -EINVAL else { break }
            // Linux before 4.18. It is refused before anything is flushed, so nothing is lost.
            if !hasLoggedBlockingFlush {
                log("libaio: flushes refused (\(errnoText(-result))), using helper threads")
                hasLoggedBlockingFlush = true
            }
            callBlocking(
                .flush(dataOnly: block.aio_lio_opcode == Command.dataSync.rawValue), file,
                Int32(bitPattern: block.aio_fildes), block.aio_data)
            return
        case .read, .write, nil: break
        }
        complete(block.aio_data, result)
        release(file)
    }

    /// Takes what has completed. No system call where nothing has.
    func reapTransfers() {
        while transfersUnderWay > 0 && poold_aio_may_have_events(context) != 0 {
            let count = unsafe poold_io_getevents(context, Self.batchCapacity, scratch.events)
            guard count > 0 else {
                precondition(count == 0 || count == -Int(EINTR), "io_getevents failed: \(count)")
                return
            }
            for index in 0..<count {
                let event = unsafe scratch.events[index]
                complete(event.data, Int32(clamping: event.res))
            }
            transfersUnderWay -= count
        }
    }

    // MARK: - calls that block

    func startBlockingCall(_ item: Queued) {
        let entry = item.entry
        let call: BlockingCall
        switch LinuxAIO.opcode(entry) {
        case .fallocate:
            call = .allocate(
                mode: Int32(bitPattern: entry.len), offsetBytes: entry.off, lengthBytes: entry.addr)
        case .command:
            call = .discard(offsetBytes: entry.addr, lengthBytes: entry.addr3)
        case .nop, .pollAdd, .sendMessage, .receiveMessage, .timeout, .accept, .cancel, .close,
            .send, .receive, .shutdown, .fsync, .read, .write, .readFixed, .writeFixed:
            preconditionFailure("not a call that blocks")
        }
        callBlocking(call, item.file, descriptor(of: item), entry.user_data)
    }

    private func callBlocking(
        _ call: BlockingCall, _ file: Int32, _ descriptor: Int32, _ userData: UInt64
    ) {
        let job = HelperThreads.Job(
            call: call, descriptor: descriptor, file: file, userData: userData)
        // With no thread at all it is better late than never.
        if !helpers.post(job) { finishBlockingCall(job, call.run(descriptor)) }
    }

    func reapBlockingCalls() {
        for (job, result) in helpers.takeResults() { finishBlockingCall(job, result) }
    }

    private func finishBlockingCall(_ job: HelperThreads.Job, _ result: Int32) {
        complete(job.userData, result)
        release(job.file)
    }
}
