import PoolEngine
import Testing

@testable import PoolNBD

@Suite struct HandshakeTests {
    private let name = Array("tank/vm1".utf8)
    private let start = ClientBytes.flags()

    @Test func greetingIsFixedNewstyleWithoutZeroes() {
        #expect(Handshake.greeting == Array("NBDMAGICIHAVEOPT".utf8) + [0, 3])
    }

    /// Every option, well-formed or not, and the kinds of reply it gets.
    @Test(
        arguments: [
            (Wire.Option.list, [], [2, 2, 1]),
            (Wire.Option.list, [0], [0x8000_0003]),
            (Wire.Option.structuredReply, [], [1]),
            (Wire.Option.structuredReply, [0], [0x8000_0003]),
            (Wire.Option.info, ClientBytes.infoData(Array("tank/vm1".utf8)), [3, 1]),
            (Wire.Option.info, ClientBytes.infoData(Array("tank/vm1".utf8), [3]), [3, 3, 1]),
            (
                Wire.Option.info, ClientBytes.infoData(Array("tank/vm1".utf8), [1, 2, 3, 9]),
                [3, 3, 3, 1]
            ),
            (Wire.Option.info, ClientBytes.infoData([]), [0x8000_0006]),
            (Wire.Option.info, ClientBytes.infoData(Array("tank".utf8)), [0x8000_0006]),
            (Wire.Option.info, ClientBytes.infoData([0xff, 0xfe]), [0x8000_0006]),
            (Wire.Option.go, ClientBytes.infoData(Array("none".utf8)), [0x8000_0006]),
            (Wire.Option.go, [], [0x8000_0003]),
            (Wire.Option.go, [0, 0, 0, 1, 0], [0x8000_0003]),
            (Wire.Option.go, [0xff, 0xff, 0xff, 0xff, 0, 0], [0x8000_0003]),
            (Wire.Option.go, ClientBytes.infoData(Array("tank/vm1".utf8)) + [0], [0x8000_0003]),
            (Wire.Option.go, Array(ClientBytes.infoData([65], [3]).dropLast()), [0x8000_0003]),
            (
                Wire.Option.go, ClientBytes.infoData([UInt8](repeating: 65, count: 4096)),
                [0x8000_0006]
            ),
            (
                Wire.Option.go, ClientBytes.infoData([UInt8](repeating: 65, count: 4097)),
                [0x8000_0009]
            ),
            (4, [1, 2, 3], [0x8000_0001]),
            (5, [], [0x8000_0001]),
            (9, [], [0x8000_0003]),
            (10, [], [0x8000_0003]),
            (11, [], [0x8000_0001]),
            (0xffff_ffff, [], [0x8000_0001]),
            (99, [UInt8](repeating: 7, count: 9000), [0x8000_0009]),
            (Wire.Option.go, [UInt8](repeating: 7, count: 9000), [0x8000_0009]),
        ] as [(UInt32, [UInt8], [UInt32])])
    func optionIsAnswered(option: UInt32, data: [UInt8], replies: [UInt32]) throws {
        // What follows shows that the option was consumed whole.
        let input = start + ClientBytes.option(option, data) + ClientBytes.option(2)
        let whole = shake(input, chunkBytes: input.count)
        let answers = try #require(OptionAnswer.parse(whole.output))
        #expect(answers.dropLast().map(\.option) == replies.map { _ in option })
        #expect(answers.map(\.reply) == replies + [1])
        #expect(answers.last?.option == Wire.Option.abort)
        #expect(whole.hasEnded)
        for chunkBytes in [1, 2, 3, 7, 64] {
            #expect(shake(input, chunkBytes: chunkBytes) == whole)
        }
    }

    @Test func goTellsSizeFlagsAndLimitsThenBegins() throws {
        let rest: [UInt8] = [1, 2, 3]
        let input =
            start + ClientBytes.option(8)
            + ClientBytes.option(7, ClientBytes.infoData(name, [3])) + rest
        let result = shake(input, chunkBytes: input.count)
        #expect(result.begun == "tank/vm1")
        #expect(result.terms == SessionTerms(usesStructuredReplies: true))
        #expect(result.rest == rest)
        let answers = try #require(OptionAnswer.parse(result.output))
        // Export: 64 MiB; HAS_FLAGS, FLUSH, FUA, TRIM, WRITE_ZEROES, DF, CAN_MULTI_CONN, CACHE,
        // FAST_ZERO.
        #expect(answers[1].data == [0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0x0d, 0xed])
        // Block sizes: 512, 4096, 32 MiB.
        #expect(answers[2].data == [0, 3, 0, 0, 2, 0, 0, 0, 0x10, 0, 2, 0, 0, 0])
        #expect(shake(input, chunkBytes: 1).output == result.output)
    }

