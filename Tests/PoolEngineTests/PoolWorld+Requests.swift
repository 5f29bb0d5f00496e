@testable import PoolEngine

/// What clients ask of a space.
extension PoolWorld {
    /// Submits a request without waiting for it.
    ///
    /// - Parameter data: of a write: 512-byte multiple, within a grain. Of a read only its length.
    /// - Returns: its cookie, and where its bytes lie in the arena; that buffer is never given back.
    func submit(
        _ kind: SpaceRequest.Kind, _ space: Space, _ offsetBytes: UInt64, _ lengthBytes: UInt32,
        flags: SpaceRequest.Flags = [], data: UInt8 = 0
    ) -> (cookie: UInt64, buffer: Int) {
        let cookie = nextCookie
        nextCookie += 1
        var buffer = 0
        if kind == .read || kind == .write {
            guard let taken = space.engine.arena.take(bytes: Int(lengthBytes) + 8192) else {
                preconditionFailure("the world's arena is used up")
            }
            buffer = taken
            let start = buffer + Int(offsetBytes % 4096)
            unsafe space.engine.arena.bytes(start, Int(lengthBytes))
                .initializeMemory(as: UInt8.self, repeating: data)
        }
        space.engine.submit(
            SpaceRequest(
                kind: kind, flags: flags, space: space.handle, offsetBytes: offsetBytes,
                lengthBytes: lengthBytes, bufferOffset: buffer, cookie: cookie))
        return (cookie, buffer)
    }

    /// Submits and waits; the buffer is given back.
    @discardableResult
    func perform(
        _ kind: SpaceRequest.Kind, _ space: Space, _ offsetBytes: UInt64, _ lengthBytes: UInt32 = 0,
        flags: SpaceRequest.Flags = [], data: UInt8 = 0
    ) -> RequestStatus? {
        let (cookie, buffer) = submit(
            kind, space, offsetBytes, lengthBytes, flags: flags, data: data)
        let status = reply(cookie)?.status
        if kind == .read || kind == .write { space.engine.arena.give(buffer) }
        return status
    }

    /// The bytes of a range within a grain; nil: the read failed.
    func bytes(_ space: Space, _ offsetBytes: UInt64, _ lengthBytes: UInt32) -> [UInt8]? {
        let (cookie, buffer) = submit(.read, space, offsetBytes, lengthBytes, data: 0xee)
        defer { space.engine.arena.give(buffer) }
        guard reply(cookie)?.status == .ok else { return nil }
        return unsafe [UInt8](
            space.engine.arena.bytes(buffer + Int(offsetBytes % 4096), Int(lengthBytes)))
    }

    /// What block status says of a range: one entry for each answer.
    func extents(_ space: Space, _ offsetBytes: UInt64, _ lengthBytes: UInt32) -> [SpaceExtent] {
        var extents: [SpaceExtent] = []
        var done: UInt32 = 0
        while done < lengthBytes {
            let asked = submit(
                .blockStatus, space, offsetBytes + UInt64(done), lengthBytes - done)
            guard let answer = reply(asked.cookie), answer.status == .ok,
                answer.extent.lengthBytes > 0
            else { break }
            extents.append(answer.extent)
            done += answer.extent.lengthBytes
        }
        return extents
    }
}
