import Glibc
import Testing

@testable import PoolDevices

@Suite struct ForeignSignatureTests {
    static func disk(_ changes: [(Int, [UInt8])]) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: 128 << 10)
        for (offset, value) in changes {
            bytes.replaceSubrange(offset..<offset + value.count, with: value)
        }
        return bytes
    }

    static let bootSignature: (Int, [UInt8]) = (510, [0x55, 0xAA])

    @Test func anEmptyDiskIsNobodys() {
        let empty = Self.disk([])
        #expect(ForeignSignature.find(head: empty, tail: empty) == nil)
        #expect(ForeignSignature.find(head: [], tail: []) == nil)
        // No size of disk makes it read past the end.
        for count in [1, 8, 511, 512, 1024, 4096, 65_536] {
            let ones = [UInt8](repeating: 0xFF, count: count)
            #expect(ForeignSignature.find(head: ones, tail: ones) == nil)
        }
        let boot = Array(Self.disk([Self.bootSignature])[..<512])
        #expect(ForeignSignature.find(head: boot, tail: boot) == "a boot sector")
    }

    @Test(arguments: [
        ([(0, Array("XFSB".utf8))], "an xfs file system"),
        ([(0x10040, Array("_BHRfS_M".utf8))], "a btrfs file system"),
        ([(0, [0x4C, 0x55, 0x4B, 0x53, 0xBA, 0xBE])], "a LUKS volume"),
        ([(512, Array("LABELONE".utf8))], "an LVM physical volume"),
        ([(3, Array("NTFS    ".utf8)), bootSignature], "an NTFS file system"),
        ([(82, Array("FAT32   ".utf8)), bootSignature], "a FAT file system"),
        ([(54, Array("FAT16   ".utf8)), bootSignature], "a FAT file system"),
        ([(4086, Array("SWAPSPACE2".utf8))], "a swap area"),
        ([(4096, [0xFC, 0x4E, 0x2B, 0xA9])], "an md array member"),
        ([(0x438, [0x53, 0xEF])], "an ext2 file system"),
        ([(0x438, [0x53, 0xEF]), (0x45C, [4])], "an ext3 file system"),
        ([(0x438, [0x53, 0xEF]), (0x45C, [4]), (0x460, [0x40])], "an ext4 file system"),
        ([(512, Array("EFI PART".utf8)), bootSignature, (450, [0xEE])], "a GPT partition table"),
        ([(4096, Array("EFI PART".utf8))], "a GPT partition table"),
        ([(450, [0x83]), bootSignature], "an MBR partition table"),
    ] as [([(Int, [UInt8])], String)])
    func atTheHead(changes: [(Int, [UInt8])], expected: String) {
        let empty = Self.disk([])
        #expect(ForeignSignature.find(head: Self.disk(changes), tail: empty) == expected)
    }

    @Test(arguments: [
        (8192, [0xFC, 0x4E, 0x2B, 0xA9], "an md array member"),
        (65_536, [0xFC, 0x4E, 0x2B, 0xA9], "an md array member"),
        (1024, Array("Intel Raid ISM Cfg Sig. ".utf8), "an Intel RAID member"),
        (512, Array("EFI PART".utf8), "a GPT partition table"),
    ] as [(Int, [UInt8], String)])
    func atTheTail(fromEnd: Int, bytes: [UInt8], expected: String) {
        let tail = Self.disk([((128 << 10) - fromEnd, bytes)])
        #expect(ForeignSignature.find(head: Self.disk([]), tail: tail) == expected)
    }

    /// The real tools' own work, of those that are installed.
    static let tools: [(program: String, command: String, expected: String)] = [
        ("mkfs.ext4", "mkfs.ext4 -q", "an ext4 file system"),
        ("mkfs.ext2", "mkfs.ext2 -q", "an ext2 file system"),
        ("mkfs.ext3", "mkfs.ext3 -q", "an ext3 file system"),
        ("mkswap", "mkswap", "a swap area"),
        ("mkfs.xfs", "mkfs.xfs -q", "an xfs file system"),
        ("mkfs.btrfs", "mkfs.btrfs -q", "a btrfs file system"),
        ("mkfs.vfat", "mkfs.vfat", "a FAT file system"),
        ("mkfs.ntfs", "mkfs.ntfs -q -F", "an NTFS file system"),
        ("sfdisk", "printf 'label: gpt\\n,,\\n' | sfdisk -q", "a GPT partition table"),
        ("sfdisk", "printf 'label: dos\\n,,\\n' | sfdisk -q", "an MBR partition table"),
    ].filter { hasProgram($0.0) }

    @Test(arguments: tools)
    func ofRealTools(tool: (program: String, command: String, expected: String)) throws {
        let directory = TemporaryDirectory(in: "/tmp")
        let path = "\(directory.path)/disk"
        try Disk.createSparseFile(path: path, bytes: 400 << 20)
        #expect(try DiskProbe(path: path).foreignSignature == nil)
        #expect(run("/bin/sh", ["-c", "\(tool.command) '\(path)' >/dev/null 2>&1"]) == 0)
        #expect(try DiskProbe(path: path).foreignSignature == tool.expected)
    }
}
