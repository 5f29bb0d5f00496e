import Glibc

/// Why a disk could not be opened or used. One case per place that throws.
public enum DiskError: Error, Sendable, Hashable, CustomStringConvertible {
    case cannotOpen(path: String, errno: Int32)
    /// Neither a block device nor a regular file.
    case notADisk(path: String)
    /// Another process holds it: another daemon, a mounted file system, an array.
    case inUse(path: String)
    case lockRefused(path: String, errno: Int32)
    case sizeUnknown(path: String, errno: Int32)
    /// The logical sector, or what O_DIRECT asks for, is neither 512 nor 4096 bytes.
    case unsupportedSector(path: String, bytes: UInt32)
    case cannotCreate(path: String, errno: Int32)
    /// Larger than a file can be.
    case sizeTooLarge(path: String, bytes: UInt64)
    case readFailed(path: String, errno: Int32)
    case endOfDisk(path: String)
    /// A call has not returned for so long, or one made before has not returned yet.
    case notAnswering(path: String)

    public var description: String {
        switch self {
        case .cannotOpen(let path, let code): "cannot open \(path): \(errnoText(code))"
        case .notADisk(let path): "\(path) is neither a block device nor a regular file"
        case .inUse(let path): "\(path) is in use by another program"
        case .lockRefused(let path, let code): "cannot lock \(path): \(errnoText(code))"
        case .sizeUnknown(let path, let code): "cannot find the size of \(path): \(errnoText(code))"
        case .unsupportedSector(let path, let bytes):
            "\(path) has sectors of \(bytes) bytes; 512 and 4096 are supported"
        case .cannotCreate(let path, let code): "cannot create \(path): \(errnoText(code))"
        case .sizeTooLarge(let path, let bytes): "\(path) cannot be \(bytes) bytes large"
        case .readFailed(let path, let code): "cannot read \(path): \(errnoText(code))"
        case .notAnswering(let path): "\(path) does not answer"
        case .endOfDisk(let path): "\(path) ends before the bytes that were asked for"
        }
    }
}
