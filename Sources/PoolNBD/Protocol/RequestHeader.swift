import PoolEngine

/// One request of the transmission phase as it stands on the wire.
///
///      0        4     6     8          16         24       28
///     +--------+-----+-----+----------+----------+--------+
///     | magic  |flags|type | cookie   | offset   | length |  then `length` bytes of a WRITE
///     +--------+-----+-----+----------+----------+--------+
public struct RequestHeader: Hashable, Sendable {
    public static let bytes = 28

    public var flags: UInt16
    public var type: UInt16
    /// The client's own; returned unread.
    public var cookie: UInt64
    public var offsetBytes: UInt64
    public var lengthBytes: UInt32

    public init(
        flags: UInt16 = 0, type: UInt16, cookie: UInt64, offsetBytes: UInt64, lengthBytes: UInt32
    ) {
        self.flags = flags
        self.type = type
        self.cookie = cookie
        self.offsetBytes = offsetBytes
        self.lengthBytes = lengthBytes
    }

    /// nil: the magic is wrong, so nothing that follows can be trusted either.
    ///
    /// - Parameter input: at least 28 bytes.
    public init?(_ input: Span<UInt8>) {
        guard input.bigEndian(0, as: UInt32.self) == Wire.requestMagic else { return nil }
        flags = input.bigEndian(4, as: UInt16.self)
        type = input.bigEndian(6, as: UInt16.self)
        cookie = input.bigEndian(8, as: UInt64.self)
        offsetBytes = input.bigEndian(16, as: UInt64.self)
        lengthBytes = input.bigEndian(24, as: UInt32.self)
    }

    /// Bytes that follow the header, whatever becomes of the request.
    public var payloadBytes: UInt32 { type == Wire.Command.write ? lengthBytes : 0 }

    /// What a refusal has to look like: in a structured reply where these were agreed on and the
    /// command's success would be one.
    var replyKind: SpaceRequest.Kind {
        switch type {
        case Wire.Command.read: .read
        case Wire.Command.blockStatus: .blockStatus
        default: .flush
        }
    }

    var isUnfragmented: Bool { flags & Wire.CommandFlag.unfragmented != 0 }
    var asksOneExtent: Bool { flags & Wire.CommandFlag.oneExtent != 0 }

    /// What to do with the request: nothing beyond this point meets a range that is not inside the
    /// space, or a length or flag that it cannot carry.
    public func verdict(
        sizeBytes: UInt64, isReadOnly: Bool, terms: SessionTerms
    ) -> RequestVerdict {
        let kind: SpaceRequest.Kind
        var allowed = Wire.CommandFlag.fua
        switch type {
        case Wire.Command.read:
            kind = .read
            if terms.usesStructuredReplies { allowed |= Wire.CommandFlag.unfragmented }
        case Wire.Command.write: kind = .write
        case Wire.Command.flush: kind = .flush
        case Wire.Command.trim: kind = .trim
        case Wire.Command.writeZeroes:
            kind = .writeZeroes
            allowed |= Wire.CommandFlag.noHole | Wire.CommandFlag.fastZero
        case Wire.Command.cache: kind = .cache
        case Wire.Command.blockStatus:
            // There is no reply to an empty range, and none without a context.
            guard terms.hasAllocationContext && lengthBytes > 0 else { return .refuse(.invalid) }
            kind = .blockStatus
            allowed |= Wire.CommandFlag.oneExtent
        case Wire.Command.disconnect: return .disconnect
        default: return .refuse(.invalid)
        }
        // FUA is valid on every command, and means nothing on those that write nothing.
        guard flags & ~allowed == 0 else { return .refuse(.invalid) }
        if let refusal = refusal(of: kind, sizeBytes: sizeBytes, isReadOnly: isReadOnly) {
            return .refuse(refusal)
        }
        var engineFlags: SpaceRequest.Flags = []
        switch kind {
        case .read, .blockStatus, .cache: break
        case .flush: return .proceed(kind, [])
        case .write, .trim, .writeZeroes:
            if flags & Wire.CommandFlag.fua != 0 { engineFlags.insert(.fua) }
            if flags & Wire.CommandFlag.noHole != 0 { engineFlags.insert(.noHole) }
        }
        return lengthBytes == 0 ? .succeed : .proceed(kind, engineFlags)
    }

    private func refusal(
        of kind: SpaceRequest.Kind, sizeBytes: UInt64, isReadOnly: Bool
    ) -> NBDError? {
        let writes: Bool
        let beyondTheEnd: NBDError
        switch kind {
        case .read, .blockStatus, .cache: (writes, beyondTheEnd) = (false, .invalid)
        case .trim: (writes, beyondTheEnd) = (true, .invalid)
        case .write, .writeZeroes: (writes, beyondTheEnd) = (true, .noSpace)
        case .flush: return offsetBytes == 0 && lengthBytes == 0 ? nil : .invalid
        }
        if writes && isReadOnly { return .notPermitted }
        let length = UInt64(lengthBytes)
        if (offsetBytes | length) % NBDLimits.minimumBlockBytes != 0 { return .invalid }
        if offsetBytes > sizeBytes || length > sizeBytes - offsetBytes { return beyondTheEnd }
        switch kind {
        case .read, .write:
            if length > NBDLimits.maximumPayloadBytes { return .invalid }
            return isUnfragmented && length > NBDLimits.unfragmentedBytes ? .overflow : nil
        case .trim, .writeZeroes, .flush, .blockStatus, .cache:
            return nil
        }
    }
}

/// What becomes of a request.
public enum RequestVerdict: Equatable, Sendable {
    case proceed(SpaceRequest.Kind, SpaceRequest.Flags)
    /// An empty range: succeeds at once.
    case succeed
    case refuse(NBDError)
    /// The client leaves; what is under way is finished first.
    case disconnect
}
