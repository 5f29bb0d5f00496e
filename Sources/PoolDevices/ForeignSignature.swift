/// Recognises what others keep on a disk, so that nobody's data is overwritten without being asked.
///
/// The magic numbers are those of libblkid's superblock and partition probers and of the formats'
/// own documentation. Several can be there at once: what uses the disk as a whole comes first.
public enum ForeignSignature {
    /// - Parameters:
    ///   - head: the first 128 KiB of the disk, or all of it.
    ///   - tail: the last 128 KiB, or all of it.
    /// - Returns: a name for people ("an ext4 file system"), or nil.
    public static func find(head: [UInt8], tail: [UInt8]) -> String? {
        for magic in headMagics where matches(head, at: magic.offset, magic.bytes) {
            return magic.name
        }
        return findExt(head) ?? findFAT(head) ?? findSwap(head) ?? findAtTail(tail)
            ?? findPartitions(head: head, tail: tail)
    }

    private struct Magic {
        var offset: Int
        var bytes: [UInt8]
        var name: String
        init(_ offset: Int, _ text: String, _ name: String) {
            self.init(offset, Array(text.utf8), name)
        }
        init(_ offset: Int, _ bytes: [UInt8], _ name: String) {
            self.offset = offset
            self.bytes = bytes
            self.name = name
        }
    }

    private static let arrayMagic: [UInt8] = [0xFC, 0x4E, 0x2B, 0xA9]
    private static let bcacheMagic: [UInt8] = [
        0xC6, 0x85, 0x73, 0xF6, 0x4E, 0x1A, 0x45, 0xCA,
        0x82, 0x65, 0xF5, 0x7F, 0x48, 0xBA, 0x6D, 0x81,
    ]
    private static let bcachefsMagic: [UInt8] = [
        0xC6, 0x85, 0x73, 0xF6, 0x66, 0xCE, 0x90, 0xA9,
        0xD9, 0x6A, 0x60, 0xCF, 0x80, 0x3D, 0xF7, 0xEF,
    ]

    private static let headMagics: [Magic] = [
        Magic(0, "LUKS\u{BA}\u{BE}".unicodeScalars.map { UInt8($0.value) }, "a LUKS volume"),
        Magic(0, "LABELONE", "an LVM physical volume"),
        Magic(512, "LABELONE", "an LVM physical volume"),
        Magic(1024, "LABELONE", "an LVM physical volume"),
        Magic(1536, "LABELONE", "an LVM physical volume"),
        Magic(0, arrayMagic, "an md array member"),
        Magic(4096, arrayMagic, "an md array member"),
        Magic(4096 + 24, bcacheMagic, "a bcache device"),
        Magic(4096 + 24, bcachefsMagic, "a bcachefs file system"),
        Magic(0, "bluestore block device", "a Ceph BlueStore device"),
        Magic(0, "dmvdo001", "a VDO volume"),
        Magic(0, "XFSB", "an xfs file system"),
        Magic(0x10040, "_BHRfS_M", "a btrfs file system"),
        Magic(3, "NTFS    ", "an NTFS file system"),
        Magic(3, "EXFAT   ", "an exFAT file system"),
        Magic(3, "ReFS\0\0\0\0", "a ReFS file system"),
        Magic(3, "-FVE-FS-", "a BitLocker volume"),
        Magic(0x400, [0x10, 0x20, 0xF5, 0xF2], "an f2fs file system"),
        Magic(0x400, [0xE2, 0xE1, 0xF5, 0xE0], "an erofs file system"),
        Magic(0x400, "H+", "an HFS+ file system"),
        Magic(0x400, "HX", "an HFS+ file system"),
        Magic(32, "NXSB", "an APFS container"),
        Magic(0, "hsqs", "a squashfs file system"),
        Magic(0x8001, "CD001", "an ISO 9660 file system"),
    ]

    private static func findExt(_ head: [UInt8]) -> String? {
        guard matches(head, at: 0x438, [0x53, 0xEF]), head.count >= 0x468 else { return nil }
        // s_feature_compat bit 2: a journal; s_feature_incompat above 0x3F: what only ext4 has.
        let hasJournal = head[0x45C] & 4 != 0
        let isExt4 = head[0x460] & 0xC0 != 0 || head[0x461] != 0 || head[0x462] != 0
        return isExt4 ? "an ext4 file system" : "an ext\(hasJournal ? 3 : 2) file system"
    }

    private static func findFAT(_ head: [UInt8]) -> String? {
        guard matches(head, at: 510, [0x55, 0xAA]) else { return nil }
        let isFAT =
            matches(head, at: 54, Array("FAT".utf8)) || matches(head, at: 82, Array("FAT32".utf8))
        return isFAT ? "a FAT file system" : nil
    }

    private static func findSwap(_ head: [UInt8]) -> String? {
        // Ten bytes before the end of the first page, of whatever size pages were.
        for pageBytes in [4096, 8192, 16384, 32768, 65536] {
            for text in ["SWAPSPACE2", "SWAP-SPACE", "S1SUSPEND\0", "S2SUSPEND\0"]
            where matches(head, at: pageBytes - 10, Array(text.utf8)) {
                return "a swap area"
            }
        }
        return nil
    }

    private static func findAtTail(_ tail: [UInt8]) -> String? {
        // md 1.0 lies 8 to 12 KiB before the end, md 0.90 in the last 64 KiB-aligned 64 KiB; the
        // disk's size, which would say exactly where, is a multiple of 512 at least.
        var distance = 512
        while distance <= tail.count {
            if distance <= 12 << 10 || distance >= 64 << 10,
                matches(tail, at: tail.count - distance, arrayMagic)
            {
                return "an md array member"
            }
            distance += 512
        }
        let intel = Array("Intel Raid ISM Cfg Sig. ".utf8)
        for sectorBytes in [512, 4096] {
            if matches(tail, at: tail.count - 2 * sectorBytes, intel) {
                return "an Intel RAID member"
            }
            if matches(tail, at: tail.count - sectorBytes, [0xDE, 0x11, 0xDE, 0x11]) {
                return "a DDF RAID member"
            }
        }
        return nil
    }

    private static func findPartitions(head: [UInt8], tail: [UInt8]) -> String? {
        let signature = Array("EFI PART".utf8)
        for sectorBytes in [512, 4096]
        where matches(head, at: sectorBytes, signature)
            || matches(tail, at: tail.count - sectorBytes, signature)
        {
            return "a GPT partition table"
        }
        guard matches(head, at: 510, [0x55, 0xAA]) else { return nil }
        // A boot sector ends the same way: four entries that make sense, one of them in use.
        var used = 0
        for entry in 0..<4 {
            let status = head[446 + entry * 16]
            guard status == 0 || status == 0x80 else { return "a boot sector" }
            if head[446 + entry * 16 + 4] != 0 { used += 1 }
        }
        return used > 0 ? "an MBR partition table" : "a boot sector"
    }

    private static func matches(_ bytes: [UInt8], at offset: Int, _ expected: [UInt8]) -> Bool {
        guard offset >= 0, offset <= bytes.count - expected.count else { return false }
        return bytes[offset..<offset + expected.count].elementsEqual(expected)
    }
}
