import Dispatch
import Glibc
import Synchronization

/// Questions about paths that may never be answered: a device or a file system that hangs holds
/// whoever asks, for as long as it hangs.
public enum BoundedLook {
    /// How long an answer may take.
    static var answerSeconds: Int { 5 }

    /// Asks on a thread of its own. While a look has not ended there is no other at the same path,
    /// so one that hangs costs one thread, and its askers the time once.
    ///
    /// - Returns: nil when there was no answer in time, or no thread.
    public static func at<Answer: Sendable>(
        _ path: String, _ ask: @escaping @Sendable () -> Answer
    ) -> Answer? {
        guard underWay.withLock({ $0.insert(path).inserted }) else { return nil }
        let look = Look<Answer>()
        do throws(ShardThreadError) {
            _ = try ShardThread(name: "disk-probe") {
                look.end(ask())
                underWay.withLock { _ = $0.remove(path) }
                look.hasEnded.signal()
            }
        } catch {
            underWay.withLock { _ = $0.remove(path) }
            return nil
        }
        let isInTime = look.hasEnded.wait(timeout: .now() + .seconds(answerSeconds)) == .success
        return isInTime ? look.answer : nil
    }

    private static let underWay = Mutex<Set<String>>([])

    private final class Look<Answer: Sendable>: Sendable {
        let hasEnded = DispatchSemaphore(value: 0)
        private let ended = Mutex<Answer?>(nil)

        var answer: Answer? { ended.withLock { $0 } }
        func end(_ answer: Answer) { ended.withLock { $0 = answer } }
    }
}

extension DiskProbe {
    /// Looks at a path, and waits for it no longer than ``BoundedLook`` does.
    ///
    /// - Parameter leastBytes: a file that is smaller is not opened.
    /// - Throws: ``DiskError/notAnswering(path:)`` beside what looking throws.
    public static func bounded(path: String, leastBytes: UInt64 = 0) throws(DiskError) -> DiskProbe {
        let result = BoundedLook.at(path) { look(at: path, leastBytes) }
        guard let result else { throw .notAnswering(path: path) }
        return try result.get()
    }

    private static func look(at path: String, _ leastBytes: UInt64) -> Result<DiskProbe, DiskError> {
        var status = stat()
        if leastBytes > 0, unsafe stat(path, &status) == 0, status.st_mode & S_IFMT == S_IFREG,
            UInt64(max(0, status.st_size)) < leastBytes
        {
            return .failure(.endOfDisk(path: path))
        }
        do throws(DiskError) {
            return .success(try DiskProbe(path: path))
        } catch {
            return .failure(error)
        }
    }
}
