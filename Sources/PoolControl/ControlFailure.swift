/// Why a request was not carried out, in words for the person who asked.
///
/// `what` is one line without a full stop; `hint` says what to do next. A refusal changed nothing.
public struct ControlFailure: Error, Hashable, Sendable, Codable {
    public enum Kind: String, Hashable, Sendable, Codable, CaseIterable {
        /// The request itself is malformed: a bad name, size, key or version.
        case invalid
        /// What it names does not exist.
        case notFound = "not_found"
        /// Understood and declined: nothing changed.
        case refused
        /// A real feature of poold that this version does not have.
        case notInThisVersion = "not_in_this_version"
        /// Begun and failed, or the daemon cannot do it now.
        case failed
        /// No daemon, or it is stopping.
        case unavailable
    }

    public var what: String
    public var hint: String
    public var kind: Kind

    public init(_ kind: Kind, _ what: String, hint: String) {
        self.kind = kind
        self.what = what
        self.hint = hint
    }

    /// The HTTP status that carries a failure of this kind.
    public var httpStatus: Int {
        switch kind {
        case .invalid, .notInThisVersion: 400
        case .notFound: 404
        case .refused: 409
        case .failed: 500
        case .unavailable: 503
        }
    }
}

/// How a failure travels: `{"error": {...}, "version": 1}`.
public struct FailureMessage: Hashable, ControlMessage {
    public var version = ControlProtocol.version
    public var error: ControlFailure
    public init(_ error: ControlFailure) { self.error = error }
}
