import PoolEngine

/// The handshake of one connection as a value: bytes in, bytes out, no I/O.
///
///     greeting sent
///          v
///     .clientFlags --unknown flag--> close
///          v
///     .option <----------------------------+
///       |  |  \--wrong magic, ABORT,       |
///       |  |     no such export--> close   |
///       |  +--answered---------------------+
///       |  +--too long--> .skipping -------+   the answer comes once its data is skipped
///       v
///     .ended   GO or EXPORT_NAME succeeded: what follows is the transmission phase
public struct Handshake: Sendable {
    enum State: Sendable {
        /// Nothing received yet; 4 bytes of flags come next.
        case clientFlags
        /// Between options.
        case option
        /// An option is refused for its length; so many bytes of it are still to come.
        case skipping(option: UInt32, remainingBytes: UInt32)
        case ended
    }

    public enum Outcome: Sendable {
        /// The next step needs more input than there was.
        case needsInput
        /// One option is dealt with. The rest of the input waits until the answer has gone out, so
        /// one client's answers are bounded.
        case answered
        /// Transmission begins once the answer has gone out.
        case begins(Export)
        /// The connection ends once the answer has gone out (there may be none).
        case ends
    }

    /// What the server says first.
    public static var greeting: [UInt8] {
        var bytes: [UInt8] = []
        bytes.appendBigEndian(Wire.greetingMagic)
        bytes.appendBigEndian(Wire.optionMagic)
        bytes.appendBigEndian(Wire.HandshakeFlag.fixedNewstyle | Wire.HandshakeFlag.noZeroes)
        return bytes
    }

    private var state = State.clientFlags
    private var omitsZeroes = false
    private var usesStructuredReplies = false
    /// The export whose "base:allocation" the client selected last.
    private var allocationExport: [UInt8]?
    private var optionCount = 0
    private var optionBytes = 0
    /// What was agreed on; complete once the handshake has begun transmission.
    public private(set) var terms = SessionTerms()

    public init() {}

    /// Takes one step.
    ///
    /// - Parameters:
    ///   - input: everything received and not yet consumed. An option and its data fit into
    ///     ``NBDLimits/optionBytes`` + 16; longer ones are consumed in parts.
    ///   - output: answers are appended.
    /// - Returns: how many bytes of the input were used up, and what to do next.
    public mutating func step(
        _ input: Span<UInt8>, exports: ExportTable, output: inout [UInt8]
    ) -> (consumedBytes: Int, outcome: Outcome) {
        switch state {
        case .clientFlags:
            guard input.count >= 4 else { return (0, .needsInput) }
            let flags = input.bigEndian(0, as: UInt32.self)
            let known = Wire.HandshakeFlag.fixedNewstyle | Wire.HandshakeFlag.noZeroes
            guard flags & ~UInt32(known) == 0 else { return end(4) }
            omitsZeroes = flags & UInt32(Wire.HandshakeFlag.noZeroes) != 0
            state = .option
            return (4, .answered)
        case .option:
            return optionStep(input, exports: exports, output: &output)
        case .skipping(let option, let remaining):
            let skipped = min(input.count, Int(remaining))
            if skipped < Int(remaining) {
                state = .skipping(option: option, remainingBytes: remaining - UInt32(skipped))
                return (skipped, .needsInput)
            }
            state = .option
            output.append(reply: .tooBig, to: option)
            return (skipped, .answered)
        case .ended:
            return (0, .ends)
        }
    }

    private mutating func optionStep(
        _ input: Span<UInt8>, exports: ExportTable, output: inout [UInt8]
    ) -> (consumedBytes: Int, outcome: Outcome) {
        let head = Wire.optionHeaderBytes
        guard input.count >= head else { return (0, .needsInput) }
        guard input.bigEndian(0, as: UInt64.self) == Wire.optionMagic else { return end(head) }
        let option = input.bigEndian(8, as: UInt32.self)
        let length = input.bigEndian(12, as: UInt32.self)
        guard optionCount < NBDLimits.handshakeOptions,
            Int(length) <= NBDLimits.handshakeBytes - optionBytes
        else { return end(head) }
        if length > NBDLimits.optionBytes {
            // No answer is possible to a name that is too long.
            guard option != Wire.Option.exportName else { return end(head) }
            count(length)
            state = .skipping(option: option, remainingBytes: length)
            return (head, .needsInput)
        }
        let total = head + Int(length)
        guard input.count >= total else { return (0, .needsInput) }
        count(length)
        let data = input.extracting(head..<total)
        return (total, answer(option, data, exports: exports, output: &output))
    }

    private mutating func count(_ lengthBytes: UInt32) {
        optionCount += 1
        optionBytes += Int(lengthBytes)
    }

    private mutating func answer(
        _ option: UInt32, _ data: Span<UInt8>, exports: ExportTable, output: inout [UInt8]
    ) -> Outcome {
        switch option {
        case Wire.Option.exportName:
            guard let export = exports.find(data), exports.admits(export) else {
                return end(0).outcome
            }
            output.appendBigEndian(export.sizeBytes)
            output.appendBigEndian(flags(of: export).rawValue)
            if !omitsZeroes {
                output.append(contentsOf: repeatElement(0, count: Wire.exportNamePaddingBytes))
            }
            return begin(export)
        case Wire.Option.abort:
            output.append(reply: .acknowledge, to: option)
            return end(0).outcome
        case Wire.Option.list:
            guard data.isEmpty else { return refuse(option, .invalid, &output) }
            for name in exports.names {
                var payload: [UInt8] = []
                payload.appendBigEndian(UInt32(name.utf8.count))
                payload.append(contentsOf: name.utf8)
                output.append(reply: .server, to: option, payload)
            }
            output.append(reply: .acknowledge, to: option)
            return .answered
        case Wire.Option.info, Wire.Option.go:
            return inform(option, data, exports: exports, output: &output)
        case Wire.Option.structuredReply:
            guard data.isEmpty else { return refuse(option, .invalid, &output) }
            usesStructuredReplies = true
            output.append(reply: .acknowledge, to: option)
            return .answered
        case Wire.Option.listMetaContext, Wire.Option.setMetaContext:
            return selectContexts(option, data, exports: exports, output: &output)
        default:
            return refuse(option, .unsupported, &output)
        }
    }

