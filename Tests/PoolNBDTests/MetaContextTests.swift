import PoolEngine
import Testing

@testable import PoolNBD

@Suite struct MetaContextTests {
    private static let list = Wire.Option.listMetaContext
    private static let set = Wire.Option.setMetaContext
    private let start = ClientBytes.flags() + ClientBytes.option(Wire.Option.structuredReply)

    private func contexts(
        _ option: UInt32, _ queries: [String], name: String = "tank/vm1"
    ) -> [UInt8] {
        ClientBytes.option(option, ClientBytes.contextData(Array(name.utf8), queries))
    }

    private func go(_ name: String) -> [UInt8] {
        ClientBytes.option(Wire.Option.go, ClientBytes.infoData(Array(name.utf8)))
    }

    struct Case: Sendable {
        var option: UInt32
        var queries: [String]
        /// What the context comes back with; nil: it does not.
        var number: UInt32?
    }

    private static let cases: [Case] = [
        Case(option: list, queries: [], number: 0),
        Case(option: list, queries: ["base:"], number: 0),
        Case(option: list, queries: ["base:allocation"], number: 0),
        Case(option: list, queries: ["qemu:", "base:allocation"], number: 0),
        Case(option: list, queries: ["base:", "base:allocation"], number: 0),
        Case(option: list, queries: ["qemu:"]), Case(option: list, queries: ["base:other"]),
        Case(option: list, queries: ["base"]), Case(option: list, queries: [""]),
        Case(option: list, queries: ["base:allocation "]),
        Case(option: list, queries: ["Base:allocation"]),
        Case(option: set, queries: ["base:allocation"], number: 1),
        Case(option: set, queries: ["base:allocation", "base:allocation"], number: 1),
        Case(option: set, queries: ["qemu:x", "base:allocation", "x-y:z"], number: 1),
        Case(option: set, queries: []), Case(option: set, queries: ["base:"]),
        Case(option: set, queries: ["base:alloc"]), Case(option: set, queries: ["\u{0}"]),
        Case(option: set, queries: ["qemu:allocation-depth"]),
    ]

    @Test(arguments: cases)
    func queriesSelect(_ test: Case) throws {
        let input = start + contexts(test.option, test.queries) + go("tank/vm1")
        let result = shake(input, chunkBytes: input.count)
        let answers = try #require(OptionAnswer.parse(result.output))
        let mine = answers.filter { $0.option == test.option }
        if let number = test.number {
            #expect(mine.map(\.reply) == [4, 1])
            let data = ClientBytes.bigEndian(number) + Array("base:allocation".utf8)
            #expect(mine.first?.data == data)
        } else {
            #expect(mine.map(\.reply) == [1])
        }
        #expect(result.begun == "tank/vm1")
        let isSet = test.option == Self.set && test.number != nil
        #expect(result.terms.hasAllocationContext == isSet)
        #expect(shake(input, chunkBytes: 1) == result)
    }

    @Test(arguments: [list, set])
    func structuredRepliesComeFirst(option: UInt32) {
        let input =
            ClientBytes.flags() + contexts(option, ["base:allocation"])
            + ClientBytes.option(Wire.Option.structuredReply) + go("tank/vm1")
        let result = shake(input, chunkBytes: 99)
        #expect(OptionAnswer.parse(result.output)?.first?.reply == 0x8000_0003)
        #expect(result.terms == SessionTerms(usesStructuredReplies: true))
    }

    @Test(arguments: [list, set])
    func unknownExportIsUnknown(option: UInt32) {
        for name in ["", "tank", "tank/vm1x"] {
            let input = start + contexts(option, ["base:allocation"], name: name)
            let answers = OptionAnswer.parse(shake(input, chunkBytes: 99).output)
            #expect(answers?.map(\.reply) == [1, 0x8000_0006])
        }
    }

