import CLiburing
import Glibc

/// What O_DIRECT asks of a file's offsets: statx(2) with STATX_DIOALIGN, Linux 6.1.
struct DirectAlignment: Hashable {
    var memoryBytes: UInt32
    var offsetBytes: UInt32

    /// nil where the kernel or the file system does not say.
    static func of(_ file: OpenFile) -> DirectAlignment? {
        // The C library's structure may be older than these fields, so they are read from where the
        // kernel's ABI has them: 256 bytes, stx_mask first.
        var answer = [UInt32](repeating: 0, count: 64)
        let directAlignmentMask: UInt32 = 0x2000
        guard unsafe poold_statx(file.descriptor, directAlignmentMask, &answer) == 0,
            answer[0] & directAlignmentMask != 0
        else { return nil }
        let (memoryBytes, offsetBytes) = (answer[0x98 / 4], answer[0x9C / 4])
        // Zero: this file does not support O_DIRECT.
        guard offsetBytes != 0 else { return nil }
        return DirectAlignment(memoryBytes: memoryBytes, offsetBytes: offsetBytes)
    }
}
