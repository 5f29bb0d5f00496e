/// What a client and the server agreed on before transmission began.
public struct SessionTerms: Hashable, Sendable {
    public var usesStructuredReplies = false
    /// The client may ask for block status, and gets "base:allocation".
    public var hasAllocationContext = false

    public init(usesStructuredReplies: Bool = false, hasAllocationContext: Bool = false) {
        self.usesStructuredReplies = usesStructuredReplies
        self.hasAllocationContext = hasAllocationContext
    }
}