    @Test func readOnlySpaceSaysSo() throws {
        let data = ClientBytes.infoData(Array("tank/archive".utf8))
        let result = shake(start + ClientBytes.option(6, data), chunkBytes: 9999)
        let answers = try #require(OptionAnswer.parse(result.output))
        #expect(answers[0].data.suffix(2) == [0x0d, 0x6f])
    }

    @Test func exportNameBegins() {
        let option = ClientBytes.option(1, name)
        let short = shake(start + option, chunkBytes: 1)
        #expect(short.begun == "tank/vm1")
        #expect(short.output == [0, 0, 0, 0, 4, 0, 0, 0, 0x0d, 0x6d])
        let padded = shake(ClientBytes.flags(1) + option, chunkBytes: 1000)
        #expect(padded.output == short.output + [UInt8](repeating: 0, count: 124))
    }

    @Test(arguments: [[], Array("tank".utf8), [UInt8](repeating: 65, count: 9000)])
    func unknownExportNameEnds(name: [UInt8]) {
        let result = shake(start + ClientBytes.option(1, name), chunkBytes: 100)
        #expect(result.hasEnded)
        #expect(result.output.isEmpty)
    }

    @Test(arguments: [UInt32(4), 0x8000_0000, 0xffff_ffff])
    func unknownClientFlagsEnd(flags: UInt32) {
        #expect(shake(ClientBytes.flags(flags), chunkBytes: 4).hasEnded)
    }

    @Test func wrongMagicEnds() {
        var option = ClientBytes.option(Wire.Option.list)
        option[3] ^= 1
        let result = shake(start + option, chunkBytes: 100)
        #expect(result.hasEnded && result.output.isEmpty)
    }

    @Test func floodEnds() {
        // 2 MiB announced: refused before a byte of it is awaited.
        let head =
            ClientBytes.bigEndian(Wire.optionMagic) + ClientBytes.bigEndian(UInt32(77))
            + ClientBytes.bigEndian(UInt32(2 << 20))
        #expect(shake(start + head, chunkBytes: 100).hasEnded)
    }

    @Test func truncatedInputOnlyWaits() {
        let input = start + ClientBytes.option(7, ClientBytes.infoData(name, [3]))
        for count in 0..<input.count {
            let result = shake(Array(input.prefix(count)), chunkBytes: 5)
            #expect(result.begun == nil && !result.hasEnded && result.output.isEmpty)
        }
    }

    @Test func oneSpaceLeavesConnectionsForTheOthers() throws {
        let exports = ExportTable.sample
        let found = exports.find(name.span)
        let full = try #require(found)
        full.usage.connections = 128
        exports.freeConnections = 128
        let input = start + ClientBytes.option(7, ClientBytes.infoData(name))
        let refused = shake(input, chunkBytes: 100, exports: exports)
        #expect(OptionAnswer.parse(refused.output)?.map(\.reply) == [0x8000_0002])
        let other = ClientBytes.infoData(Array("tank/archive".utf8))
        let admitted = shake(start + ClientBytes.option(7, other), chunkBytes: 9, exports: exports)
        #expect(admitted.begun == "tank/archive")
    }

    @Test func randomBytesNeverTrap() {
        var random = SplitMix(seed: 42)
        for _ in 0..<3000 {
            var input = start
            while input.count < 200 {
                let data = (0..<random.next(24)).map { _ in UInt8(random.next(256)) }
                input +=
                    random.next(4) == 0
                    ? data : ClientBytes.option(UInt32(random.next(12)), data)
            }
            let whole = shake(input, chunkBytes: input.count)
            #expect(shake(input, chunkBytes: 1) == whole)
        }
    }
}

@Suite struct ExportTableTests {
    @Test func republishingKeepsTheCount() throws {
        let table = ExportTable.sample
        let handle = SpaceHandle(index: 0, serial: 1)
        let name = Array("tank/vm1".utf8)
        let found = table.find(name.span)
        let before = try #require(found)
        before.usage.connections = 2
        table.publish(name: "tank/vm1", space: handle, sizeBytes: 128 << 20, isReadOnly: false)
        #expect(table.connections(name: "tank/vm1") == 2)
        let newer = table.find(name.span)
        #expect(newer?.sizeBytes == 128 << 20)
        #expect(before.sizeBytes == 64 << 20)
        #expect(table.withdraw(name: "tank/vm1") == 2)
        #expect(table.withdraw(name: "tank/vm1") == nil)
        #expect(table.names == ["tank/archive"])
    }
}

/// A small generator with a fixed sequence for each seed.
struct SplitMix {
    private var state: UInt64
    init(seed: UInt64) { state = seed }

    mutating func next(_ bound: Int) -> Int {
        state &+= 0x9e37_79b9_7f4a_7c15
        var value = state
        value = (value ^ (value >> 30)) &* 0xbf58_476d_1ce4_e5b9
        value = (value ^ (value >> 27)) &* 0x94d0_49bb_1331_11eb
        return Int((value ^ (value >> 31)) % UInt64(bound))
    }
}
