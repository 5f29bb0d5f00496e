/// The bytes of a large device of which little was ever written.
///
/// 1. A page that was never written reads as garbage made from the disk's seed and the address:
///    never zeros, so that trust in fresh media is found.
/// 2. A copy of the value is a snapshot: pages are shared until one side writes.
/// 3. Nothing iterates over the dictionary: its order is not the same in two runs.
struct DiskImage {
    static let pageBytes = 4096

    private var pages: [UInt64: DiskPage] = [:]
    private let seed: UInt64

    init(seed: UInt64) { self.seed = seed }

    /// Pages that differ from garbage.
    var residentPages: Int { pages.count }

    func isResident(page: UInt64) -> Bool { pages[page] != nil }

    func read(_ offset: UInt64, into target: UnsafeMutableRawBufferPointer) {
        var done = 0
        while done < target.count {
            let at = offset + UInt64(done)
            let inPage = Int(at % UInt64(Self.pageBytes))
            let count = min(Self.pageBytes - inPage, target.count - done)
            let slice = unsafe UnsafeMutableRawBufferPointer(rebasing: target[done..<done + count])
            let number = at / UInt64(Self.pageBytes)
            if let page = pages[number] {
                unsafe slice.copyMemory(
                    from: UnsafeRawBufferPointer(rebasing: page.bytes[inPage..<inPage + count]))
            } else if inPage == 0 && count == Self.pageBytes {
                unsafe Self.fillGarbage(slice, seed: seed, page: number)
            } else {
                let page = DiskPage(seed: seed, page: number)
                unsafe slice.copyMemory(
                    from: UnsafeRawBufferPointer(rebasing: page.bytes[inPage..<inPage + count]))
            }
            done += count
        }
    }

    mutating func write(_ offset: UInt64, from source: UnsafeRawBufferPointer) {
        var done = 0
        while done < source.count {
            let at = offset + UInt64(done)
            let inPage = Int(at % UInt64(Self.pageBytes))
            let count = min(Self.pageBytes - inPage, source.count - done)
            let page = uniquePage(at / UInt64(Self.pageBytes))
            unsafe UnsafeMutableRawBufferPointer(rebasing: page.bytes[inPage..<inPage + count])
                .copyMemory(
                    from: UnsafeRawBufferPointer(rebasing: source[done..<done + count]))
            done += count
        }
    }

    /// The whole pages of the range read as garbage again; its edges keep their bytes.
    mutating func forget(_ offset: UInt64, _ length: UInt64) {
        let size = UInt64(Self.pageBytes)
        var page = (offset + size - 1) / size
        let end = (offset + length) / size
        while page < end {
            pages[page] = nil
            page += 1
        }
    }

    private mutating func uniquePage(_ number: UInt64) -> DiskPage {
        guard let found = pages.index(forKey: number) else {
            let page = DiskPage(seed: seed, page: number)
            pages[number] = page
            return page
        }
        if isKnownUniquelyReferenced(&pages.values[found]) { return pages.values[found] }
        let page = DiskPage(copying: pages.values[found])
        pages.values[found] = page
        return page
    }

    static func fillGarbage(
        _ target: UnsafeMutableRawBufferPointer, seed: UInt64, page: UInt64
    ) {
        // Odd words, so that no garbage word is ever zero.
        let base = SplitMix.mix(seed ^ (page &* 0x9e37_79b9_7f4a_7c15)) | 1
        for word in 0..<target.count / 8 {
            unsafe target.storeBytes(
                of: base &+ UInt64(word) << 1, toByteOffset: word * 8, as: UInt64.self)
        }
    }
}

/// One page of an image, written only while it belongs to a single image.
@safe final class DiskPage: @unchecked Sendable {
    let bytes: UnsafeMutableRawBufferPointer

    init(seed: UInt64, page: UInt64) {
        unsafe bytes = .allocate(byteCount: DiskImage.pageBytes, alignment: 8)
        unsafe DiskImage.fillGarbage(bytes, seed: seed, page: page)
    }

    init(copying other: DiskPage) {
        unsafe bytes = .allocate(byteCount: DiskImage.pageBytes, alignment: 8)
        unsafe bytes.copyMemory(from: UnsafeRawBufferPointer(other.bytes))
    }

    deinit { unsafe bytes.deallocate() }
}

/// The bytes of one write, captured when it was submitted.
@safe final class Payload: @unchecked Sendable {
    let bytes: UnsafeRawBufferPointer

    init(copying source: UnsafeMutableRawBufferPointer) {
        let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: source.count, alignment: 8)
        unsafe copy.copyMemory(from: UnsafeRawBufferPointer(source))
        unsafe bytes = UnsafeRawBufferPointer(copy)
    }

    deinit { unsafe bytes.deallocate() }
}
