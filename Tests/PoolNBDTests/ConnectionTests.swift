import Glibc
import PoolEngine
import Testing

@testable import PoolNBD

private let mib = 1 << 20

@Suite struct ConnectionTests {
    private func request(
        _ type: UInt16, cookie: UInt64, offset: Int = 0, length: Int = 0, flags: UInt16 = 0,
        payload: [UInt8] = []
    ) -> [UInt8] {
        ClientBytes.request(
            type, flags: flags, cookie: cookie, offset: UInt64(offset), length: UInt32(length),
            payload: payload)
    }

    @Test(arguments: [
        (0, 4096), (512, 512), (3584, 1024), (mib - 512, 1024), (mib, mib),
        (512, 3 * mib), (12345 * 512, 32 * mib),
    ])
    func writtenBytesReadBack(offset: Int, length: Int) throws {
        let harness = try ServerHarness()
        let client = harness.connect()
        client.open()
        let data = pattern(length, offset)
        client.write(request(1, cookie: 1, offset: offset, length: length, payload: data))
        #expect(client.simpleReply() == .init(cookie: 1, error: 0))
        #expect(Array(harness.spaces[0].bytes[offset..<offset + length]) == data)
        client.write(request(0, cookie: 2, offset: offset, length: length))
        let reply = try #require(client.simpleReply { _ in length })
        #expect(reply.cookie == 2 && reply.data == data)
        harness.settle()
        #expect(harness.holdsNothing)
        for seen in harness.spaces[0].seen {
            #expect(
                seen.offsetBytes / 1_048_576 == (seen.offsetBytes + UInt64(seen.lengthBytes) - 1)
                    / 1_048_576)
            #expect(seen.bufferOffset % 4096 == 0)
        }
    }

    @Test(arguments: [1, 27, 28, 29, 4096])
    func chunksOfBytesChangeNothing(chunkBytes: Int) throws {
        let harness = try ServerHarness()
        let client = harness.connect()
        client.open()
        var input: [UInt8] = []
        for index in 0..<12 {
            input += request(
                1, cookie: UInt64(index), offset: index * 1024, length: 1024,
                payload: pattern(1024, index))
        }
        client.write(input, chunkBytes: chunkBytes)
        let cookies = (0..<12).compactMap { _ in client.simpleReply()?.cookie }
        #expect(cookies.sorted() == (0..<12).map { UInt64($0) })
        for index in 0..<12 {
            #expect(
                Array(harness.spaces[0].bytes[index * 1024..<(index + 1) * 1024])
                    == pattern(1024, index))
        }
    }

    @Test func refusedRequestsLeaveTheConnectionAlive() throws {
        let harness = try ServerHarness()
        let client = harness.connect()
        client.open()
        let cases: [([UInt8], UInt32)] = [
            (request(0, cookie: 9, offset: 1, length: 512), 22),
            (request(0, cookie: 9, offset: 0, length: 33 * mib), 22),
            (request(1, cookie: 9, offset: 100, length: 512, payload: pattern(512, 1)), 22),
            (
                request(
                    1, cookie: 9, offset: 64 * mib, length: 100_000, payload: pattern(100_000, 1)),
                22
            ),
            (
                request(
                    1, cookie: 9, offset: 64 * mib, length: 1 << 17, payload: pattern(1 << 17, 1)),
                28
            ),
            (request(1, cookie: 9, offset: 0, length: 33 * mib, payload: pattern(33 * mib, 1)), 22),
            (request(6, cookie: 9, offset: 64 * mib, length: 512), 28),
            (request(4, cookie: 9, offset: 64 * mib, length: 512), 22),
            (request(5, cookie: 9, offset: 0, length: 512, flags: 2), 22),
            (request(7, cookie: 9, offset: 0, length: 512), 22),
            (request(8, cookie: 9, offset: 0, length: 512), 22),
            (request(77, cookie: 9), 22),
            (request(0, cookie: 9, length: 512, flags: 0x80), 22),
            (request(3, cookie: 9, offset: 512), 22),
            (request(4, cookie: 9, offset: 0, length: 0), 0),
        ]
        for (bytes, error) in cases {
            client.write(bytes)
            #expect(client.simpleReply() == .init(cookie: 9, error: error))
        }
        #expect(harness.spaces[0].seen.isEmpty)
        client.write(request(3, cookie: 10))
        #expect(client.simpleReply() == .init(cookie: 10, error: 0))
        #expect(harness.spaces[0].seen.map(\.kind) == [.flush])
        #expect(harness.holdsNothing)
    }

    @Test func hugeRefusedWriteOrWrongMagicEnds() throws {
        let harness = try ServerHarness()
        for bytes in [request(1, cookie: 1, length: 65 * mib + 512), pattern(28, 3)] {
            let client = harness.connect()
            client.open()
            #expect(harness.server.exports.connections(name: "tank/0") == 1)
            client.write(bytes)
            #expect(client.read(1).isEmpty && client.isAtEnd)
            harness.settle()
            #expect(harness.server.exports.connections(name: "tank/0") == 0)
            #expect(harness.server.isIdle)
        }
    }

    @Test func structuredReadsComeInChunks() throws {
        let harness = try ServerHarness()
        harness.spaces[0].bytes.replaceSubrange(0..<20 * mib, with: pattern(20 * mib, 5))
        let client = harness.connect()
        client.open(structured: true)
        client.write(request(0, cookie: 4, offset: 512, length: 18 * mib))
        var covered = [UInt8](repeating: 0, count: 18 * mib)
        var total = 0
        while let chunk = client.chunk() {
            #expect(chunk.type == Wire.Chunk.offsetData && chunk.cookie == 4)
            let at = Int(chunk.offset) - 512
            covered.replaceSubrange(at..<at + chunk.data.count, with: chunk.data)
            total += chunk.data.count
            if chunk.isDone { break }
        }
        #expect(total == 18 * mib)
        #expect(covered == Array(harness.spaces[0].bytes[512..<512 + 18 * mib]))
        client.write(request(0, cookie: 5, offset: 0, length: 0))
        #expect(client.chunk() == .init(cookie: 5, isDone: true, type: Wire.Chunk.none))
        client.write(request(0, cookie: 6, offset: 1, length: 1))
        #expect(client.chunk() == .init(cookie: 6, isDone: true, type: Wire.Chunk.error, error: 22))
        client.write(request(3, cookie: 7))
        #expect(client.chunk() == .init(cookie: 7, isDone: true, type: 0xffff))
        #expect(harness.holdsNothing)
    }

    @Test func failedPieceFailsAStructuredRead() throws {
        let harness = try ServerHarness()
        harness.spaces[0].brokenRange = UInt64(5 * mib)..<UInt64(5 * mib + 512)
        let client = harness.connect()
        client.open(structured: true)
        for (cookie, length) in [(UInt64(1), 12 * mib), (2, 6 * mib), (3, 5 * mib + 4096)] {
            client.write(request(0, cookie: cookie, offset: 0, length: length))
            var last: TestClient.Chunk?
            while let chunk = client.chunk() {
                last = chunk
                #expect(chunk.offset / UInt64(mib) != 5)
                if chunk.isDone { break }
            }
            #expect(last == .init(cookie: cookie, isDone: true, type: Wire.Chunk.error, error: 5))
        }
        harness.settle()
        #expect(harness.holdsNothing)
    }

    @Test func failedFirstPieceFailsASimpleRead() throws {
        let harness = try ServerHarness()
        harness.spaces[0].brokenRange = 0..<512
        let client = harness.connect()
        client.open()
        client.write(request(0, cookie: 1, offset: 0, length: 4 * mib))
        #expect(client.simpleReply { _ in 4 * mib } == .init(cookie: 1, error: 5))
        client.write(request(0, cookie: 2, offset: 0, length: 4096))
        #expect(client.simpleReply { _ in 4096 } == .init(cookie: 2, error: 5))
        harness.settle()
        #expect(harness.holdsNothing)
    }

    @Test func failedLaterPieceOfASimpleReadEndsTheConnection() throws {
        let harness = try ServerHarness()
        harness.spaces[0].brokenRange = UInt64(20 * mib)..<UInt64(20 * mib + 512)
        let client = harness.connect()
        client.open()
        client.write(request(0, cookie: 1, offset: 0, length: 24 * mib))
        // Its header has promised 24 MiB; an end before that is the only way to tell the error.
        #expect(client.simpleReply { _ in 24 * mib } == nil)
        #expect(client.isAtEnd)
        harness.settle()
        #expect(harness.holdsNothing && harness.server.isIdle)
    }

    @Test func longFUARequestsFlushOnceAtTheEnd() throws {
        let harness = try ServerHarness()
        let client = harness.connect()
        client.open()
        client.write(request(4, cookie: 1, offset: 512, length: 48 * mib, flags: 1))
        #expect(client.simpleReply() == .init(cookie: 1, error: 0))
        let seen = harness.spaces[0].seen
        #expect(
            seen.count == 50 && seen.dropLast().allSatisfy { $0.kind == .trim && $0.flags.isEmpty })
        #expect(seen.last?.kind == .flush)
        #expect(seen.dropLast().reduce(0) { $0 + Int($1.lengthBytes) } == 48 * mib)
        client.write(request(6, cookie: 2, offset: 0, length: 4096, flags: 3))
        #expect(client.simpleReply() == .init(cookie: 2, error: 0))
        #expect(harness.spaces[0].seen.last?.flags == [.fua, .noHole])
    }

    @Test func firstErrorOfALongRequestIsItsStatus() throws {
        let harness = try ServerHarness()
        harness.spaces[0].status = .noSpace
        harness.spaces[0].brokenRange = UInt64(10 * mib)..<UInt64(10 * mib + 1)
        let client = harness.connect()
        client.open()
        client.write(request(6, cookie: 1, offset: 0, length: 48 * mib, flags: 1))
        #expect(client.simpleReply() == .init(cookie: 1, error: 28))
        #expect(harness.spaces[0].seen.allSatisfy { $0.kind == .writeZeroes })
        // A failed WRITE's payload is still consumed.
        client.write(
            request(1, cookie: 2, offset: 10 * mib, length: 20 * mib, payload: pattern(20 * mib, 1))
        )
        #expect(client.simpleReply() == .init(cookie: 2, error: 28))
        client.write(request(3, cookie: 3))
        #expect(client.simpleReply() == .init(cookie: 3, error: 0))
        #expect(harness.holdsNothing)
    }

    @Test(arguments: [true, false])
    func disconnectAndEndOfStreamFinishWhatIsUnderWay(disconnects: Bool) throws {
        let harness = try ServerHarness()
        let client = harness.connect()
        client.open()
        harness.spaces[0].isHung = true
        var input: [UInt8] = []
        for index in 0..<40 {
            input += request(
                1, cookie: UInt64(index), offset: index * 4096, length: 4096,
                payload: pattern(4096, index))
        }
        client.write(input)
        if disconnects { client.write(request(2, cookie: 99)) } else { shutdown(client.socket, 1) }
        harness.settle()
        #expect(!harness.server.isIdle)
        harness.spaces[0].isHung = false
        let replies = (0..<40).compactMap { _ in client.simpleReply() }
        #expect(Set(replies.map(\.cookie)).count == 40 && replies.allSatisfy { $0.error == 0 })
        #expect(client.read(1).isEmpty && client.isAtEnd)
        harness.settle()
        #expect(harness.server.isIdle && harness.holdsNothing)
    }

    @Test func hangingUpInTheMiddleFreesEverything() throws {
        let harness = try ServerHarness()
        for cut in [10, 28, 29, 4096, 500_000, mib + 28, 3 * mib] {
            let client = harness.connect()
            client.open()
            client.write(request(0, cookie: 1, offset: 0, length: 8 * mib))
            let write = request(
                1, cookie: 2, offset: 8 * mib, length: 4 * mib, payload: pattern(4 * mib, 1))
            client.write(Array(write.prefix(cut)))
            client.hangUp()
            harness.settle()
            harness.settle()
            #expect(harness.server.isIdle && harness.holdsNothing)
        }
    }

    @Test func lateRepliesOfAClosedConnectionOnlyFreeTheirBuffers() throws {
        let harness = try ServerHarness()
        let first = harness.connect()
        first.open()
        harness.spaces[0].isHung = true
        first.write(request(0, cookie: 1, offset: 0, length: 4096))
        first.write(request(0, cookie: 2, offset: 0, length: 4 * mib))
        harness.settle()
        first.write(pattern(28, 9))
        harness.settle()
        first.hangUp()
        harness.settle()
        // The space is still in use: its requests are on their way.
        #expect(harness.server.exports.connections(name: "tank/0") == 1)
        let second = harness.connect()
        second.open()
        harness.spaces[0].isHung = false
        harness.settle()
        #expect(harness.holdsNothing)
        #expect(harness.server.exports.connections(name: "tank/0") == 1)
        second.write(request(0, cookie: 3, offset: 0, length: 512))
        #expect(second.simpleReply { _ in 512 }?.cookie == 3)
    }

    @Test func hungSpaceLeavesRoomForOthers() throws {
        let harness = try ServerHarness(spaceCount: 2, counts: [64, 16, 8, 24], pieceCount: 64)
        harness.spaces[0].isHung = true
        let stuck = (0..<4).map { _ in harness.connect() }
        for client in stuck {
            client.open("tank/0")
            for index in 0..<100 {
                client.write(request(0, cookie: UInt64(index), offset: index * 4096, length: 4096))
            }
            client.write(request(0, cookie: 100, offset: 0, length: 8 * mib))
        }
        harness.settle()
        let free = harness.connect()
        free.open("tank/1")
        free.write(request(1, cookie: 1, offset: 0, length: 8 * mib, payload: pattern(8 * mib, 2)))
        #expect(free.simpleReply() == .init(cookie: 1, error: 0))
        free.write(request(0, cookie: 2, offset: 0, length: 8 * mib))
        #expect(free.simpleReply { _ in 8 * mib }?.data == pattern(8 * mib, 2))
        harness.spaces[0].isHung = false
        for client in stuck {
            for _ in 0..<101 { #expect(client.simpleReply { $0 < 100 ? 4096 : 8 * mib } != nil) }
        }
        harness.settle()
        #expect(harness.holdsNothing)
    }

    @Test func clientThatDoesNotReadStopsBeingReceived() throws {
        let harness = try ServerHarness()
        let client = harness.connect()
        client.open()
        var input: [UInt8] = []
        for index in 0..<4000 {
            input += request(0, cookie: UInt64(index), offset: index * 8192, length: 8192)
        }
        let whole = client.write(input, listens: false) / 28
        #expect(whole > 256 && harness.spaces[0].seen.count <= whole)
        #expect(harness.server.shared.freePieces >= 1024 - NBDLimits.piecesPerConnection)
        for _ in 0..<whole { #expect(client.simpleReply { _ in 8192 }?.error == 0) }
        harness.settle()
        #expect(harness.holdsNothing)
    }

    @Test func clientThatKeepsOthersWaitingIsDropped() throws {
        // Two large buffers, held for answers that nobody takes.
        let harness = try ServerHarness(counts: [64, 16, 8, 2], pieceCount: 64)
        let silent = harness.connect()
        silent.open()
        silent.write(request(0, cookie: 1, offset: 0, length: 32 * mib), listens: false)
        harness.settle()
        let second = harness.connect()
        let third = harness.connect()
        for client in [second, third] {
            client.open()
            client.write(request(0, cookie: 2, offset: 0, length: 32 * mib), listens: false)
        }
        harness.settle()
        #expect(harness.server.shared.waiting == [2])
        harness.nowNs += NBDLimits.stallNs / 2
        harness.settle()
        #expect(harness.server.connections.allSatisfy { $0.phase == .open })
        harness.nowNs += NBDLimits.stallNs
        harness.settle()
        #expect(harness.server.connections.map(\.phase) == [.vacant, .vacant, .open])
        #expect(third.simpleReply { _ in 32 * mib }?.cookie == 2)
    }

    @Test func silentHandshakeEndsAfterItsDeadline() throws {
        let harness = try ServerHarness()
        let client = harness.connect()
        _ = client.read(18)
        #expect(harness.server.nextDeadlineNs != nil)
        harness.nowNs += 9_000_000_000
        harness.settle()
        #expect(!harness.server.isIdle)
        harness.nowNs += 2_000_000_000
        harness.settle()
        #expect(harness.server.isIdle)
        #expect(client.read(1).isEmpty && client.isAtEnd)
        harness.nowNs += 2_000_000_000
        harness.settle()
        #expect(harness.server.nextDeadlineNs == nil)
    }

    @Test func shutdownAnswersWhatIsUnderWayAndEnds() throws {
        let harness = try ServerHarness()
        let path = "/tmp/poold-nbd-test-\(getpid()).sock"
        try harness.server.listen(unixPath: path)
        let client = harness.connect()
        client.open()
        harness.spaces[0].isHung = true
        client.write(request(0, cookie: 1, offset: 0, length: 4096))
        harness.settle()
        harness.server.shutdown()
        harness.settle()
        #expect(!harness.server.isIdle)
        harness.spaces[0].isHung = false
        #expect(client.simpleReply { _ in 4096 }?.error == 0)
        #expect(client.read(1).isEmpty && client.isAtEnd)
        harness.settle()
        #expect(harness.server.isIdle && harness.holdsNothing)
        #expect(unsafe access(path, F_OK) != 0)
    }
}
