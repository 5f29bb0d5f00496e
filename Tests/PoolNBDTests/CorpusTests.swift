import Foundation
import PoolFuzz
import Testing

/// What fuzzing the client's side of NBD has found, and some of what real clients send.
@Suite struct CorpusTests {
    private static let corpus = URL(filePath: #filePath)
        .deletingLastPathComponent().deletingLastPathComponent().appending(path: "Corpus")

    @Test(arguments: [FuzzSurface.handshake, .request])
    func everyKeptInputKeepsThePromises(surface: FuzzSurface) throws {
        let accepted = try FuzzCorpus.replay(surface, in: Self.corpus)
        let inputs = try FuzzCorpus.inputs(surface, in: Self.corpus)
        let expected = inputs.filter(\.mustBeAccepted).map(\.name)
        #expect(!expected.isEmpty && accepted.isSuperset(of: expected))
        #expect(accepted.count < inputs.count, "nothing was refused")
    }
}
