import CLinuxAIO
import CLiburing
import Glibc

/// The files that operations use.
extension LinuxAIO {
    /// One open file: an entry of the table, or what a single operation holds.
    ///
    /// Held by a duplicate of the caller's descriptor, as an io_uring holds the open file.
    struct Hold {
        var descriptor: Int32 = -1
        /// Operations queued, waiting, or at a helper; a transfer until the kernel has taken it.
        var users: Int32 = 0
        var isInTable = false
        var ownsDescriptor = false
        var isNonBlocking = false
        /// What epoll watches it for; 0: nothing yet.
        var watchedEvents: UInt32 = 0
        var readers = Line()
        var writers = Line()
        var polls = Line()
    }

    /// Operations of one kind on one file, first come first served.
    struct Line {
        var first: Int32 = -1
        var last: Int32 = -1
        /// The last attempt found nothing, and nothing has changed since.
        var isBlocked = false
    }

    func register(_ descriptor: Int32) -> RingFile {
        guard options.allowsRegisteredFiles, registeredCount < options.fileTableSize else {
            return RingFile(descriptor: descriptor)
        }
        let file = makeHold(descriptor)
        guard file >= 0 else { return RingFile(descriptor: descriptor) }
        files[Int(file)].isInTable = true
        registeredCount += 1
        return RingFile(descriptor: descriptor, slot: file)
    }

    func unregister(_ file: RingFile) {
        precondition(files[Int(file.slot)].isInTable, "a file that is not in the table")
        files[Int(file.slot)].isInTable = false
        registeredCount -= 1
        releaseIfUnused(file.slot)
    }

    /// The file of an entry that is being queued, or the negative errno of one that cannot be held.
    func hold(_ entry: io_uring_sqe) -> Int32 {
        let file: Int32
        if entry.usesTable {
            file = entry.fd
        } else {
            file = makeHold(entry.fd)
            guard file >= 0 else { return file }
        }
        files[Int(file)].users += 1
        return file
    }

    /// An operation is over.
    func release(_ file: Int32) {
        guard file >= 0 else { return }
        files[Int(file)].users -= 1
        precondition(files[Int(file)].users >= 0)
        releaseIfUnused(file)
    }

    func descriptor(of item: Queued) -> Int32 {
        item.file >= 0 ? files[Int(item.file)].descriptor : item.entry.fd
    }

    private func makeHold(_ descriptor: Int32) -> Int32 {
        let own = fcntl(descriptor, F_DUPFD_CLOEXEC, 0)
        guard own >= 0 else { return -errno }
        var file = Hold()
        file.descriptor = own
        file.ownsDescriptor = true
        if let index = freeFiles.popLast() {
            files[Int(index)] = file
            return index
        }
        files.append(file)
        return Int32(files.count - 1)
    }

    private func releaseIfUnused(_ index: Int32) {
        let file = files[Int(index)]
        guard !file.isInTable && file.users == 0 else { return }
        if file.watchedEvents != 0 {
            // By name: closing our descriptor ends the watch only where it was the file's last.
            _ = Self.control(epoll, EPOLL_CTL_DEL, file.descriptor, 0, mark: 0)
        }
        _ = Glibc.close(file.descriptor)
        files[Int(index)] = Hold()
        freeFiles.append(index)
    }

    // MARK: - epoll

    /// EPOLLET | EPOLLIN | EPOLLPRI | EPOLLRDHUP.
    static var inputEvents: UInt32 { 1 << 31 | 0x001 | 0x002 | 0x2000 }
    static var outputEvent: UInt32 { 0x004 }
    /// EPOLLERR | EPOLLHUP: they come unasked.
    static var failureEvents: UInt32 { 0x008 | 0x010 }

    /// Watches a file for input, and for output where somebody waits for it: a watch for output
    /// wakes at every byte the peer takes.
    ///
    /// - Returns: 0, or a negative errno.
    func watch(_ index: Int32, forOutput: Bool) -> Int32 {
        let watched = files[Int(index)].watchedEvents
        let wanted = Self.inputEvents | (forOutput ? Self.outputEvent : watched & Self.outputEvent)
        guard wanted != watched else { return 0 }
        return setWatch(index, wanted)
    }

    func stopWatchingOutput(_ index: Int32) {
        guard files[Int(index)].watchedEvents & Self.outputEvent != 0 else { return }
        _ = setWatch(index, Self.inputEvents)
        files[Int(index)].writers.isBlocked = false
    }

    private func setWatch(_ index: Int32, _ wanted: UInt32) -> Int32 {
        let file = files[Int(index)]
        let operation = file.watchedEvents == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD
        let result = Self.control(
            epoll, operation, file.descriptor, wanted, mark: UInt64(index))
        if result == 0 { files[Int(index)].watchedEvents = wanted }
        return result
    }

    /// epoll_ctl(2). Returns 0, or a negative errno.
    static func control(
        _ epoll: OpenFile, _ operation: Int32, _ descriptor: Int32, _ events: UInt32, mark: UInt64
    ) -> Int32 {
        var event = unsafe epoll_event(events: events, data: epoll_data_t(u64: mark))
        return unsafe epoll_ctl(epoll.descriptor, operation, descriptor, &event) == 0 ? 0 : -errno
    }
}
