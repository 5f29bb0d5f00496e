import CLinuxAIO
import CLiburing
import Glibc

/// Sends and receives, one system call at a time.
extension LinuxAIO {
    /// The kernel's limit of vectors in a message.
    static var mostVectors: Int { 1024 }

    /// Moves what an entry has still to move.
    ///
    /// - Returns: bytes, 0 at the end of the stream, or a negative errno.
    static func move(
        _ entry: io_uring_sqe, _ doneBytes: Int, _ descriptor: Int32, _ flags: Int32,
        _ scratch: Scratch
    ) -> Int {
        let opcode = opcode(entry)
        let moved: Int
        switch opcode {
        case .send, .receive:
            let start = unsafe UnsafeMutableRawPointer(bitPattern: UInt(entry.addr))! + doneBytes
            let count = Int(entry.len) - doneBytes
            moved =
                unsafe opcode == .send
                ? Glibc.send(descriptor, start, count, flags)
                : Glibc.recv(descriptor, start, count, flags)
        case .sendMessage, .receiveMessage:
            // A copy: a receive writes into it, and the caller's stays as it was.
            var message = unsafe message(of: entry)
            guard unsafe message.msg_iovlen <= mostVectors else { return -Int(EMSGSIZE) }
            if doneBytes > 0 { unsafe skip(doneBytes, in: &message, scratch) }
            moved =
                unsafe opcode == .sendMessage
                ? Glibc.sendmsg(descriptor, &message, flags)
                : Glibc.recvmsg(descriptor, &message, flags)
        case .nop, .pollAdd, .timeout, .accept, .cancel, .fallocate, .close, .shutdown, .command,
            .fsync, .read, .write, .readFixed, .writeFixed:
            preconditionFailure("neither a send nor a receive")
        }
        return moved >= 0 ? moved : -Int(errno)
    }

    static func totalBytes(_ entry: io_uring_sqe) -> Int {
        switch opcode(entry) {
        case .sendMessage, .receiveMessage:
            let message = unsafe message(of: entry)
            var total = 0
            for index in 0..<(unsafe Int(message.msg_iovlen)) {
                unsafe total += message.msg_iov[index].iov_len
            }
            return total
        case .nop, .pollAdd, .timeout, .accept, .cancel, .fallocate, .close, .shutdown, .command,
            .fsync, .read, .write, .readFixed, .writeFixed, .send, .receive:
            return Int(entry.len)
        }
    }

    private static func message(of entry: io_uring_sqe) -> msghdr {
        unsafe UnsafePointer<msghdr>(bitPattern: UInt(entry.addr))!.pointee
    }

    /// Points a message at what is left of its vectors.
    private static func skip(_ doneBytes: Int, in message: inout msghdr, _ scratch: Scratch) {
        var toSkip = doneBytes
        var count = 0
        for index in 0..<(unsafe Int(message.msg_iovlen)) {
            let vector = unsafe message.msg_iov[index]
            let skipped = min(toSkip, unsafe vector.iov_len)
            toSkip -= skipped
            if unsafe skipped == vector.iov_len { continue }
            unsafe scratch.vectors[count] = unsafe iovec(
                iov_base: vector.iov_base + skipped, iov_len: vector.iov_len - skipped)
            count += 1
        }
        unsafe message.msg_iov = scratch.vectors
        unsafe message.msg_iovlen = count
    }

    /// Memory that one system call at a time uses.
    ///
    /// Safe from outside: its sizes are those of the calls it is for, and only they touch it.
    @safe final class Scratch {
        let blocks: UnsafeMutablePointer<UnsafeMutablePointer<iocb>?>
        let events: UnsafeMutablePointer<io_event>
        let changes: UnsafeMutablePointer<epoll_event>
        let vectors: UnsafeMutablePointer<iovec>

        init() {
            unsafe blocks = .allocate(capacity: batchCapacity)
            unsafe blocks.initialize(repeating: nil, count: batchCapacity)
            unsafe events = .allocate(capacity: batchCapacity)
            unsafe events.initialize(repeating: io_event(), count: batchCapacity)
            unsafe changes = .allocate(capacity: batchCapacity)
            unsafe changes.initialize(repeating: epoll_event(), count: batchCapacity)
            unsafe vectors = .allocate(capacity: mostVectors)
            unsafe vectors.initialize(repeating: unsafe iovec(), count: mostVectors)
        }

        deinit {
            unsafe blocks.deallocate()
            unsafe events.deallocate()
            unsafe changes.deallocate()
            unsafe vectors.deallocate()
        }
    }
}
