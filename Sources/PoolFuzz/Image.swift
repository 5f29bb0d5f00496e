import PoolFormat

/// Memory for one structure, exactly as large as it: a sanitizer sees every byte read beyond.
@safe
final class Image {
    // Safe: allocated here, freed in deinit, and every user holds the object meanwhile.
    let bytes: UnsafeMutableRawBufferPointer

    init(_ count: Int) {
        unsafe bytes = .allocate(byteCount: count, alignment: 16)
        unsafe bytes.initializeMemory(as: UInt8.self, repeating: 0)
    }

    convenience init(_ content: [UInt8]) {
        self.init(content.count)
        unsafe bytes.copyBytes(from: content)
    }

    deinit { unsafe bytes.deallocate() }

    var readOnly: UnsafeRawBufferPointer { unsafe UnsafeRawBufferPointer(bytes) }
    var content: [UInt8] { unsafe Array(bytes) }
    /// Of an image of at least 4 KiB.
    var page: PageImage { unsafe PageImage(bytes) }
    var count: Int { unsafe bytes.count }

    @unsafe
    func prefix(_ count: Int) -> UnsafeMutableRawBufferPointer {
        unsafe UnsafeMutableRawBufferPointer(rebasing: bytes[..<count])
    }

    /// Writes as many of the bytes as fit.
    func overlay(_ content: [UInt8], at offset: Int) {
        let fitting = min(content.count, max(0, count - offset))
        guard fitting > 0 else { return }
        unsafe UnsafeMutableRawBufferPointer(rebasing: bytes[offset..<offset + fitting])
            .copyBytes(from: content.prefix(fitting))
    }

    func clear(_ offset: Int, _ count: Int) {
        let range = offset..<min(offset + count, self.count)
        unsafe UnsafeMutableRawBufferPointer(rebasing: bytes[range])
            .initializeMemory(as: UInt8.self, repeating: 0)
    }

    /// Makes the checksum right, whatever the rest says: what is behind it is what matters.
    func repair() {
        guard count >= PageHeader.bytes else { return }
        let claimed = UInt32(
            littleEndian: unsafe bytes.loadUnaligned(fromByteOffset: 12, as: UInt32.self))
        guard claimed >= PageHeader.bytes, claimed <= count else { return }
        let covered = unsafe UnsafeRawBufferPointer(rebasing: bytes[8..<Int(claimed)])
        let checksum = unsafe Checksum.crc32c(covered)
        unsafe bytes.storeBytes(of: checksum.littleEndian, toByteOffset: 4, as: UInt32.self)
    }
}

extension InputReader {
    /// The rest of the input as an image of a structure, in one of four ways:
    ///
    ///     how % 4   0 raw      the bytes as they are, and no more; `padded` fills up with zeros
    ///               1 sealed   the bytes over zeros, the checksum repaired
    ///               2 body     the bytes behind a valid head, zeros behind them, repaired
    ///               3 patched  a valid image with (offset 2, byte 1) changed, repaired
    ///
    /// - Parameter specimen: a valid image. An image has its size.
    mutating func image(how: UInt8, specimen: [UInt8], padded: Bool = false) -> Image {
        let image: Image
        switch how % 4 {
        case 0:
            guard padded else { return Image(rest()) }
            image = Image(specimen.count)
            image.overlay(rest(), at: 0)
            return image
        case 1:
            image = Image(specimen.count)
            image.overlay(rest(), at: 0)
        case 2:
            image = Image(specimen.count)
            image.overlay(Array(specimen.prefix(PageHeader.bytes)), at: 0)
            image.overlay(rest(), at: PageHeader.bytes)
        default:
            image = Image(specimen)
            while remainingBytes >= 3 {
                let offset = Int(u16())
                image.overlay([u8()], at: offset)
            }
        }
        image.repair()
        return image
    }
}
