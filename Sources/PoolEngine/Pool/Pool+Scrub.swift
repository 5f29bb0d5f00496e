import PoolFormat

/// A scrub: every copy of everything is read and compared, space by space.
final class ScrubControl: @unchecked Sendable {
    let job: UInt64
    var bytesPerSecond: UInt64?
    var isPaused = false
    let resumed: Signal

    init(_ job: UInt64, _ bytesPerSecond: UInt64?, _ engine: Engine) {
        self.job = job
        self.bytesPerSecond = bytesPerSecond
        resumed = Signal(engine)
    }
}

extension Pool {
    /// Starts reading and checking everything, or changes the rate of the scrub under way.
    ///
    /// - Parameter bytesPerSecond: nil: as fast as the disks.
    /// - Returns: the job's id.
    public func scrub(bytesPerSecond: UInt64?) async throws(PoolError) -> UInt64 {
        try requireOpen()
        if let scrubbing {
            scrubbing.bytesPerSecond = bytesPerSecond
            resume(scrubbing)
            return scrubbing.job
        }
        let control = ScrubControl(addJob(.scrub, .running), bytesPerSecond, engine)
        scrubbing = control
        engine.spawn { [self] in await scrub(control) }
        return control.job
    }

    public func pauseScrub() async throws(PoolError) {
        try requireOpen()
        guard let scrubbing else { throw .noScrub }
        scrubbing.isPaused = true
        changeJobs({ $0.id == scrubbing.job }) { $0.state = .paused }
    }

    public func resumeScrub(bytesPerSecond: UInt64?) async throws(PoolError) {
        try requireOpen()
        guard let scrubbing else { throw .noScrub }
        if let bytesPerSecond { scrubbing.bytesPerSecond = bytesPerSecond }
        resume(scrubbing)
    }

    private func resume(_ control: ScrubControl) {
        control.isPaused = false
        changeJobs({ $0.id == control.job }) { $0.state = .running }
        control.resumed.fire()
    }

    // MARK: - the scrub

    /// Grains that one visit to a space's shard looks at.
    private static var grainsTogether: Int { 16 }

    private func scrub(_ control: ScrubControl) async {
        var isComplete = true
        var work: [(space: Space, grains: [UInt64])] = []
        for space in spaces {
            let grains = (try? await on(space) { $0.mappedGrains }) ?? []
            work.append((space, grains))
        }
        let total = work.reduce(0) { $0 + $1.grains.count }
        changeJobs({ $0.id == control.job }) {
            $0.totalBytes = UInt64(total) * UInt64(Units.grainBytes)
        }
        for (space, grains) in work {
            if await !scrub(space, grains, control) { isComplete = false }
        }
        guard !engine.isStopped else { return }
        scrubbing = nil
        changeJobs({ $0.id == control.job }) { job in
            guard isComplete else {
                return (job.state, job.reason) = (.failed, "a space was closed, or takes no writes")
            }
            let lost = job.lostBlocks
            job.state = lost == 0 ? .done : .failed
            if lost > 0 {
                job.reason = (lost == 1 ? "1 block is" : "\(lost) blocks are")
                    + " wrong on every copy"
            }
        }
    }

    private func scrub(
        _ space: Space, _ grains: [UInt64], _ control: ScrubControl
    ) async -> Bool {
        let areRight = try? await on(space) { await $0.scrubAllPages() }
        guard areRight ?? false else { return !spaces.contains { $0 === space } }
        for start in stride(from: 0, to: grains.count, by: Self.grainsTogether) {
            while control.isPaused, !isClosed, !engine.isStopped { await control.resumed.wait() }
            if isClosed || engine.isStopped { return false }
            let some = Array(grains[start..<min(start + Self.grainsTogether, grains.count)])
            let begun = engine.nowNs
            let found = try? await on(space) { space -> Space.ScrubFindings? in
                var sum = Space.ScrubFindings()
                for grain in some {
                    guard let findings = await space.scrub(grain: grain) else { return nil }
                    sum.repairedBlocks += findings.repairedBlocks
                    sum.lostBlocks += findings.lostBlocks
                }
                return sum
            }
            // A space that was destroyed meanwhile needs no scrub.
            guard let findings = found ?? nil else { return !spaces.contains { $0 === space } }
            changeJobs({ $0.id == control.job }) { job in
                job.doneBytes += UInt64(some.count) * UInt64(Units.grainBytes)
                job.repairedBlocks += findings.repairedBlocks
                job.lostBlocks += findings.lostBlocks
            }
            await pace(control, bytes: UInt64(some.count * Units.grainBytes), since: begun)
        }
        // What was put right is durable before anybody is told.
        let isDurable = try? await on(space) { await $0.commit() }
        return isDurable ?? false || !spaces.contains { $0 === space }
    }

    private func pace(_ control: ScrubControl, bytes: UInt64, since begun: UInt64) async {
        guard let rate = control.bytesPerSecond, rate > 0 else { return }
        let due = bytes.multipliedReportingOverflow(by: 1_000_000_000)
        let dueNs = begun &+ (due.overflow ? .max : due.partialValue) / rate
        guard dueNs > engine.nowNs else { return }
        engine.fire(control.resumed, atNs: dueNs)
        await control.resumed.wait()
    }
}

extension Space {
    /// Every page of its metadata, but those of the journal, which is read at each opening.
    func scrubAllPages() async -> Bool {
        for kind in PieceDirectory.pagedKinds {
            let count = kind == .directory ? pieces.rootDirectory.count : pieces.pieceCount(kind)
            for piece in 0..<UInt32(count) {
                guard await scrubPages(kind, piece: piece) else { return false }
            }
        }
        return true
    }
}
