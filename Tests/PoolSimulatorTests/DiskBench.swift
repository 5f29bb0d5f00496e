import PoolEngine
import Testing

@testable import PoolSimulator

/// A disk, an arena and short hands around them.
struct DiskBench {
    var disk: SimulatedDisk
    let arena = BufferArena(counts: [16, 4, 2, 2])
    var random: SeededRandom
    private var nextToken: UInt32 = 1

    init(sectorBytes: Int = 512, supportsDiscard: Bool = true, seed: UInt64 = 9) {
        random = SeededRandom(seed: seed)
        disk = SimulatedDisk(
            sizeBytes: 1 << 30, sectorBytes: sectorBytes, supportsDiscard: supportsDiscard,
            seed: 5)
    }

    mutating func start(
        _ kind: DeviceOperation.Kind, _ offset: UInt64 = 0, _ length: Int = 0, fill: UInt8 = 0
    ) -> (token: UInt32, buffer: Int) {
        let buffer = arena.take(bytes: max(length, 1)) ?? 0
        if kind == .write {
            unsafe arena.bytes(buffer, length).initializeMemory(as: UInt8.self, repeating: fill)
        }
        let token = nextToken
        nextToken += 1
        let wrong = disk.submit(
            DeviceOperation(
                kind: kind, device: DeviceIndex(0), token: token, offsetBytes: offset,
                lengthBytes: UInt64(length), bufferOffset: buffer), arena: arena)
        #expect(wrong == nil)
        return (token, buffer)
    }

    @discardableResult
    mutating func end(_ started: (token: UInt32, buffer: Int)) -> DeviceStatus {
        let (status, wrong) = disk.complete(
            token: started.token, arena: arena, random: &random)
        #expect(wrong == nil)
        return status
    }

    @discardableResult
    mutating func write(_ offset: UInt64, _ length: Int, _ fill: UInt8) -> DeviceStatus {
        through(start(.write, offset, length, fill: fill))
    }

    @discardableResult
    mutating func read(_ offset: UInt64, _ length: Int) -> DeviceStatus {
        through(start(.read, offset, length))
    }

    @discardableResult
    mutating func flush() -> DeviceStatus { through(start(.flush)) }

    /// Ends it and gives its buffer back.
    private mutating func through(_ started: (token: UInt32, buffer: Int)) -> DeviceStatus {
        defer { arena.give(started.buffer) }
        return end(started)
    }

    mutating func set(_ fault: DiskFault) { disk.set(fault, random: &random) }

    mutating func disconnect() { disk.disconnect(random: &random) }

    mutating func cutPower(_ policy: CutPolicy = .dropAll) {
        disk.cutPower(policy, random: &random)
    }

    /// The first byte of every 512.
    func fills(_ offset: UInt64, _ count: Int) -> [UInt8] {
        stride(from: 0, to: count, by: 512).map { disk.contents(offset + UInt64($0), 1)[0] }
    }
}