    private func flags(of export: Export) -> TransmissionFlags {
        usesStructuredReplies
            ? export.transmissionFlags.union(.sendUnfragmented) : export.transmissionFlags
    }

    private mutating func begin(_ export: Export) -> Outcome {
        state = .ended
        terms = SessionTerms(
            usesStructuredReplies: usesStructuredReplies,
            hasAllocationContext: allocationExport == Array(export.name.utf8))
        return .begins(export)
    }

    /// INFO and GO.
    private mutating func inform(
        _ option: UInt32, _ data: Span<UInt8>, exports: ExportTable, output: inout [UInt8]
    ) -> Outcome {
        guard let query = InfoQuery(data) else { return refuse(option, .invalid, &output) }
        guard query.name.count <= NBDLimits.nameBytes else {
            return refuse(option, .tooBig, &output)
        }
        guard let export = exports.find(query.name.span) else {
            return refuse(option, .unknown, &output)
        }
        let begins = option == Wire.Option.go
        guard !begins || exports.admits(export) else { return refuse(option, .policy, &output) }

        var payload: [UInt8] = []
        payload.appendBigEndian(Wire.Info.export)
        payload.appendBigEndian(export.sizeBytes)
        payload.appendBigEndian(flags(of: export).rawValue)
        output.append(reply: .info, to: option, payload)
        if query.asksName {
            payload.removeAll()
            payload.appendBigEndian(Wire.Info.name)
            payload.append(contentsOf: export.name.utf8)
            output.append(reply: .info, to: option, payload)
        }
        if query.asksBlockSize {
            payload.removeAll()
            payload.appendBigEndian(Wire.Info.blockSize)
            payload.appendBigEndian(UInt32(NBDLimits.minimumBlockBytes))
            payload.appendBigEndian(UInt32(NBDLimits.preferredBlockBytes))
            payload.appendBigEndian(UInt32(NBDLimits.maximumPayloadBytes))
            output.append(reply: .info, to: option, payload)
        }
        output.append(reply: .acknowledge, to: option)
        return begins ? begin(export) : .answered
    }

    /// LIST_META_CONTEXT and SET_META_CONTEXT. Setting replaces what was set before, and so does
    /// an attempt that fails.
    private mutating func selectContexts(
        _ option: UInt32, _ data: Span<UInt8>, exports: ExportTable, output: inout [UInt8]
    ) -> Outcome {
        let sets = option == Wire.Option.setMetaContext
        if sets { allocationExport = nil }
        guard usesStructuredReplies, let query = MetaContextQuery(data) else {
            return refuse(option, .invalid, &output)
        }
        guard query.name.count <= NBDLimits.nameBytes else {
            return refuse(option, .tooBig, &output)
        }
        guard exports.find(query.name.span) != nil else {
            return refuse(option, .unknown, &output)
        }
        if sets ? query.asksAllocation : query.listsAllocation {
            var payload: [UInt8] = []
            payload.appendBigEndian(sets ? Wire.Allocation.contextID : 0)
            payload.append(contentsOf: Wire.Allocation.name.utf8)
            output.append(reply: .metaContext, to: option, payload)
            if sets { allocationExport = query.name }
        }
        output.append(reply: .acknowledge, to: option)
        return .answered
    }

    private func refuse(
        _ option: UInt32, _ reply: OptionReply, _ output: inout [UInt8]
    ) -> Outcome {
        output.append(reply: reply, to: option)
        return .answered
    }

    private mutating func end(_ consumed: Int) -> (consumedBytes: Int, outcome: Outcome) {
        state = .ended
        return (consumed, .ends)
    }
}

/// The data of INFO and GO: a name and the kinds of information asked for.
struct InfoQuery {
    var name: [UInt8]
    var asksName = false
    var asksBlockSize = false

    /// nil where the lengths inside do not add up to the length outside.
    init?(_ data: Span<UInt8>) {
        guard data.count >= 6 else { return nil }
        let nameLength = data.bigEndian(0, as: UInt32.self)
        guard Int(nameLength) <= data.count - 6 else { return nil }
        let nameEnd = 4 + Int(nameLength)
        let count = Int(data.bigEndian(nameEnd, as: UInt16.self))
        guard data.count == nameEnd + 2 + 2 * count else { return nil }
        name = data.array(4..<nameEnd)
        for index in 0..<count {
            switch data.bigEndian(nameEnd + 2 + 2 * index, as: UInt16.self) {
            case Wire.Info.name: asksName = true
            case Wire.Info.blockSize: asksBlockSize = true
            default: break
            }
        }
    }
}

extension [UInt8] {
    fileprivate mutating func append(
        reply: OptionReply, to option: UInt32, _ payload: [UInt8] = []
    ) {
        appendBigEndian(Wire.optionReplyMagic)
        appendBigEndian(option)
        appendBigEndian(reply.rawValue)
        appendBigEndian(UInt32(payload.count))
        append(contentsOf: payload)
    }
}
