/// A fixed number of records in memory that never moves, so that the kernel may look into it and
/// touching a record costs no more than a bounds check.
///
/// Records are plain data: nothing is retained by them, and zeroes are a valid record.
@safe struct FixedTable<Element>: ~Copyable {
    // Safe: room for `count` elements, plain data, zeroes at first.
    private let memory: PageMemory
    private let base: UnsafeMutablePointer<Element>
    let count: Int

    init(count: Int) {
        precondition(count > 0)
        self.count = count
        memory = PageMemory(byteCount: count * MemoryLayout<Element>.stride)
        unsafe base = memory.base.bindMemory(to: Element.self, capacity: count)
    }

    init(count: Int, repeating element: Element) {
        self.init(count: count)
        for index in 0..<count { unsafe (base + index).initialize(to: element) }
    }

    /// Gives the memory back: every record is zeroes again.
    func forget() { memory.forget() }

    subscript(index: Int) -> Element {
        @inline(__always) _read {
            precondition(index >= 0 && index < count)
            yield unsafe base[index]
        }
        @inline(__always) nonmutating _modify {
            precondition(index >= 0 && index < count)
            yield unsafe &base[index]
        }
    }

    /// Where a record lies, for the kernel. Valid as long as the table.
    @unsafe func pointer(_ index: Int) -> UnsafeMutablePointer<Element> {
        precondition(index >= 0 && index < count)
        return unsafe base + index
    }
}
