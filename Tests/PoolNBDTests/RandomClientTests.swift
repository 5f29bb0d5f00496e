import PoolEngine
import Testing

@testable import PoolNBD

/// Many requests at once, answered in any order, in both reply styles and with little memory: each
/// is answered once, with the bytes a plain array would have given.
@Suite struct RandomClientTests {
    @Test(arguments: [(UInt64(1), false), (2, true), (3, false), (4, true), (5, false), (6, true)])
    func everyRequestIsAnsweredOnce(seed: UInt64, structured: Bool) throws {
        let harness = try ServerHarness(counts: [32, 8, 4, 3], pieceCount: 48, seed: seed)
        let client = harness.connect()
        client.open(allocation: structured)
        var random = SplitMix(seed: seed)
        var model = [UInt8](repeating: 0, count: 64 << 20)
        for round in 0..<6 {
            // Requests of one round touch slots of their own, so that their order does not matter.
            var input: [UInt8] = []
            var reads: [UInt64: Range<Int>] = [:]
            var open: Set<UInt64> = []
            for slot in 0..<16 {
                let cookie = UInt64(round * 100 + slot)
                let start = slot * (4 << 20) + random.next(2048) * 512
                let longest = random.next(5) == 0 ? 6000 : 24
                let count = (1 + random.next(longest)) * 512
                let range = start..<start + count
                open.insert(cookie)
                let type = [UInt16(0), 0, 1, 1, 4, 6, 5, structured ? 7 : 5][random.next(8)]
                var payload: [UInt8] = []
                switch type {
                case 0: reads[cookie] = range
                case 1:
                    payload = pattern(count, slot + 16 * round)
                    model.replaceSubrange(range, with: payload)
                case 5, 7: break
                default: model.replaceSubrange(range, with: [UInt8](repeating: 0, count: count))
                }
                input += ClientBytes.request(
                    type, flags: UInt16(random.next(2)), cookie: cookie, offset: UInt64(start),
                    length: UInt32(count), payload: payload)
            }
            client.write(input, chunkBytes: [Int.max, 100_000, 1000][random.next(3)])
            var parts: [UInt64: Int] = [:]
            while !open.isEmpty {
                if structured {
                    let chunk = try #require(client.chunk())
                    #expect(open.contains(chunk.cookie) && chunk.error == 0)
                    if chunk.type == Wire.Chunk.offsetData {
                        let at = Int(chunk.offset)
                        #expect(chunk.data == Array(model[at..<at + chunk.data.count]))
                        parts[chunk.cookie, default: 0] += chunk.data.count
                    }
                    #expect(chunk.extents.isEmpty == (chunk.type != Wire.Chunk.blockStatus))
                    if chunk.isDone {
                        open.remove(chunk.cookie)
                        #expect(parts[chunk.cookie] == reads[chunk.cookie]?.count)
                    }
                } else {
                    let reply = try #require(client.simpleReply { reads[$0]?.count ?? 0 })
                    #expect(reply.error == 0 && open.remove(reply.cookie) != nil)
                    if let range = reads[reply.cookie] {
                        #expect(reply.data == Array(model[range]))
                    }
                }
            }
        }
        #expect(harness.spaces[0].bytes == model)
        harness.settle()
        #expect(harness.holdsNothing)
    }

    /// Whatever a client sends, the server neither traps nor keeps anything.
    @Test func hostileBytesLeaveNothingBehind() throws {
        let harness = try ServerHarness(counts: [32, 8, 4, 4], pieceCount: 48)
        var random = SplitMix(seed: 99)
        for _ in 0..<300 {
            let client = harness.connect()
            client.open(allocation: random.next(2) == 0)
            var bytes: [UInt8] = []
            for _ in 0..<20 {
                bytes += ClientBytes.request(
                    UInt16(random.next(9)), flags: UInt16(random.next(32)), cookie: 1,
                    offset: UInt64(random.next(1 << 18)) * 256,
                    length: UInt32(random.next(64))
                        * UInt32([128, 512, 4096, 1 << 16][random.next(4)]))
                if random.next(5) == 0 { bytes[bytes.count - 1 - random.next(28)] ^= 0x40 }
                bytes += (0..<random.next(600)).map { UInt8($0 & 0xff) }
            }
            client.write(bytes)
            client.hangUp()
            for _ in 0..<200 where !harness.server.isIdle { harness.turn() }
            #expect(harness.server.isIdle && harness.holdsNothing)
        }
    }
}
