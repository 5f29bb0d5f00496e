import PoolEngine

@testable import PoolNBD

/// Bytes that differ from block to block, made fast enough for large payloads.
func pattern(_ count: Int, _ seed: Int) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(count + 4096)
    let block = (0..<509).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ seed &* 17) }
    while bytes.count < count { bytes.append(contentsOf: block) }
    bytes.removeLast(bytes.count - count)
    return bytes
}

/// Bytes as a client writes them.
enum ClientBytes {
    static func flags(_ value: UInt32 = 3) -> [UInt8] { bigEndian(value) }

    static func option(_ option: UInt32, _ data: [UInt8] = []) -> [UInt8] {
        bigEndian(Wire.optionMagic) + bigEndian(option) + bigEndian(UInt32(data.count)) + data
    }

    static func infoData(_ name: [UInt8], _ kinds: [UInt16] = []) -> [UInt8] {
        bigEndian(UInt32(name.count)) + name + bigEndian(UInt16(kinds.count))
            + kinds.flatMap { bigEndian($0) }
    }

    static func contextData(_ name: [UInt8], _ queries: [String]) -> [UInt8] {
        bigEndian(UInt32(name.count)) + name + bigEndian(UInt32(queries.count))
            + queries.flatMap { bigEndian(UInt32($0.utf8.count)) + Array($0.utf8) }
    }

    static func request(
        _ type: UInt16, flags: UInt16 = 0, cookie: UInt64, offset: UInt64 = 0, length: UInt32 = 0,
        payload: [UInt8] = []
    ) -> [UInt8] {
        bigEndian(Wire.requestMagic) + bigEndian(flags) + bigEndian(type) + bigEndian(cookie)
            + bigEndian(offset) + bigEndian(length) + payload
    }

    static func bigEndian<T: FixedWidthInteger & UnsignedInteger>(_ value: T) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.appendBigEndian(value)
        return bytes
    }
}

/// One answer to an option as a client reads it.
struct OptionAnswer: Equatable {
    var option: UInt32
    var reply: UInt32
    var data: [UInt8]

    /// nil where the bytes are not whole answers.
    static func parse(_ bytes: [UInt8]) -> [OptionAnswer]? {
        var rest = bytes[...]
        var answers: [OptionAnswer] = []
        while !rest.isEmpty {
            guard rest.count >= 20 else { return nil }
            let head = Array(rest.prefix(20))
            guard head.span.bigEndian(0, as: UInt64.self) == Wire.optionReplyMagic else {
                return nil
            }
            let length = Int(head.span.bigEndian(16, as: UInt32.self))
            rest = rest.dropFirst(20)
            guard rest.count >= length else { return nil }
            answers.append(
                OptionAnswer(
                    option: head.span.bigEndian(8, as: UInt32.self),
                    reply: head.span.bigEndian(12, as: UInt32.self),
                    data: Array(rest.prefix(length))))
            rest = rest.dropFirst(length)
        }
        return answers
    }
}

/// How a handshake went.
struct HandshakeResult: Equatable {
    var output: [UInt8] = []
    var begun: String?
    var hasEnded = false
    var terms = SessionTerms()
    /// Input that belongs to the transmission phase.
    var rest: [UInt8] = []
}

extension ExportTable {
    static var sample: ExportTable {
        let table = ExportTable()
        table.publish(
            name: "tank/vm1", space: SpaceHandle(index: 0, serial: 1), sizeBytes: 64 << 20,
            isReadOnly: false)
        table.publish(
            name: "tank/archive", space: SpaceHandle(index: 1, serial: 1), sizeBytes: 32 << 20,
            isReadOnly: true)
        return table
    }
}

/// Feeds input in chunks of so many bytes, as sockets do.
func shake(
    _ input: [UInt8], chunkBytes: Int, exports: ExportTable = .sample
) -> HandshakeResult {
    var handshake = Handshake()
    var result = HandshakeResult()
    var pending: [UInt8] = []
    var next = 0
    while true {
        let step = handshake.step(pending.span, exports: exports, output: &result.output)
        pending.removeFirst(step.consumedBytes)
        result.terms = handshake.terms
        switch step.outcome {
        case .answered: continue
        case .ends:
            result.hasEnded = true
            return result
        case .begins(let export):
            result.begun = export.name
            result.rest = pending + input[next...]
            return result
        case .needsInput:
            if step.consumedBytes > 0 && !pending.isEmpty { continue }
            guard next < input.count else { return result }
            let end = min(input.count, next + chunkBytes)
            pending += input[next..<end]
            next = end
        }
    }
}
