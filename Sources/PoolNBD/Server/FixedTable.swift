/// A fixed number of records in memory that never moves, so that the kernel may look into it and
/// touching a record costs no more than a bounds check.
@safe struct FixedTable<Element>: ~Copyable {
    // Safe: allocated for `count` elements, all initialised, freed only with the table.
    private let base: UnsafeMutablePointer<Element>
    let count: Int

    init(count: Int, repeating element: Element) {
        precondition(count > 0)
        self.count = count
        unsafe base = .allocate(capacity: count)
        unsafe base.initialize(repeating: element, count: count)
    }

    deinit {
        unsafe base.deinitialize(count: count)
        unsafe base.deallocate()
    }

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