    @Test func selectionIsBoundToTheNameOfWhatFollows() {
        let vm1 = contexts(Self.set, ["base:allocation"])
        let cases: [([UInt8], Bool)] = [
            (vm1 + go("tank/vm1"), true),
            (vm1 + go("tank/archive"), false),
            (vm1 + vm1 + go("tank/vm1"), true),
            // What came in between neither selects nor forgets.
            (vm1 + go("tank/none") + go("tank/vm1"), true),
            (vm1 + contexts(Self.list, [], name: "tank/archive") + go("tank/vm1"), true),
            // Setting again replaces, and so does failing to.
            (vm1 + contexts(Self.set, []) + go("tank/vm1"), false),
            (vm1 + contexts(Self.set, ["base:allocation"], name: "x") + go("tank/vm1"), false),
            (vm1 + ClientBytes.option(Self.set, [1]) + go("tank/vm1"), false),
            (
                vm1 + contexts(Self.set, ["base:allocation"], name: "tank/archive")
                    + go("tank/vm1"), false
            ),
            (vm1 + ClientBytes.option(Wire.Option.exportName, Array("tank/vm1".utf8)), true),
            (vm1 + ClientBytes.option(Wire.Option.exportName, Array("tank/archive".utf8)), false),
        ]
        for (bytes, isBound) in cases {
            let result = shake(start + bytes, chunkBytes: 4096)
            #expect(result.begun != nil)
            #expect(result.terms.hasAllocationContext == isBound)
        }
    }

    @Test(arguments: [list, set])
    func lengthsThatDoNotAddUpAreInvalid(option: UInt32) {
        let good = ClientBytes.contextData(Array("tank/vm1".utf8), ["base:allocation", "base:"])
        var bad = (0..<good.count).map { Array(good.prefix($0)) } + [good + [0]]
        // A length of each kind that reaches far beyond the end.
        for at in [0, 12, 16] {
            var huge = good
            huge.replaceSubrange(at..<at + 4, with: [0xff, 0xff, 0xff, 0xff])
            bad.append(huge)
        }
        for data in bad {
            let input = start + ClientBytes.option(option, data) + ClientBytes.option(2)
            let answers = OptionAnswer.parse(shake(input, chunkBytes: 4096).output)
            #expect(answers?.map(\.reply) == [1, 0x8000_0003, 1])
        }
        let long = ClientBytes.contextData([UInt8](repeating: 65, count: 4097), [])
        let answers = OptionAnswer.parse(
            shake(start + ClientBytes.option(option, long), chunkBytes: 4096).output)
        #expect(answers?.last?.reply == 0x8000_0009)
    }

    @Test func longestNameAndLongestQueryFit() {
        let name = [UInt8](repeating: 65, count: NBDLimits.nameBytes)
        let query = String(repeating: "q", count: 4096)
        let data = ClientBytes.contextData(name, [query])
        let input = start + ClientBytes.option(Self.set, data)
        let answers = OptionAnswer.parse(shake(input, chunkBytes: 4096).output)
        #expect(answers?.map(\.reply) == [1, 0x8000_0006])
    }
}

@Suite struct HandshakeBoundsTests {
    @Test func tooManyOptionsEnd() {
        let option = ClientBytes.option(99)
        var input = ClientBytes.flags()
        for _ in 0..<NBDLimits.handshakeOptions { input += option }
        let full = shake(input, chunkBytes: 4096)
        #expect(!full.hasEnded)
        #expect(OptionAnswer.parse(full.output)?.count == NBDLimits.handshakeOptions)
        #expect(shake(input + option, chunkBytes: 4096).hasEnded)
    }

    @Test(arguments: [8000, 100_000])
    func tooManyBytesEnd(optionBytes: Int) {
        let option = ClientBytes.option(99, [UInt8](repeating: 1, count: optionBytes))
        var input = ClientBytes.flags()
        let count = NBDLimits.handshakeBytes / optionBytes
        for _ in 0..<count { input += option }
        let full = shake(input, chunkBytes: 4096)
        #expect(!full.hasEnded && OptionAnswer.parse(full.output)?.count == count)
        #expect(shake(input + option, chunkBytes: 4096).hasEnded)
    }
}
