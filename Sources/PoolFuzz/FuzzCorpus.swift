import Foundation

/// The inputs that are kept: one folder for each surface, one file for each input.
///
/// An input whose name begins with `valid-` has to be accepted: it proves that its surface is
/// reached. What an input once broke says the rest of its name.
public enum FuzzCorpus {
    public struct Input: Sendable {
        public var name: String
        public var bytes: [UInt8]
        public var mustBeAccepted: Bool { name.hasPrefix("valid-") }
    }

    /// The inputs of a surface in the order of their names.
    public static func inputs(_ surface: FuzzSurface, in corpus: URL) throws -> [Input] {
        let folder = corpus.appending(path: surface.rawValue)
        return try FileManager.default.contentsOfDirectory(atPath: folder.path).sorted().map {
            Input(name: $0, bytes: Array(try Data(contentsOf: folder.appending(path: $0))))
        }
    }

    /// Runs every input as it is, and with each of its bytes changed in turn.
    ///
    /// - Returns: names of the inputs that were accepted as they are.
    /// - Throws: ``FuzzFinding`` with the input's name.
    public static func replay(_ surface: FuzzSurface, in corpus: URL) throws -> Set<String> {
        let memory = FuzzMemory()
        var accepted: Set<String> = []
        for input in try inputs(surface, in: corpus) {
            if try run(surface, input.bytes, input.name, memory) { accepted.insert(input.name) }
            for position in input.bytes.indices.prefix(changedBytes) {
                var changed = input.bytes
                changed[position] ^= UInt8(1) << UInt8(position % 8)
                _ = try run(surface, changed, "\(input.name), byte \(position) changed", memory)
            }
        }
        return accepted
    }

    /// Of long inputs the front is what decides.
    private static let changedBytes = 256

    private static func run(
        _ surface: FuzzSurface, _ bytes: [UInt8], _ name: String, _ memory: FuzzMemory
    ) throws(FuzzFinding) -> Bool {
        do throws(FuzzFinding) {
            let input = Image(bytes)
            return try unsafe surface.run(input.readOnly, in: memory)
        } catch {
            throw FuzzFinding("\(surface.rawValue)/\(name): \(error)")
        }
    }
}
