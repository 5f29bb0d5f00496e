/// What a connection has received and not yet looked at.
@safe struct Staging: ~Copyable {
    // Safe: `start <= end <= capacity`, and the kernel writes only behind `end`.
    private let base: UnsafeMutablePointer<UInt8>
    private let capacity: Int
    private var start = 0
    private var end = 0

    init(capacity: Int) {
        self.capacity = capacity
        unsafe base = .allocate(capacity: capacity)
        unsafe base.initialize(repeating: 0, count: capacity)
    }

    deinit { unsafe base.deallocate() }

    var count: Int { end - start }

    /// What is there, for reading.
    func withBytes<Result>(_ body: (Span<UInt8>) -> Result) -> Result {
        let buffer = unsafe UnsafeBufferPointer(start: base + start, count: count)
        return unsafe body(buffer.span)
    }

    mutating func consume(_ byteCount: Int) {
        precondition(byteCount >= 0 && byteCount <= count)
        start += byteCount
        if start == end { (start, end) = (0, 0) }
    }

    mutating func removeAll() { (start, end) = (0, 0) }

    /// Copies the first bytes out and consumes them.
    mutating func move(_ byteCount: Int, to target: UnsafeMutableRawBufferPointer) {
        precondition(byteCount <= count && byteCount <= target.count)
        unsafe target.copyMemory(
            from: UnsafeRawBufferPointer(start: base + start, count: byteCount))
        consume(byteCount)
    }

    /// Room for the kernel behind what is there, which moves to the front first.
    @unsafe mutating func room() -> (start: UnsafeMutableRawPointer, count: Int) {
        if start > 0 {
            unsafe base.update(from: base + start, count: count)
            (start, end) = (0, end - start)
        }
        return unsafe (UnsafeMutableRawPointer(base + end), capacity - end)
    }

    mutating func received(_ byteCount: Int) {
        precondition(byteCount >= 0 && byteCount <= capacity - end)
        end += byteCount
    }
}
