import Glibc

/// Whole pages of zeroes from the kernel that go back to it: what a connection used is not resident
/// once the connection is over.
@safe struct PageMemory: ~Copyable {
    // Safe: mapped for `byteCount` bytes as long as the value lives.
    let base: UnsafeMutableRawPointer
    let byteCount: Int

    init(byteCount: Int) {
        precondition(byteCount > 0)
        self.byteCount = byteCount
        let memory = unsafe mmap(
            nil, byteCount, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        guard let memory = unsafe memory, unsafe memory != MAP_FAILED else {
            preconditionFailure("no address space for \(byteCount) bytes")
        }
        unsafe base = unsafe memory
    }

    /// Gives the pages back; they read as zeroes from now on.
    func forget() { _ = unsafe madvise(base, byteCount, MADV_DONTNEED) }

    deinit { unsafe munmap(base, byteCount) }
}
