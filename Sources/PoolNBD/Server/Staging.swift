/// What a connection has received and not yet looked at.
@safe struct Staging: ~Copyable {
    // Safe: `start <= end <= capacity`, and the kernel writes only behind `end`.
    private let memory: PageMemory
    private let base: UnsafeMutablePointer<UInt8>
    private let capacity: Int
    private var start = 0
    private var end = 0

    init(capacity: Int) {
        self.capacity = capacity
        memory = PageMemory(byteCount: capacity)
        unsafe base = memory.base.bindMemory(to: UInt8.self, capacity: capacity)
    }

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

    /// Empties it, and gives its memory back.
    mutating func forget() {
        (start, end) = (0, 0)
        memory.forget()
    }

    /// Puts bytes behind what is there; the caller knows that they fit.
    mutating func append(_ bytes: [UInt8]) {
        precondition(bytes.count <= capacity - end)
        for (index, byte) in bytes.enumerated() { unsafe base[end + index] = byte }
        end += bytes.count
    }

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
