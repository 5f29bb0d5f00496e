import PoolEngine
import Testing

@testable import PoolNBD

private let mib = 1 << 20
private let hole: UInt32 = 3
private let zero: UInt32 = 2
private let data: UInt32 = 0

@Suite struct BlockStatusTests {
    private func request(
        _ type: UInt16, cookie: UInt64, offset: Int = 0, length: Int = 0, flags: UInt16 = 0,
        payload: [UInt8] = []
    ) -> [UInt8] {
        ClientBytes.request(
            type, flags: flags, cookie: cookie, offset: UInt64(offset), length: UInt32(length),
            payload: payload)
    }

    /// A client with the context, and a space with data in its fourth grain and in one block of
    /// its sixth.
    private func sample() throws -> (ServerHarness, TestClient) {
        let harness = try ServerHarness()
        let client = harness.connect()
        client.open(allocation: true)
        for (offset, length) in [(3 * mib, mib), (5 * mib + 8192, 4096)] {
            client.write(
                request(
                    1, cookie: 1, offset: offset, length: length, payload: pattern(length, 1)))
            #expect(client.chunk()?.error == 0)
        }
        return (harness, client)
    }

    private func extents(
        _ client: TestClient, _ offset: Int, _ length: Int, flags: UInt16 = 0
    ) throws -> [TestClient.Extent] {
        client.write(request(7, cookie: 9, offset: offset, length: length, flags: flags))
        let chunk = try #require(client.chunk())
        #expect(chunk.cookie == 9 && chunk.isDone && chunk.type == Wire.Chunk.blockStatus)
        return chunk.extents
    }

    @Test func extentsAreWholeAndMerged() throws {
        let (harness, client) = try sample()
        #expect(
            try extents(client, 0, 64 * mib) == [
                .init(length: 3 * mib, flags: hole), .init(length: mib, flags: data),
                .init(length: mib, flags: hole), .init(length: 8192, flags: zero),
                .init(length: 4096, flags: data), .init(length: mib - 12288, flags: zero),
                .init(length: 58 * mib, flags: hole),
            ])
        #expect(
            try extents(client, 3 * mib + 512, 1024) == [.init(length: 1024, flags: data)])
        #expect(
            try extents(client, 5 * mib + 8192 + 3584, 1024) == [
                .init(length: 512, flags: data), .init(length: 512, flags: zero),
            ])
        harness.settle()
        #expect(harness.holdsNothing)
    }

    @Test func oneExtentIsCompleteAndNoLongerThanAsked() throws {
        let (_, client) = try sample()
        let one = Wire.CommandFlag.oneExtent
        #expect(
            try extents(client, 0, 64 * mib, flags: one) == [.init(length: 3 * mib, flags: hole)])
        #expect(try extents(client, 0, mib, flags: one) == [.init(length: mib, flags: hole)])
        client.write(
            request(1, cookie: 1, offset: 4 * mib, length: mib, payload: pattern(mib, 1)))
        #expect(client.chunk()?.error == 0)
        // Two grains of data are two answers of the engine, and one extent.
        #expect(
            try extents(client, 3 * mib, 8 * mib, flags: one) == [
                .init(length: 2 * mib, flags: data)
            ])
    }

    @Test func replyIsCutAtItsBoundAndTheNextGoesOn() throws {
        let harness = try ServerHarness()
        let client = harness.connect()
        client.open(allocation: true)
        // Every other block of 20 MiB.
        var model: [UInt32] = []
        for block in 0..<5120 {
            model.append(block % 2 == 0 ? data : zero)
            if block % 2 == 1 { continue }
            harness.spaces[0].mark(block * 4096, 4096, written: true, keepsGrain: true)
        }
        var found: [TestClient.Extent] = []
        var offset = 0
        while offset < 20 * mib {
            let some = try extents(client, offset, 20 * mib - offset)
            #expect(!some.isEmpty && some.count <= NBDLimits.extentsPerReply)
            found += some
            offset += some.reduce(0) { $0 + $1.length }
        }
        #expect(found == model.map { .init(length: 4096, flags: $0) })
        harness.settle()
        #expect(harness.holdsNothing)
    }

    @Test func engineErrorsAndMissingContextAreErrors() throws {
        let (harness, client) = try sample()
        harness.spaces[0].brokenRange = UInt64(20 * mib)..<UInt64(20 * mib + 512)
        client.write(request(7, cookie: 2, offset: 4 * mib, length: 60 * mib))
        #expect(client.chunk() == .init(cookie: 2, isDone: true, type: Wire.Chunk.error, error: 5))
        for (structured, cookie) in [(true, UInt64(3)), (false, 4)] {
            let other = harness.connect()
            other.open(structured: structured)
            other.write(request(7, cookie: cookie, offset: 0, length: 4096))
            if structured {
                let error = TestClient.Chunk(
                    cookie: cookie, isDone: true, type: Wire.Chunk.error, error: 22)
                #expect(other.chunk() == error)
            } else {
                #expect(other.simpleReply() == .init(cookie: cookie, error: 22))
            }
        }
        harness.settle()
        #expect(harness.holdsNothing)
    }

    /// What the engine may answer at once is spread over turns, whoever asks for how much.
    @Test(arguments: [UInt16(4), 5, 6, 7])
    func requestsWithoutDataHaveAShareOfEachTurn(type: UInt16) throws {
        let harness = try ServerHarness()
        let client = harness.connect()
        client.open(allocation: true)
        if type == 7 {
            // So that each grain is a question of its own.
            for grain in 0..<64 {
                harness.spaces[0].mark(grain * mib, 4096, written: true, keepsGrain: true)
            }
        }
        let before = harness.spaces[0].seen.count
        var input: [UInt8] = []
        for index in 0..<256 {
            input += request(type, cookie: UInt64(index), length: 64 * mib)
        }
        harness.spaces[0].answersAll = true
        client.write(input)
        var most = 0
        var seen = harness.spaces[0].seen.count
        for _ in 0..<400 {
            most = max(most, harness.spaces[0].seen.count - seen)
            seen = harness.spaces[0].seen.count
            harness.turn(waitNs: 0)
        }
        // Descriptors need buffers, so fewer questions are under way at a time.
        #expect(type == 7 ? most > 32 : most == NBDLimits.dataFreePiecesPerTurn)
        #expect(most <= NBDLimits.dataFreePiecesPerTurn)
        var open = Set((0..<256).map { UInt64($0) })
        while !open.isEmpty {
            let chunk = try #require(client.chunk())
            #expect(chunk.error == 0 && open.remove(chunk.cookie) != nil)
        }
        let asked = harness.spaces[0].seen.count - before
        #expect(asked == (type == 7 ? 256 * 128 : 256 * 64))
        harness.settle()
        #expect(harness.holdsNothing)
    }

    @Test(arguments: 0..<12)
    func hangingUpWhileTheyWaitFreesEverything(turns: Int) throws {
        let harness = try ServerHarness()
        let client = harness.connect()
        client.open(allocation: true)
        var input: [UInt8] = []
        for index in 0..<300 {
            input += request([7, 4, 5][index % 3], cookie: UInt64(index), length: 64 * mib)
        }
        client.write(input, listens: false)
        for _ in 0..<turns { harness.turn(waitNs: 0) }
        client.hangUp()
        harness.becomeIdle()
        #expect(harness.server.isIdle && harness.holdsNothing)
        let next = harness.connect()
        next.open()
        next.write(request(3, cookie: 1))
        #expect(next.simpleReply() == .init(cookie: 1, error: 0))
    }
}

