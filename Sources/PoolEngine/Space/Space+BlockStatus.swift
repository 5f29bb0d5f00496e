import PoolFormat

/// What lies where: block status, and the metadata brought in for reads to come.
///
/// Both answer from memory: a completed write has changed map and values before it was
/// acknowledged, and what is in flight may be told either way.
extension Space {
    /// Unmapped addresses are told at once, however many; a mapped grain's blocks by its values.
    func submitBlockStatus(_ request: SpaceRequest) {
        let grainBytes = UInt64(Units.grainBytes)
        let end = request.offsetBytes + UInt64(request.lengthBytes)
        var grain = request.offsetBytes / grainBytes
        guard map[grain].isMapped else {
            while grain * grainBytes < end, !map[grain].isMapped { grain += 1 }
            let length = min(grain * grainBytes, end) - request.offsetBytes
            inFlight -= 1
            if inFlight == 0 { idle.fire() }
            engine.replies.append(
                SpaceReply(
                    cookie: request.cookie, status: .ok,
                    extent: SpaceExtent(
                        lengthBytes: UInt32(length), isMapped: isFixed, readsAsZeros: true)))
            return
        }
        let left = (grain + 1) * grainBytes - request.offsetBytes
        var first = request
        first.lengthBytes = UInt32(min(left, UInt64(request.lengthBytes)))
        enter(take(.blockStatus, first))
    }

    func prepareBlockStatus(_ request: RequestIndex) {
        let grain = table[request].grain
        let length = table[request].lengthBytes
        guard map[grain].isMapped else {
            let hole = SpaceExtent(lengthBytes: length, isMapped: isFixed, readsAsZeros: true)
            return finish(request, .ok, extent: hole)
        }
        guard pieces.has(.checksum, page: ChecksumPage.index(ofGrain: grain)) else {
            let zeros = SpaceExtent(lengthBytes: length, isMapped: true, readsAsZeros: true)
            return finish(request, .ok, extent: zeros)
        }
        guard let frame = valuesFrame(request, forWrite: false) else { return }
        let first = Int(table[request].firstBlock)
        let end = first + Int(table[request].blockCount)
        let isZero = isUnwritten(grain, first, frame) || Mutant.isActive(.statusForgetsData)
        var block = first + 1
        while block < end, isUnwritten(grain, block, frame) == isZero { block += 1 }
        // From the request's first byte to the end of the run of blocks, or of the request.
        let within = Int(table[request].offsetBytes % UInt64(Units.grainBytes))
        let run = min(block * Units.blockBytes - within, Int(length))
        let extent = SpaceExtent(lengthBytes: UInt32(run), isMapped: true, readsAsZeros: isZero)
        finish(request, .ok, extent: extent)
    }

    private func isUnwritten(_ grain: UInt64, _ block: Int, _ frame: Int32) -> Bool {
        let image = unsafe PageImage(frames.image(frame))
        return ChecksumPage.value(image, grain: grain, block: block) == BlockValue.unwritten
    }

    /// There is no cache of data: what a later read would have to fetch first is the values.
    func prepareCache(_ request: RequestIndex) {
        let grain = table[request].grain
        if map[grain].isMapped, pieces.has(.checksum, page: ChecksumPage.index(ofGrain: grain)) {
            guard valuesFrame(request, forWrite: false) != nil else { return }
        }
        finish(request, .ok)
    }
}
