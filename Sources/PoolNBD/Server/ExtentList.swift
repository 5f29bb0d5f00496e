/// The descriptors of one BLOCK_STATUS reply, in an arena buffer as they go out: length 4, flags 4,
/// big-endian.
enum ExtentList {
    static let descriptorBytes = 8

    /// Room for every descriptor that a range can need: one a block, and two cut ones.
    static func bufferBytes(lengthBytes: UInt32) -> Int {
        min(NBDLimits.extentsPerReply, Int(lengthBytes / 4096) + 2) * descriptorBytes
    }

    /// Adds an extent behind `count` others, or to the last of them where the flags are the same.
    ///
    /// - Parameter memory: room for as many descriptors as the reply may have.
    /// - Returns: the new count; nil where there is no room, and nothing has changed.
    static func append(
        lengthBytes: UInt32, flags: UInt32, to memory: UnsafeMutableRawBufferPointer, count: Int
    ) -> Int? {
        if count > 0 {
            let last = (count - 1) * descriptorBytes
            if unsafe load(memory, last + 4) == flags {
                // Together they are no longer than the request, whose length has 32 bits.
                unsafe store(load(memory, last) + lengthBytes, memory, last)
                return count
            }
        }
        let next = count * descriptorBytes
        guard next + descriptorBytes <= memory.count else { return nil }
        unsafe store(lengthBytes, memory, next)
        unsafe store(flags, memory, next + 4)
        return count + 1
    }

    @unsafe private static func load(
        _ memory: UnsafeMutableRawBufferPointer, _ offset: Int
    ) -> UInt32 {
        unsafe UInt32(bigEndian: memory.load(fromByteOffset: offset, as: UInt32.self))
    }

    @unsafe private static func store(
        _ value: UInt32, _ memory: UnsafeMutableRawBufferPointer, _ offset: Int
    ) {
        unsafe memory.storeBytes(of: value.bigEndian, toByteOffset: offset, as: UInt32.self)
    }
}