@Suite struct UnfragmentedReadTests {
    private func read(
        _ client: TestClient, _ offset: Int, _ length: Int
    ) throws -> TestClient.Chunk {
        client.write(
            ClientBytes.request(
                0, flags: Wire.CommandFlag.unfragmented, cookie: 5, offset: UInt64(offset),
                length: UInt32(length)))
        return try #require(client.chunk())
    }

    /// Ranges within a grain, over its edge, and as long as may be.
    private static let ranges: [Range<Int>] = [
        0..<512, 0..<mib, mib - 512..<mib + 512, mib - 32768..<mib + 32768,
        2 * mib - 512..<3 * mib - 512, 3 * mib - 4096..<3 * mib + 4096,
        3 * mib + 3584..<4 * mib + 3584, 64 * mib - 65536..<64 * mib,
    ]

    @Test(arguments: ranges)
    func rangeComesInOneChunk(range: Range<Int>) throws {
        let (offset, length) = (range.lowerBound, range.count)
        let harness = try ServerHarness()
        harness.spaces[0].bytes.replaceSubrange(0..<8 * mib, with: pattern(8 * mib, 5))
        let client = harness.connect()
        client.open(structured: true)
        let chunk = try read(client, offset, length)
        #expect(chunk.isDone && chunk.type == Wire.Chunk.offsetData && chunk.cookie == 5)
        #expect(chunk.offset == UInt64(offset))
        #expect(chunk.data == Array(harness.spaces[0].bytes[offset..<offset + length]))
        for seen in harness.spaces[0].seen {
            #expect(seen.bufferOffset % 4096 == 0)
            #expect(seen.offsetBytes % 1_048_576 + UInt64(seen.lengthBytes) <= 1_048_576)
        }
        harness.settle()
        #expect(harness.holdsNothing)
    }

    @Test func longerOnesOverflowAndErrorsStayErrors() throws {
        let harness = try ServerHarness()
        let client = harness.connect()
        client.open(structured: true)
        #expect(
            try read(client, 0, mib + 512)
                == .init(cookie: 5, isDone: true, type: Wire.Chunk.error, error: 75))
        for broken in [mib - 512, mib] {
            harness.spaces[0].brokenRange = UInt64(broken)..<UInt64(broken + 512)
            #expect(
                try read(client, mib - 4096, 8192)
                    == .init(cookie: 5, isDone: true, type: Wire.Chunk.error, error: 5))
        }
        harness.settle()
        #expect(harness.holdsNothing)
    }
}
