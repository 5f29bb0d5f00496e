import CLinuxAIO
import CLiburing
import Glibc

/// Operations that wait for the other side: sockets, eventfds, polls.
///
///     queued ─► at the end of its file's line ─► first of it ─attempt─► done, completion
///                                                  ▲    │
///                                    event of epoll │    ▼ EAGAIN
///                                               the line is blocked
extension LinuxAIO {
    /// A queue entry that is not over yet.
    struct Waiting {
        var entry: io_uring_sqe
        var file: Int32
        /// Of a send or receive that wants all: moved so far.
        var doneBytes = 0
        var next: Int32 = -1
        var isInUse = true
    }

    /// The lines of a file. Polls wait apart: they keep nobody from anything.
    enum Side {
        case input, output, polls
    }

    private enum Attempt {
        case done(Int32)
        case blocked
        /// It goes on, but others are to have their turn first.
        case unfinished
    }

    func startWaiting(_ item: Queued) {
        guard item.file >= 0 else { return complete(item.entry.user_data, item.file) }
        let index: Int32
        let operation = Waiting(entry: item.entry, file: item.file)
        if let free = freeWaiting.popLast() {
            waiting[Int(free)] = operation
            index = free
        } else {
            waiting.append(operation)
            index = Int32(waiting.count - 1)
        }
        let side = Self.side(of: item.entry)
        append(index, to: item.file, side)
        attempt(item.file, side)
    }

    private static func side(of entry: io_uring_sqe) -> Side {
        switch opcode(entry) {
        case .send, .sendMessage: .output
        case .pollAdd: .polls
        case .accept, .receive, .receiveMessage, .read: .input
        case .nop, .timeout, .cancel, .fallocate, .close, .shutdown, .command, .fsync, .write,
            .readFixed, .writeFixed:
            preconditionFailure("nothing that waits")
        }
    }

    // MARK: - lines

    private func line(_ file: Int32, _ side: Side) -> Line {
        switch side {
        case .input: files[Int(file)].readers
        case .output: files[Int(file)].writers
        case .polls: files[Int(file)].polls
        }
    }

    private func setLine(_ file: Int32, _ side: Side, _ line: Line) {
        switch side {
        case .input: files[Int(file)].readers = line
        case .output: files[Int(file)].writers = line
        case .polls: files[Int(file)].polls = line
        }
    }

    private func append(_ index: Int32, to file: Int32, _ side: Side) {
        var line = line(file, side)
        if line.last >= 0 { waiting[Int(line.last)].next = index } else { line.first = index }
        line.last = index
        setLine(file, side, line)
    }

    private func finish(_ index: Int32, _ side: Side, _ result: Int32) {
        let operation = waiting[Int(index)]
        var line = line(operation.file, side)
        if line.first == index {
            line.first = operation.next
            if line.first < 0 { line.last = -1 }
        } else {
            var before = line.first
            while waiting[Int(before)].next != index { before = waiting[Int(before)].next }
            waiting[Int(before)].next = operation.next
            if line.last == index { line.last = before }
        }
        setLine(operation.file, side, line)
        waiting[Int(index)].isInUse = false
        freeWaiting.append(index)
        complete(operation.entry.user_data, result)
        release(operation.file)
    }

    // MARK: - attempts

    /// What epoll said of a file. One that is no longer held has nobody waiting and no watch.
    func changed(_ file: Int32, events: UInt32) {
        let isFailure = events & Self.failureEvents != 0
        if isFailure || events & Self.inputEvents != 0 {
            files[Int(file)].readers.isBlocked = false
            attempt(file, .input)
        }
        if isFailure || events & Self.outputEvent != 0 {
            files[Int(file)].writers.isBlocked = false
            attempt(file, .output)
        }
        attempt(file, .polls)
        if files[Int(file)].writers.first < 0 && files[Int(file)].polls.first < 0 {
            stopWatchingOutput(file)
        }
    }

    /// Carries out a line's operations until one has to wait; of polls, all.
    private func attempt(_ file: Int32, _ side: Side) {
        let line = line(file, side)
        guard !line.isBlocked else { return }
        var index = line.first
        while index >= 0 {
            // Read first: an operation that is over belongs to the next one, and so does its file.
            let next = waiting[Int(index)].next
            switch attempt(index) {
            case .done(let result):
                finish(index, side, result)
            case .blocked:
                let watched = watch(file, forOutput: waitsForOutput(index, side))
                if watched < 0 {
                    finish(index, side, watched)
                } else if block(file, side) {
                    return
                }
            case .unfinished:
                unfinished.append(file)
                return
            }
            index = next
        }
    }

    private func waitsForOutput(_ index: Int32, _ side: Side) -> Bool {
        switch side {
        case .input: false
        case .output: true
        case .polls: waiting[Int(index)].entry.pollEvents & Int16(POLLOUT) != 0
        }
    }

    /// The first of a line has to wait. Returns whether those behind it have to as well.
    private func block(_ file: Int32, _ side: Side) -> Bool {
        switch side {
        case .input: files[Int(file)].readers.isBlocked = true
        case .output: files[Int(file)].writers.isBlocked = true
        case .polls: return false
        }
        return true
    }

    /// The turn of those whose attempts were cut short.
    func resumeUnfinished() {
        guard !unfinished.isEmpty else { return }
        let files = unfinished
        unfinished = []
        for file in files { attempt(file, .input) }
    }

