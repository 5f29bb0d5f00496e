import Foundation
import PoolFuzz
import Testing

/// What the fuzzers have found, and one valid input of each kind at least: replayed without them.
@Suite struct CorpusTests {
    private static let corpus = URL(filePath: #filePath)
        .deletingLastPathComponent().deletingLastPathComponent().appending(path: "Corpus")

    /// A client's own bytes are replayed beside the server.
    private static let surfaces = FuzzSurface.allCases.filter {
        $0 != .handshake && $0 != .request
    }

    @Test(arguments: surfaces)
    func `Every kept input keeps the promises`(surface: FuzzSurface) throws {
        let accepted = try FuzzCorpus.replay(surface, in: Self.corpus)
        let inputs = try FuzzCorpus.inputs(surface, in: Self.corpus)
        let expected = inputs.filter(\.mustBeAccepted).map(\.name)
        #expect(!expected.isEmpty && accepted.isSuperset(of: expected))
        #expect(accepted.count < inputs.count, "nothing was refused")
    }

    /// A surface without inputs would be replayed by nobody, an input without a surface neither.
    @Test func `Each surface has its folder`() throws {
        let folders = try FileManager.default.contentsOfDirectory(atPath: Self.corpus.path)
        #expect(Set(folders) == Set(FuzzSurface.allCases.map(\.rawValue)))
    }
}
