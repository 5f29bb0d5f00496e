/// What a handshake has to say, where the kernel can send it from.
@safe struct HandshakeOutput: ~Copyable {
    // Safe: `sentBytes <= count`, allocated for `count` bytes, replaced only when all is sent.
    private var base: UnsafeMutablePointer<UInt8>?
    private var count = 0
    private var sentBytes = 0

    var isEmpty: Bool { sentBytes == count }

    mutating func load(_ bytes: [UInt8]) {
        precondition(isEmpty)
        unsafe base?.deallocate()
        unsafe base = nil
        count = bytes.count
        sentBytes = 0
        guard !bytes.isEmpty else { return }
        let memory = UnsafeMutablePointer<UInt8>.allocate(capacity: bytes.count)
        for index in bytes.indices { unsafe (memory + index).initialize(to: bytes[index]) }
        unsafe base = memory
    }

    mutating func sent(_ byteCount: Int) {
        precondition(byteCount >= 0 && byteCount <= count - sentBytes)
        sentBytes += byteCount
    }

    mutating func removeAll() {
        sentBytes = count
        load([])
    }

    /// The bytes still to send; nil when there are none.
    @unsafe var rest: (start: UnsafeMutableRawPointer, count: Int)? {
        guard let base = unsafe base, !isEmpty else { return nil }
        return unsafe (UnsafeMutableRawPointer(base + sentBytes), count - sentBytes)
    }

    deinit { unsafe base?.deallocate() }
}
