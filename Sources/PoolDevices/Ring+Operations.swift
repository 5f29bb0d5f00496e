import CLiburing
import Glibc

/// What a ring can be asked to do. Every operation completes once (a multishot one each time, with
/// `IORING_CQE_F_MORE` until the last) with its user data.
extension Ring {
    /// Set in a completion's flags while a multishot operation goes on.
    public static var moreCompletions: UInt32 { 1 << 1 }
    /// Set in a receive's flags while the socket has more.
    public static var socketHasMore: UInt32 { 1 << 2 }

    // MARK: disks

    /// Reads `lengthBytes` at `offsetBytes` of the file into the arena.
    public func readFixed(
        _ file: RingFile, offsetBytes: UInt64, arenaOffset: Int, lengthBytes: Int, userData: UInt64
    ) {
        transferFixed(
            hasRegisteredBuffers ? .readFixed : .read, file, offsetBytes, arenaOffset, lengthBytes,
            userData)
    }

    /// Writes `lengthBytes` from the arena at `offsetBytes` of the file.
    public func writeFixed(
        _ file: RingFile, offsetBytes: UInt64, arenaOffset: Int, lengthBytes: Int, userData: UInt64
    ) {
        transferFixed(
            hasRegisteredBuffers ? .writeFixed : .write, file, offsetBytes, arenaOffset,
            lengthBytes, userData)
    }

    private func transferFixed(
        _ opcode: Opcode, _ file: RingFile, _ offsetBytes: UInt64, _ arenaOffset: Int,
        _ lengthBytes: Int, _ userData: UInt64
    ) {
        let bytes = unsafe arena.bytes(arenaOffset, lengthBytes)
        var entry = makeEntry(opcode, file, userData)
        entry.off = offsetBytes
        unsafe entry.addr = Self.address(bytes.baseAddress)
        entry.len = UInt32(lengthBytes)
        push(entry)
    }

    /// Makes the file's completed writes durable; `dataOnly` skips times and the like.
    public func fsync(_ file: RingFile, dataOnly: Bool = true, userData: UInt64) {
        var entry = makeEntry(.fsync, file, userData)
        entry.fsync_flags = dataOnly ? 1 : 0
        push(entry)
    }

    /// fallocate(2) with this mode; the kernel runs it on a worker of its own.
    public func fallocate(
        _ file: RingFile, mode: Int32, offsetBytes: UInt64, lengthBytes: UInt64, userData: UInt64
    ) {
        var entry = makeEntry(.fallocate, file, userData)
        entry.off = offsetBytes
        entry.addr = lengthBytes
        entry.len = UInt32(bitPattern: mode)
        push(entry)
    }

    /// Discards a range of a block device (Linux 6.12, `BLOCK_URING_CMD_DISCARD`); older kernels
    /// answer EOPNOTSUPP or EINVAL.
    public func discardBlocks(
        _ file: RingFile, offsetBytes: UInt64, lengthBytes: UInt64, userData: UInt64
    ) {
        var entry = makeEntry(.command, file, userData)
        // _IO(0x12, 0), from <linux/blkdev.h>, which this liburing does not know.
        entry.cmd_op = 0x1200
        entry.addr = offsetBytes
        entry.addr3 = lengthBytes
        push(entry)
    }

    // MARK: sockets

    /// Accepts connections; each completion's result is a new descriptor, close-on-exec.
    public func accept(_ file: RingFile, multishot: Bool = true, userData: UInt64) {
        var entry = makeEntry(.accept, file, userData)
        entry.accept_flags = UInt32(O_CLOEXEC)
        entry.ioprio = multishot ? 1 : 0
        push(entry)
    }

    /// Receives into memory that stays the operation's until it completes.
    /// - Parameter waitAll: completes only with all of it, the end of the stream or an error.
    public func receive(
        _ file: RingFile, into memory: UnsafeMutableRawPointer, count: Int, waitAll: Bool = false,
        userData: UInt64
    ) {
        precondition(count > 0 && count <= Int(Int32.max))
        var entry = makeEntry(.receive, file, userData)
        unsafe entry.addr = Self.address(memory)
        entry.len = UInt32(count)
        entry.msg_flags = waitAll ? Self.messageWaitAll : 0
        push(entry)
    }

    /// Receives into the message's vectors. The header, the vectors and what they point to stay the
    /// operation's until it completes.
    public func receiveMessage(
        _ file: RingFile, _ message: UnsafeMutablePointer<msghdr>, waitAll: Bool = false,
        userData: UInt64
    ) {
        var entry = makeEntry(.receiveMessage, file, userData)
        unsafe entry.addr = Self.address(UnsafeMutableRawPointer(message))
        entry.len = 1
        entry.msg_flags = waitAll ? Self.messageWaitAll : 0
        push(entry)
    }

    /// Sends from memory that stays the operation's until it completes; never raises SIGPIPE.
    /// - Parameter waitAll: completes only when all of it went out, or with an error.
    public func send(
        _ file: RingFile, _ memory: UnsafeRawPointer, count: Int, waitAll: Bool = true,
        userData: UInt64
    ) {
        precondition(count > 0 && count <= Int(Int32.max))
        var entry = makeEntry(.send, file, userData)
        entry.addr = UInt64(UInt(bitPattern: memory))
        entry.len = UInt32(count)
        entry.msg_flags = Self.messageNoSignal | (waitAll ? Self.messageWaitAll : 0)
        push(entry)
    }

