import Glibc
import PoolEngine
import Testing

@testable import PoolNBD

private let mib = 1 << 20

/// Clients that mean harm, or are broken: whatever they do, everything comes back, and the next
/// one is served.
@Suite struct HostileTests {
    private func request(
        _ type: UInt16, cookie: UInt64 = 1, offset: UInt64 = 0, length: UInt32 = 0,
        flags: UInt16 = 0, payload: [UInt8] = []
    ) -> [UInt8] {
        ClientBytes.request(
            type, flags: flags, cookie: cookie, offset: offset, length: length, payload: payload)
    }

    private func isServed(_ harness: ServerHarness) -> Bool {
        let client = harness.connect()
        client.open()
        let data = pattern(4096, 7)
        client.write(request(1, cookie: 1, offset: 8192, length: 4096, payload: data))
        guard client.simpleReply() == .init(cookie: 1, error: 0) else { return false }
        client.write(request(0, cookie: 2, offset: 8192, length: 4096))
        return client.simpleReply { _ in 4096 } == .init(cookie: 2, error: 0, data: data)
    }

    // MARK: handshakes

    /// - Parameter batch: so many come between two turns.
    @Test(arguments: [1, 7, 100, NBDLimits.handshakes, 1000])
    func anyNumberOfSilentHandshakesLetsTheNextOneIn(batch: Int) throws {
        let harness = try ServerHarness()
        var silent: [TestClient] = []
        for index in 0..<3 * NBDLimits.handshakes + 100 {
            silent.append(harness.connect())
            if index % batch == batch - 1 { harness.turn(waitNs: 0) }
        }
        harness.settle()
        #expect(isServed(harness))
        // One more than there is room for ended one of them, and never the youngest.
        let isOpen = silent.map { client in
            _ = client.read(18)
            return !client.hasEnded()
        }
        #expect(isOpen.filter { $0 }.count == NBDLimits.handshakes - 1)
        #expect(isOpen.suffix(NBDLimits.handshakes / 4).allSatisfy { $0 })
        silent.removeAll()
        harness.becomeIdle()
        #expect(harness.server.isIdle)
    }

    @Test func thoseWhoTalkOutliveThoseWhoDoNot() throws {
        let harness = try ServerHarness()
        let first = harness.connect()
        _ = first.read(18)
        var silent: [TestClient] = []
        for _ in 1..<NBDLimits.handshakes { silent.append(harness.connect()) }
        harness.settle()
        first.write(ClientBytes.flags())
        harness.settle()
        silent.append(harness.connect())
        harness.settle()
        first.write(
            ClientBytes.option(Wire.Option.go, ClientBytes.infoData(Array("tank/0".utf8))))
        #expect(first.read(52).count == 52)
        _ = silent[0].read(18)
        #expect(silent[0].hasEnded() && !silent[1].hasEnded())
    }

    @Test func drippingBytesDoNotStretchTheDeadline() throws {
        let harness = try ServerHarness()
        let client = harness.connect()
        _ = client.read(18)
        let bytes = ClientBytes.flags() + ClientBytes.option(Wire.Option.list)
        for index in 0..<9 {
            client.write([bytes[index]])
            harness.nowNs += 1_000_000_000
            harness.settle()
            #expect(!client.hasEnded())
        }
        client.write([bytes[9]])
        harness.nowNs += 1_100_000_000
        harness.settle()
        #expect(client.hasEnded() && harness.server.isIdle)
    }

    @Test func answersNobodyReadsEndWithTheDeadline() throws {
        let harness = try ServerHarness()
        let client = harness.connect()
        var small: Int32 = 4096
        _ = unsafe setsockopt(client.socket, SOL_SOCKET, SO_RCVBUF, &small, 4)
        var input = ClientBytes.flags()
        for _ in 0..<900 { input += ClientBytes.option(Wire.Option.list) }
        client.write(input, listens: false)
        harness.settle()
        harness.nowNs += NBDLimits.handshakeNs + 2_000_000_000
        harness.settle()
        #expect(harness.server.isIdle)
    }

    // MARK: breaking off

