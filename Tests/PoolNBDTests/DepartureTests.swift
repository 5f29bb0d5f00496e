import Glibc
import PoolEngine
import Testing

@testable import PoolNBD

private let mib = 1 << 20

/// A client shakes hands on one shard and is served on another.
@Suite struct DepartureTests {
    /// The shard that listens, and the one that has the spaces.
    private func shards(spaceCount: Int = 1) throws -> (front: ServerHarness, home: ServerHarness) {
        let front = try ServerHarness(spaceCount: spaceCount, shard: 0, spacesShard: 1)
        return (front, try ServerHarness(spaceCount: spaceCount, shard: 1))
    }

    private func request(
        _ type: UInt16, cookie: UInt64, offset: Int = 0, length: Int = 0, payload: [UInt8] = []
    ) -> [UInt8] {
        ClientBytes.request(
            type, cookie: cookie, offset: UInt64(offset), length: UInt32(length), payload: payload)
    }

    /// Takes the one departure that there is.
    private func departure(_ front: ServerHarness) throws -> Departure {
        front.settle()
        let departures = front.server.departures
        front.server.departures.removeAll()
        try #require(departures.count == 1)
        return departures[0]
    }

    @Test func clientGoesOnWhereItsSpaceIs() throws {
        let (front, home) = try shards()
        let client = front.connect()
        client.open()
        let departure = try departure(front)
        #expect(departure.shard == 1 && departure.exportName == "tank/0")
        #expect(front.server.isIdle)
        #expect(front.server.exports.connections(name: "tank/0") == 0)
        #expect(home.server.adopt(departure))
        #expect(home.server.exports.connections(name: "tank/0") == 1)
        client.harness = home
        let data = pattern(3 * mib, 1)
        client.write(request(1, cookie: 1, offset: 512, length: 3 * mib, payload: data))
        #expect(client.simpleReply() == .init(cookie: 1, error: 0))
        client.write(request(0, cookie: 2, offset: 512, length: 3 * mib))
        #expect(client.simpleReply { _ in 3 * mib }?.data == data)
        #expect(front.spaces[0].seen.isEmpty)
        client.hangUp()
        home.becomeIdle()
        #expect(home.server.isIdle && home.holdsNothing)
        #expect(home.server.exports.connections(name: "tank/0") == 0)
    }

    /// However much was sent ahead, none of it is lost: what was received goes along, the rest
    /// waits in the socket.
    @Test(arguments: [1, 28, 29, 500, 12_000, 200_000])
    func whatWasSentAheadIsServed(aheadBytes: Int) throws {
        let (front, home) = try shards()
        let client = front.connect()
        _ = client.read(18)
        let data = pattern(aheadBytes / 512 * 512 + 512, 3)
        let write = request(1, cookie: 7, length: data.count, payload: data)
        let shake =
            ClientBytes.flags()
            + ClientBytes.option(Wire.Option.go, ClientBytes.infoData(Array("tank/0".utf8)))
        client.write(shake + write.prefix(aheadBytes))
        #expect(client.read(52).count == 52)
        let departure = try departure(front)
        client.harness = home
        #expect(home.server.adopt(departure))
        client.write(Array(write.dropFirst(aheadBytes)))
        #expect(client.simpleReply() == .init(cookie: 7, error: 0))
        #expect(Array(home.spaces[0].bytes[0..<data.count]) == data)
    }

    @Test func agreementsGoAlong() throws {
        let (front, home) = try shards()
        let client = front.connect()
        client.open(allocation: true)
        #expect(home.server.adopt(try departure(front)))
        client.harness = home
        client.write(request(7, cookie: 1, length: 64 * mib))
        #expect(client.chunk()?.extents == [.init(length: 64 * mib, flags: 3)])
        client.write(request(0, cookie: 2, length: 4096))
        #expect(client.chunk()?.type == Wire.Chunk.offsetData)
    }

    @Test func exportNameDepartsToo() throws {
        let (front, home) = try shards()
        let client = front.connect()
        _ = client.read(18)
        client.write(
            ClientBytes.flags(1)
                + ClientBytes.option(Wire.Option.exportName, Array("tank/0".utf8)))
        // The answer has gone out whole before the client leaves.
        #expect(client.read(134).count == 134)
        #expect(home.server.adopt(try departure(front)))
        client.harness = home
        client.write(request(3, cookie: 1))
        #expect(client.simpleReply() == .init(cookie: 1, error: 0))
    }

    enum Refusal: CaseIterable {
        case withdrawn, anotherSpace, anotherShard, full, shuttingDown
    }

    @Test(arguments: Refusal.allCases)
    func whoeverCannotBeServedIsClosed(refusal: Refusal) throws {
        let (front, home) = try shards()
        let client = front.connect()
        client.open()
        let departure = try departure(front)
        var target = home.server
        switch refusal {
        case .withdrawn: home.server.exports.withdraw(name: "tank/0")
        case .anotherSpace:
            // Destroyed, and made again under the same name.
            home.server.exports.publish(
                name: "tank/0", space: SpaceHandle(index: 0, serial: 2), sizeBytes: 64 << 20,
                isReadOnly: false, shard: 1)
        case .anotherShard: target = front.server
        case .full: home.server.exports.freeConnections = 0
        case .shuttingDown: home.server.shutdown()
        }
        #expect(!target.adopt(departure))
        #expect(client.read(1).isEmpty && client.isAtEnd)
        #expect(target.isIdle)
    }

    @Test func departuresNobodyTookAreClosedWithTheServer() throws {
        let (front, _) = try shards()
        let client = front.connect()
        client.open()
        front.settle()
        #expect(front.server.departures.count == 1)
        front.server.shutdown()
        #expect(front.server.departures.isEmpty && front.server.isIdle)
        #expect(client.read(1).isEmpty && client.isAtEnd)
    }

    /// What the client was told holds for it, though the space has grown meanwhile.
    @Test func sizeIsTheOneTheClientKnows() throws {
        let (front, home) = try shards()
        let client = front.connect()
        client.open()
        home.server.exports.publish(
            name: "tank/0", space: SpaceHandle(index: 0, serial: 1), sizeBytes: 128 << 20,
            isReadOnly: false, shard: 1)
        #expect(home.server.adopt(try departure(front)))
        client.harness = home
        client.write(request(0, cookie: 1, offset: 64 * mib, length: 512))
        #expect(client.simpleReply() == .init(cookie: 1, error: 22))
    }

    @Test func manyClientsComeAndGo() throws {
        let (front, home) = try shards(spaceCount: 2)
        for round in 0..<600 {
            let client = front.connect()
            client.open("tank/\(round % 2)")
            let departure = try departure(front)
            if round % 3 == 0 { client.hangUp() }
            #expect(home.server.adopt(departure))
            client.harness = home
            if round % 3 == 1 {
                client.write(request(3, cookie: 1))
                #expect(client.simpleReply() == .init(cookie: 1, error: 0))
            }
            client.hangUp()
            home.becomeIdle()
        }
        #expect(front.server.isIdle && home.server.isIdle)
        #expect(home.holdsNothing)
        #expect(home.server.connections.count == 1)
    }
}
