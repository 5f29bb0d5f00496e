/// What one completion belongs to: the top byte names the part of the shard, the rest is that
/// part's own. The shard's loop dispatches on ``kind``.
public enum RingUserData {
    public enum Kind: UInt8, Sendable, CaseIterable {
        /// Nobody waits for it: cancellations, closes.
        case ignored = 0
        case disk = 1
        case listener = 2
        case connection = 3
        case wakeup = 4
        case timer = 5
    }

    public static let payloadBits: UInt64 = 56
    public static let payloadMask: UInt64 = (1 << payloadBits) - 1

    /// - Parameter payload: below 2^56.
    @inline(__always)
    public static func make(_ kind: Kind, _ payload: UInt64) -> UInt64 {
        precondition(payload <= payloadMask)
        return UInt64(kind.rawValue) << payloadBits | payload
    }

    /// nil for a tag that nobody here hands out.
    @inline(__always)
    public static func kind(_ userData: UInt64) -> Kind? {
        Kind(rawValue: UInt8(truncatingIfNeeded: userData >> payloadBits))
    }

    @inline(__always)
    public static func payload(_ userData: UInt64) -> UInt64 { userData & payloadMask }
}