    /// Sends the message's vectors; as ``send(_:_:count:waitAll:userData:)``.
    public func sendMessage(
        _ file: RingFile, _ message: UnsafeMutablePointer<msghdr>, waitAll: Bool = true,
        userData: UInt64
    ) {
        var entry = makeEntry(.sendMessage, file, userData)
        unsafe entry.addr = Self.address(UnsafeMutableRawPointer(message))
        entry.len = 1
        entry.msg_flags = Self.messageNoSignal | (waitAll ? Self.messageWaitAll : 0)
        push(entry)
    }

    /// shutdown(2); `how` is 0 (no more receives), 1 (no more sends) or 2 (both).
    public func shutdown(_ file: RingFile, how: Int32 = 2, userData: UInt64 = 0) {
        var entry = makeEntry(.shutdown, file, userData)
        entry.len = UInt32(bitPattern: how)
        push(entry)
    }

    /// Takes the file out of the table and closes its descriptor. Operations under way keep the
    /// open file alive: cancel or shut down first what would wait for ever.
    public func close(_ file: RingFile, userData: UInt64 = 0) {
        unregister(file)
        push(makeEntry(.close, RingFile(descriptor: file.descriptor), userData))
    }

    // MARK: everything else

    /// Plain read into memory: eventfds, and whatever has no offset (then `offsetBytes` is -1).
    public func read(
        _ file: RingFile, into memory: UnsafeMutableRawPointer, count: Int,
        offsetBytes: UInt64 = .max, userData: UInt64
    ) {
        precondition(count >= 0 && count <= Int(Int32.max))
        var entry = makeEntry(.read, file, userData)
        entry.off = offsetBytes
        unsafe entry.addr = Self.address(memory)
        entry.len = UInt32(count)
        push(entry)
    }

    /// Completes when the file is ready; the result is the events that are.
    /// - Parameter events: `POLLIN` and the like.
    public func poll(
        _ file: RingFile, events: Int16, multishot: Bool = false, userData: UInt64
    ) {
        var entry = makeEntry(.pollAdd, file, userData)
        let mask = UInt32(UInt16(bitPattern: events))
        // The kernel reads the two halves of this word in the other order on big-endian machines.
        entry.poll32_events = UInt32(littleEndian: 1) == 1 ? mask : mask << 16
        entry.len = multishot ? 1 : 0
        push(entry)
    }

    /// Completes with -ETIME after this long.
    public func timeout(afterNs: UInt64, userData: UInt64) {
        unsafe timeouts[nextTimeout] = __kernel_timespec(nanoseconds: afterNs)
        var entry = makeEntry(.timeout, RingFile(descriptor: -1), userData)
        unsafe entry.addr = Self.address(UnsafeMutableRawPointer(timeouts + nextTimeout))
        entry.len = 1
        nextTimeout = (nextTimeout + 1) % timeoutCapacity
        push(entry)
    }

    /// Cancels every operation with this user data; each still completes, with -ECANCELED where the
    /// cancellation came in time. The cancellation itself completes with `userData`.
    public func cancel(_ target: UInt64, userData: UInt64 = 0) {
        var entry = makeEntry(.cancel, RingFile(descriptor: -1), userData)
        entry.addr = target
        entry.cancel_flags = 1
        push(entry)
    }

    /// Completes at once with 0.
    public func nop(userData: UInt64) {
        push(makeEntry(.nop, RingFile(descriptor: -1), userData))
    }
}

// MARK: - queue entries

extension Ring {
    /// The kernel's numbers (enum io_uring_op); entries are filled by hand, so that what the
    /// installed liburing does not know yet is written as everything else is.
    enum Opcode: UInt8 {
        case nop = 0
        case fsync = 3
        case readFixed = 4
        case writeFixed = 5
        case pollAdd = 6
        case sendMessage = 9
        case receiveMessage = 10
        case timeout = 11
        case accept = 13
        case cancel = 14
        case fallocate = 17
        case close = 19
        case read = 22
        case write = 23
        case send = 26
        case receive = 27
        case shutdown = 34
        case command = 46
    }

    private static var fixedFile: UInt8 { 1 << 0 }
    private static var byWorker: UInt8 { 1 << 4 }
    private static var messageWaitAll: UInt32 { 0x100 }
    private static var messageNoSignal: UInt32 { 0x4000 }

    @inline(__always)
    static func address(_ memory: UnsafeMutableRawPointer?) -> UInt64 {
        UInt64(UInt(bitPattern: memory))
    }

    @inline(__always)
    func makeEntry(_ opcode: Opcode, _ file: RingFile, _ userData: UInt64) -> io_uring_sqe {
        var entry = io_uring_sqe()
        entry.opcode = opcode.rawValue
        if file.slot >= 0 {
            entry.flags = Self.fixedFile
            entry.fd = file.slot
        } else {
            entry.fd = file.descriptor
        }
        if file.mayBlock { entry.flags |= Self.byWorker }
        entry.user_data = userData
        return entry
    }
}
