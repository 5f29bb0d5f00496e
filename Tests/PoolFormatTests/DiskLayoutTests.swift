import PoolFormat
import Testing

@Suite struct DiskLayoutTests {
    static let sizes: [UInt64] = {
        var random = Seeded(2)
        var sizes: [UInt64] = [1 << 30, (1 << 30) + 1, (1 << 30) + 4095, 1 << 40, 1 << 60]
        for slabs: UInt64 in [4, 125, 126, 127, 252, 253, 31_500, 8_126 * 126] {
            // About where one more slab begins to fit.
            for offset in stride(from: UInt64(0), to: 9 << 20, by: 524_288) {
                sizes.append(slabs << 28 + offset)
                sizes.append(slabs << 28 + offset + 4096)
                sizes.append(slabs << 28 + offset + 4095)
            }
        }
        for _ in 0..<500 {
            let bits = UInt64.random(in: 30..<60, using: &random)
            sizes.append(UInt64.random(in: 1 << bits..<2 << bits, using: &random))
        }
        return sizes
    }()

    @Test func `Areas follow each other within the disk, and one more slab would not fit`() throws {
        for size in Self.sizes {
            let layout = try DiskLayout(diskBytes: size)
            let count = UInt64(layout.slabCount)
            let pages = UInt64(layout.slabTablePages)
            try #require(count >= 3)
            try #require(pages * 126 >= count && (pages - 1) * 126 < count)
            let tableEnd = DiskLayout.slabTableStart + pages * 8192
            try #require(layout.slabsOffset >= tableEnd)
            try #require(layout.slabsOffset < tableEnd + 1 << 20)
            try #require(layout.slabsOffset % (1 << 20) == 0)
            try #require(layout.labelTailOffset % 4096 == 0)
            try #require(layout.labelTailOffset + 4096 <= size)
            try #require(layout.labelTailOffset + 8192 > size)
            let end = layout.slabsOffset + count << 28
            try #require(end <= layout.labelTailOffset)
            // With one slab more either the slabs, or the table they need, reach the tail label.
            let more = (count + 1 + 125) / 126 * 8192 + DiskLayout.slabTableStart
            let moreStart = (more + (1 << 20) - 1) / (1 << 20) * (1 << 20)
            try #require(moreStart + (count + 1) << 28 > layout.labelTailOffset)
            try #require(layout.slabOffset(0) == layout.slabsOffset)
            try #require(layout.slabOffset(layout.slabCount - 1) + 1 << 28 == end)
        }
    }

    @Test func `The fixed areas are where the format says`() throws {
        let layout = try DiskLayout(diskBytes: 1 << 30)
        #expect(layout.slabCount == 3)
        #expect(layout.slabsOffset == 4 << 20)
        #expect(layout.labelTailOffset == 1 << 30 - 4096)
        #expect(DiskLayout.fenceTableOffset(slot: 1) == 128 << 10)
        #expect(DiskLayout.configurationOffset(slot: 1) == 2 << 20)
        #expect(layout.slabTableOffset(page: 0, slot: 1) == 3 << 20 + 4096)
        #expect(layout.pieceOffset(slab: 2, piece: 255) == (4 + 512 + 255) << 20)
    }

    @Test func `Impossible sizes are refused`() {
        for size: UInt64 in [0, 1, 1 << 30 - 1] {
            #expect(throws: FormatError.diskTooSmall(bytes: size)) {
                try DiskLayout(diskBytes: size)
            }
        }
        for size: UInt64 in [1 << 60 + 1, .max] {
            #expect(throws: FormatError.diskTooLarge(bytes: size)) {
                try DiskLayout(diskBytes: size)
            }
        }
    }
}