    private static let session: [UInt8] = {
        let name = Array("tank/0".utf8)
        func request(
            _ type: UInt16, _ offset: UInt64, _ length: UInt32, _ flags: UInt16 = 0,
            _ payload: [UInt8] = []
        ) -> [UInt8] {
            ClientBytes.request(
                type, flags: flags, cookie: 1, offset: offset, length: length, payload: payload)
        }
        return ClientBytes.flags() + ClientBytes.option(Wire.Option.structuredReply)
            + ClientBytes.option(Wire.Option.list)
            + ClientBytes.option(10, ClientBytes.contextData(name, ["base:allocation"]))
            + ClientBytes.option(Wire.Option.go, ClientBytes.infoData(name, [3]))
            + request(1, 1 << 20 - 512, 1024, 1, pattern(1024, 1)) + request(0, 0, 2 << 20)
            + request(0, 1 << 20 - 512, 1024, 4) + request(7, 0, 64 << 20)
            + request(4, 0, 8 << 20, 1) + request(6, 512, 3 << 20) + request(5, 0, 16 << 20)
            + request(1, 1, 512, 0, pattern(512, 2)) + request(3, 0, 0) + request(2, 0, 0)
    }()

    /// A whole session, broken off behind each of its bytes: by an end of the stream, by a close
    /// with replies unread (a reset), and by a close that leaves the server's bytes unread too.
    @Test(arguments: 0..<3)
    func breakingOffAnywhereLeavesNothing(way: Int) throws {
        let harness = try ServerHarness(counts: [64, 16, 8, 8], pieceCount: 64)
        for cut in 0...Self.session.count {
            let client = harness.connect()
            client.write(Array(Self.session.prefix(cut)), listens: way == 0)
            switch way {
            case 0:
                shutdown(client.socket, Int32(SHUT_WR))
                for _ in 0..<300 where !client.hasEnded() { harness.turn(waitNs: 100_000) }
                #expect(client.hasEnded())
            case 1: for _ in 0..<3 { harness.turn(waitNs: 0) }
            default: break
            }
            client.hangUp()
            harness.becomeIdle()
            try #require(harness.server.isIdle && harness.holdsNothing, "cut at \(cut)")
        }
        #expect(isServed(harness))
        #expect(harness.server.exports.freeConnections >= NBDLimits.connections - 1)
    }

    @Test func pipelinedReadsThatNobodyTakesAndAClose() throws {
        let harness = try ServerHarness()
        for structured in [false, true] {
            let client = harness.connect()
            client.open(structured: structured)
            var input: [UInt8] = []
            for index in 0..<8 { input += request(0, cookie: UInt64(index), length: 32 << 20) }
            client.write(input, listens: false)
            harness.settle()
            client.hangUp()
            harness.becomeIdle()
            #expect(harness.server.isIdle && harness.holdsNothing)
        }
        #expect(isServed(harness))
    }

    @Test func emptyExportNameAndAnImmediateClose() throws {
        let harness = try ServerHarness()
        for waits in [true, false] {
            let client = harness.connect()
            client.write(
                ClientBytes.flags() + ClientBytes.option(Wire.Option.exportName), listens: false)
            if waits { harness.settle() }
            client.hangUp()
            harness.becomeIdle()
            #expect(harness.server.isIdle)
        }
        #expect(isServed(harness))
    }

    // MARK: improper requests

    @Test(arguments: [false, true])
    func everyFlagBitOfEveryCommandIsAnswered(structured: Bool) throws {
        let harness = try ServerHarness()
        let client = harness.connect()
        client.open(allocation: structured)
        func error() -> UInt32? {
            if !structured { return client.simpleReply()?.error }
            while let chunk = client.chunk() { if chunk.isDone { return chunk.error } }
            return nil
        }
        // READ with DF, WRITE_ZEROES with NO_HOLE and FAST_ZERO, BLOCK_STATUS with REQ_ONE.
        let known: [UInt16: UInt16] = [0: structured ? 4 : 0, 6: 2 | 16, 7: 8]
        for type in UInt16(0)..<24 where type != Wire.Command.disconnect {
            for bit in 0..<16 {
                let flag = UInt16(1) << UInt16(bit)
                let length: UInt32 = type == 3 ? 0 : 512
                let isKnown = type < 8 && (type != 7 || structured)
                let isTaken = isKnown && (flag | 1) & ~(known[type] ?? 0) == 1
                if type == 0 && isTaken && !structured {
                    client.write(request(type, length: length, flags: flag))
                    #expect(client.simpleReply { _ in 512 }?.error == 0)
                    continue
                }
                client.write(
                    request(
                        type, length: length, flags: flag,
                        payload: type == 1 ? pattern(512, 1) : []))
                let found = error()
                #expect(found == (isTaken ? 0 : 22), "command \(type), flag \(flag)")
            }
        }
        harness.settle()
        #expect(harness.holdsNothing)
    }

