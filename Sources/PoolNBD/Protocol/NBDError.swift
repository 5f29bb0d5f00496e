import PoolEngine

/// The error values a reply can carry; 0 is success.
///
/// The one place where the engine's outcomes become numbers that a client sees.
public enum NBDError: UInt32, Sendable, CaseIterable {
    case none = 0
    case notPermitted = 1
    case io = 5
    case invalid = 22
    case noSpace = 28
    /// A READ that must not be fragmented is longer than one chunk.
    case overflow = 75
    case shutdown = 108

    public init(_ status: RequestStatus) {
        switch status {
        case .ok: self = .none
        case .ioError: self = .io
        case .noSpace: self = .noSpace
        case .readOnly: self = .notPermitted
        case .invalid: self = .invalid
        case .shutdown: self = .shutdown
        }
    }
}