    private func attempt(_ index: Int32) -> Attempt {
        let operation = waiting[Int(index)]
        let descriptor = files[Int(operation.file)].descriptor
        switch LinuxAIO.opcode(operation.entry) {
        case .send, .sendMessage, .receive, .receiveMessage: return move(index, descriptor)
        case .accept: return accept(operation, descriptor)
        case .pollAdd: return poll(operation, descriptor)
        case .read:
            makeNonBlocking(operation.file)
            let memory = unsafe UnsafeMutableRawPointer(bitPattern: UInt(operation.entry.addr))
            let count = unsafe Glibc.read(descriptor, memory, Int(operation.entry.len))
            return count >= 0 ? .done(Int32(clamping: count)) : outcome(ofError: errno)
        case .nop, .timeout, .cancel, .fallocate, .close, .shutdown, .command, .fsync, .write,
            .readFixed, .writeFixed:
            preconditionFailure("nothing that waits")
        }
    }

    private func outcome(ofError code: Int32) -> Attempt {
        code == EAGAIN ? .blocked : .done(-code)
    }

    /// Sends or receives. One that wants all goes on until it has all, or the stream is over.
    private func move(_ index: Int32, _ descriptor: Int32) -> Attempt {
        let entry = waiting[Int(index)].entry
        let wantsAll = entry.msg_flags & Self.waitAll != 0
        let flags = Int32(bitPattern: entry.msg_flags & ~Self.waitAll) | Self.dontWait
        while true {
            let doneBytes = waiting[Int(index)].doneBytes
            let moved = Self.move(entry, doneBytes, descriptor, flags, scratch)
            if moved > 0 {
                waiting[Int(index)].doneBytes += moved
                let total = doneBytes + moved
                if !wantsAll || Self.totalBytes(entry) <= total {
                    return .done(Int32(clamping: total))
                }
            } else if moved == 0 {
                return .done(Int32(clamping: doneBytes))
            } else if moved == -Int(EAGAIN) {
                return .blocked
            } else if moved != -Int(EINTR) {
                // What went before counts; the error comes again with the next operation.
                return .done(doneBytes > 0 ? Int32(clamping: doneBytes) : Int32(clamping: moved))
            }
        }
    }

    private static var waitAll: UInt32 { 0x100 }
    private static var dontWait: Int32 { 0x40 }

    /// A multishot accept gives one completion for each connection and stays.
    private func accept(_ operation: Waiting, _ descriptor: Int32) -> Attempt {
        makeNonBlocking(operation.file)
        let isMultishot = operation.entry.ioprio & 1 != 0
        for _ in 0..<Self.mostAcceptsAtOnce {
            let accepted = Int32(
                clamping: poold_accept(descriptor, Int32(bitPattern: operation.entry.accept_flags)))
            if accepted == -EINTR { continue }
            guard accepted >= 0 && isMultishot else {
                return accepted >= 0 ? .done(accepted) : outcome(ofError: -accepted)
            }
            complete(operation.entry.user_data, accepted, flags: Ring.moreCompletions)
        }
        return .unfinished
    }

    /// A stream of connections must not keep the others waiting.
    private static var mostAcceptsAtOnce: Int { 64 }

    private func poll(_ operation: Waiting, _ descriptor: Int32) -> Attempt {
        var state = pollfd(fd: descriptor, events: operation.entry.pollEvents, revents: 0)
        var result: Int32
        repeat { result = unsafe Glibc.poll(&state, 1, 0) } while result < 0 && errno == EINTR
        if result < 0 { return .done(-errno) }
        if result == 0 { return .blocked }
        let events = Int32(UInt16(bitPattern: state.revents))
        let isMultishot = operation.entry.len & 1 != 0
        guard isMultishot else { return .done(events) }
        complete(operation.entry.user_data, events, flags: Ring.moreCompletions)
        return .blocked
    }

    /// Accepts and plain reads have no flag for one call that must not wait.
    private func makeNonBlocking(_ file: Int32) {
        guard !files[Int(file)].isNonBlocking else { return }
        files[Int(file)].isNonBlocking = true
        let descriptor = files[Int(file)].descriptor
        _ = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) | O_NONBLOCK)
    }

    // MARK: - cancelling

    /// Ends what waits under this name. What the kernel or a helper has runs to its end.
    ///
    /// - Returns: how many.
    func cancelWaiting(_ target: UInt64) -> Int32 {
        var count: Int32 = 0
        for index in waiting.indices
        where waiting[index].isInUse && waiting[index].entry.user_data == target {
            let doneBytes = waiting[index].doneBytes
            finish(
                Int32(index), Self.side(of: waiting[index].entry),
                doneBytes > 0 ? Int32(clamping: doneBytes) : -ECANCELED)
            count += 1
        }
        for timer in timers where timer.userData == target {
            complete(timer.userData, -ECANCELED)
            count += 1
        }
        timers.removeAll { $0.userData == target }
        return count
    }
}

extension io_uring_sqe {
    /// The mask of a poll, from the order that the kernel reads it in.
    var pollEvents: Int16 {
        let mask = UInt32(littleEndian: 1) == 1 ? poll32_events : poll32_events >> 16
        return Int16(bitPattern: UInt16(truncatingIfNeeded: mask))
    }
}
