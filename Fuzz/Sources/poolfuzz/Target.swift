import Glibc
import PoolFuzz

enum Target {
    /// Set once, before libFuzzer takes over; everything happens on one thread.
    nonisolated(unsafe) static var surface = FuzzSurface.label
    nonisolated(unsafe) static let memory = FuzzMemory()

    /// A broken promise ends the process as a trap does: libFuzzer keeps the input of both.
    static func run(_ data: UnsafePointer<UInt8>?, _ count: Int) -> Int32 {
        do throws(FuzzFinding) {
            let input = unsafe UnsafeRawBufferPointer(start: data, count: count)
            _ = try unsafe surface.run(input, in: memory)
            return 0
        } catch {
            // An optimised build leaves out what preconditionFailure has to say.
            let text = "broken promise: \(error)\n"
            _ = unsafe write(STDERR_FILENO, text, text.utf8.count)
            abort()
        }
    }
}
