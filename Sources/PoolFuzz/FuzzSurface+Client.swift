import PoolEngine
import PoolNBD

/// What a block client sends.
extension FuzzSurface {
    /// How a handshake went.
    private struct Shaken: Equatable {
        var output: [UInt8] = []
        var begun: String?
        var hasEnded = false
        var terms = SessionTerms()
        /// Input that belongs to the transmission phase.
        var rest: [UInt8] = []
    }

    private static let stepLimit = 10_000

    /// Input: a byte that says where the stream is cut, then the stream. However it is cut, the
    /// answers are the same.
    func runHandshake(_ reader: inout InputReader) throws(FuzzFinding) -> Bool {
        let cut = Int(reader.u8())
        let stream = reader.rest()
        let exports = ExportTable()
        exports.publish(
            name: "tank/vm1", space: SpaceHandle(index: 0, serial: 1), sizeBytes: 64 << 20,
            isReadOnly: false)
        exports.publish(
            name: "t/a", space: SpaceHandle(index: 1, serial: 1), sizeBytes: 1 << 60,
            isReadOnly: true)
        let whole = try shake(stream, chunkBytes: max(1, stream.count), exports)
        let inParts = try shake(stream, chunkBytes: 1 + cut % 64, exports)
        try promise(whole == inParts, "a handshake depends on how its bytes are cut")
        return whole.begun != nil
    }

    private func shake(
        _ input: [UInt8], chunkBytes: Int, _ exports: ExportTable
    ) throws(FuzzFinding) -> Shaken {
        var handshake = Handshake()
        var result = Shaken()
        var pending: [UInt8] = []
        var next = 0
        for _ in 0..<Self.stepLimit {
            let before = result.output.count
            let step = handshake.step(pending.span, exports: exports, output: &result.output)
            try promise(
                step.consumedBytes >= 0 && step.consumedBytes <= pending.count,
                "\(step.consumedBytes) of \(pending.count) bytes were consumed")
            try promise(
                result.output.count - before <= NBDLimits.stagingBytes,
                "one option is answered with \(result.output.count - before) bytes")
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
        throw FuzzFinding("\(input.count) bytes of handshake take more than \(Self.stepLimit) steps")
    }

    /// Input: a byte that chooses the space and what was agreed on, then the 28 bytes of a request's head.
    func runRequest(_ reader: inout InputReader) throws(FuzzFinding) -> Bool {
        let choice = reader.u8()
        let sizes: [UInt64] = [64 << 20, 0, 1 << 20, 1 << 60, 1 << 63, .max - 511]
        let sizeBytes = sizes[Int(choice >> 1 & 7) % sizes.count]
        let isReadOnly = choice & 1 == 1
        var head = reader.rest()
        head.append(contentsOf: repeatElement(0, count: max(0, RequestHeader.bytes - head.count)))
        // Otherwise most inputs would end at the magic number.
        if choice & 0x80 == 0 { head.replaceSubrange(0..<4, with: [0x25, 0x60, 0x95, 0x13]) }
        guard let header = RequestHeader(head.span) else { return false }
        try promise(
            UInt64(header.payloadBytes) <= UInt64(header.lengthBytes), "a payload outgrows its WRITE")
        let terms = SessionTerms(
            usesStructuredReplies: choice & 0x40 != 0, hasAllocationContext: choice & 0x20 != 0)
        switch header.verdict(sizeBytes: sizeBytes, isReadOnly: isReadOnly, terms: terms) {
        case .disconnect, .refuse, .succeed: return false
        case .proceed(let kind, _):
            let (end, overflow) = header.offsetBytes.addingReportingOverflow(
                UInt64(header.lengthBytes))
            try promise(!overflow && end <= sizeBytes, "a \(kind) ends past its space")
            try promise(
                header.offsetBytes % NBDLimits.minimumBlockBytes == 0
                    && UInt64(header.lengthBytes) % NBDLimits.minimumBlockBytes == 0,
                "a \(kind) of part of a sector proceeds")
            switch kind {
            case .write, .trim, .writeZeroes:
                try promise(!isReadOnly, "a \(kind) proceeds on a read-only space")
            case .read, .flush, .blockStatus, .cache: break
            }
            if kind == .read || kind == .write {
                try promise(
                    UInt64(header.lengthBytes) <= NBDLimits.maximumPayloadBytes,
                    "a \(kind) is longer than was advertised")
            }
            return true
        }
    }
}
