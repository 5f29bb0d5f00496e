import Foundation
import Logging
import PoolControl
import PoolEngine
import PoolFormat
import Synchronization

/// DIR/restart: what the open spaces have acknowledged and not made durable, a mapped file each.
///
/// A process that is killed leaves its pages with the kernel, where the next one finds them; a
/// power cut or a new start of the machine ends what they speak of, so each file names the boot.
///
///     0                                                        4096
///     +--------------------------------------------------------+---------------------------+
///     | "poold restart 1\n", boot id, "\n", bytes, "\n", zeros | the space's region        |
///     +--------------------------------------------------------+---------------------------+
///
/// The blocks of a file are there before it is mapped: a full file system refuses at the opening
/// of a space, not in the middle of a write.
final class RestartFolder: RestartMemory {
    private static let headBytes = 4096

    private let path: String
    private let boot: String
    private let logger: Logger
    private let regions = Mutex<[RestartLog.Owner: MappedFile]>([:])

    /// Removes what an earlier start of the machine has left.
    ///
    /// - Parameter path: an existing folder.
    init(path: String, logger: Logger) {
        self.path = path
        self.logger = logger
        let id = try? String(contentsOfFile: "/proc/sys/kernel/random/boot_id", encoding: .utf8)
        boot = id?.trimmingCharacters(in: .whitespacesAndNewlines) ?? ""
        removeStale()
    }

    func region(
        of owner: RestartLog.Owner, bytes: Int
    ) -> UnsafeMutableRawBufferPointer? {
        // Without knowing the boot there is no telling what a file speaks of.
        guard !boot.isEmpty else { return nil }
        return unsafe regions.withLock { regions in
            if regions[owner] == nil { regions[owner] = map(owner, bytes) }
            guard let file = regions[owner], file.count == Self.headBytes + bytes else {
                return nil
            }
            return unsafe file.bytes(from: Self.headBytes)
        }
    }

    func discard(_ owner: RestartLog.Owner) {
        regions.withLock { $0[owner] = nil }
        _ = unsafe unlink(file(owner))
    }

    private func file(_ owner: RestartLog.Owner) -> String {
        "\(path)/\(UUIDText.format(owner.pool)).\(owner.lineage.rawValue)"
    }

    private func head(_ bytes: Int) -> [UInt8] {
        Array("poold restart 1\n\(boot)\n\(bytes)\n".utf8)
    }

    private func map(_ owner: RestartLog.Owner, _ bytes: Int) -> MappedFile? {
        let name = file(owner)
        do throws(ControlFailure) {
            let mapped = try MappedFile(name, bytes: Self.headBytes + bytes)
            let head = head(bytes)
            if !mapped.begins(with: head) {
                mapped.clear()
                mapped.write(head)
            }
            return mapped
        } catch {
            _ = unsafe unlink(name)
            logger.warning(
                "\(error.what): what is not flushed will be lost if poold is killed; \(error.hint)")
            return nil
        }
    }

    private func removeStale() {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []
        for name in names {
            let file = FileHandle(forReadingAtPath: "\(path)/\(name)")
            let start = (try? file?.read(upToCount: 64)).flatMap { $0 } ?? Data()
            try? file?.close()
            if !start.starts(with: Data("poold restart 1\n\(boot)\n".utf8)) {
                _ = unsafe unlink("\(path)/\(name)")
            }
        }
    }
}

/// A file of a fixed size in memory, shared with whoever maps it next.
@safe
private final class MappedFile: @unchecked Sendable {
    // Safe: mapped here, unmapped in deinit.
    private let content: UnsafeMutableRawBufferPointer
    var count: Int { unsafe content.count }

    init(_ path: String, bytes: Int) throws(ControlFailure) {
        let file = unsafe open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0o600)
        guard file >= 0 else { throw DurableFile.systemFailure("cannot create \(path)") }
        defer { close(file) }
        var status = stat()
        guard unsafe fstat(file, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
            throw DurableFile.systemFailure("\(path) is no file", EINVAL)
        }
        // One of another size is from another version.
        if status.st_size != bytes, ftruncate(file, 0) != 0 {
            throw DurableFile.systemFailure("cannot empty \(path)")
        }
        let code = posix_fallocate(file, 0, off_t(bytes))
        guard code == 0 else { throw DurableFile.systemFailure("cannot write \(path)", code) }
        let start = unsafe mmap(
            nil, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, file, 0)
        guard let start = unsafe start, unsafe start != MAP_FAILED else {
            throw DurableFile.systemFailure("cannot map \(path)")
        }
        // So that no write ever waits for a page, or finds that it cannot be read, where that is
        // allowed.
        _ = unsafe mlock(start, bytes)
        unsafe content = UnsafeMutableRawBufferPointer(start: start, count: bytes)
    }

    deinit { unsafe munmap(content.baseAddress!, content.count) }

    func bytes(from offset: Int) -> UnsafeMutableRawBufferPointer {
        unsafe UnsafeMutableRawBufferPointer(rebasing: content[offset...])
    }

    func begins(with bytes: [UInt8]) -> Bool {
        unsafe UnsafeRawBufferPointer(rebasing: content[..<bytes.count]).elementsEqual(bytes)
    }

    func clear() { unsafe content.initializeMemory(as: UInt8.self, repeating: 0) }

    func write(_ bytes: [UInt8]) { unsafe content.copyBytes(from: bytes) }
}
