/// An open file as a ring knows it: a slot of the ring's file table, or the plain descriptor where
/// the table is full or was refused. It does not own the descriptor.
public struct RingFile: Hashable, Sendable {
    public let descriptor: Int32
    /// -1: not in the table.
    let slot: Int32
    /// Handing an operation to the kernel may wait for whoever serves the file: a worker of the
    /// kernel's does that. FUSE takes so many at a time, and has the next one wait.
    var mayBlock = false

    /// A file that uses no slot: for what is rarely used.
    public init(descriptor: Int32) {
        self.init(descriptor: descriptor, slot: -1)
    }

    init(descriptor: Int32, slot: Int32) {
        self.descriptor = descriptor
        self.slot = slot
    }

    public var isRegistered: Bool { slot >= 0 }
}