    @Test func rangesThatOverflowAreRefused() throws {
        let harness = try ServerHarness()
        let client = harness.connect()
        client.open(allocation: true)
        for type in [UInt16(0), 4, 5, 6, 7] {
            let offsets: [UInt64] = [.max - 511, .max - 4095, 1 << 63, 1 << 63 - 512, 1 << 62]
            for offset in offsets {
                for length in [UInt32(512), 4096, 0xffff_fe00] {
                    client.write(request(type, cookie: 3, offset: offset, length: length))
                    let reply = try #require(client.chunk())
                    #expect(reply.error == (type == 6 ? 28 : 22) && reply.cookie == 3)
                }
            }
        }
        #expect(harness.spaces[0].seen.isEmpty)
        client.write(request(3))
        #expect(client.chunk()?.error == 0)
    }

    // MARK: replies nobody reads

    @Test func clientThatTakesNothingIsLetGo() throws {
        let harness = try ServerHarness()
        let client = harness.connect()
        client.open()
        client.write(request(0, length: 32 << 20), listens: false)
        harness.settle()
        #expect(!harness.server.isIdle)
        // Nobody waits for what it holds, so it has long.
        for _ in 0..<25 {
            harness.nowNs += 1_000_000_000
            harness.settle()
        }
        #expect(!harness.server.isIdle)
        #expect(harness.server.nextDeadlineNs != nil)
        for _ in 0..<8 {
            harness.nowNs += 1_000_000_000
            harness.settle()
        }
        #expect(harness.server.isIdle && harness.holdsNothing)
    }

    @Test func clientThatTakesALittleIsNot() throws {
        let harness = try ServerHarness()
        let client = harness.connect()
        client.open()
        client.write(request(0, length: 32 << 20), listens: false)
        for _ in 0..<60 {
            harness.nowNs += 2_000_000_000
            harness.settle()
            #expect(client.take(8192) > 0)
        }
        #expect(!harness.server.isIdle)
        client.hangUp()
        harness.becomeIdle()
        #expect(harness.holdsNothing)
    }

    /// Who pauses in the middle of a payload is in nobody's way while there is memory, however busy
    /// others keep the turns.
    @Test func pausedClientOutlastsAFlood() throws {
        let harness = try ServerHarness()
        let paused = harness.connect()
        paused.open()
        let write = request(1, length: 1 << 20, payload: pattern(mib, 1))
        paused.write(Array(write.prefix(5000)))
        let busy = (0..<2).map { _ in harness.connect() }
        for client in busy { client.open() }
        harness.settle()
        for round in 0..<3 {
            var input: [UInt8] = []
            for _ in 0..<50 { input += request(4, length: 64 << 20) }
            for client in busy { client.write(input) }
            harness.nowNs += 12_000_000_000
            for _ in 0..<20 where harness.server.shared.waiting.isEmpty {
                harness.nowNs += 1_500_000_000
                harness.turn(waitNs: 0)
            }
            // The deadlines were looked at while somebody waited.
            #expect(!harness.server.shared.waiting.isEmpty, "round \(round)")
            for client in busy {
                for _ in 0..<50 { #expect(client.simpleReply()?.error == 0) }
            }
        }
        paused.write(Array(write.dropFirst(5000)))
        #expect(paused.simpleReply() == .init(cookie: 1, error: 0))
    }

    @Test func oneClientLeavesMostOfTheMemory() throws {
        let harness = try ServerHarness(counts: [60, 60, 60, 60])
        let client = harness.connect()
        client.open()
        var input: [UInt8] = []
        for index in 0..<200 { input += request(0, cookie: UInt64(index), length: 32 << 20) }
        client.write(input, listens: false)
        harness.settle()
        #expect(harness.arena.freeBuffers(bytes: 1 << 20) >= 60 * 2 / 3 - 1)
        client.hangUp()
        harness.becomeIdle()
        #expect(harness.holdsNothing)
    }

    // MARK: memory

    @Test func memoryOfAConnectionIsTheKernelsAgain() throws {
        let harness = try ServerHarness()
        let client = harness.connect()
        client.open()
        for index in 0..<NBDLimits.requestsPerConnection * 5 {
            client.write(request(3, cookie: UInt64(index)))
            #expect(client.simpleReply()?.error == 0)
        }
        #expect(residentPages(harness.server.connections[0].requests) > 0)
        client.hangUp()
        harness.becomeIdle()
        #expect(residentPages(harness.server.connections[0].requests) == 0)
    }

    private func residentPages(_ table: borrowing FixedTable<RequestRecord>) -> Int {
        let bytes = table.count * MemoryLayout<RequestRecord>.stride
        var pages = [UInt8](repeating: 0, count: (bytes + 4095) / 4096)
        let result = unsafe mincore(table.pointer(0), bytes, &pages)
        precondition(result == 0)
        return pages.reduce(0) { $0 + Int($1 & 1) }
    }
}
