import PoolEngine
import PoolFormat

/// What a site looks at after a crash and at the end.
extension Site {
    // MARK: - reading back

    enum Verification {
        /// Sectors that may hold more than one version, and a random sample.
        case unsettled
        /// Every sector that was ever touched, with its neighbours.
        case touched
        /// Every grain that was ever touched, and the first that was not.
        case wholeGrains
    }

    /// Reads back and checks.
    ///
    /// - Returns: false when the power went again, or something is wrong.
    func verify(_ verification: Verification, sample: inout SeededRandom) -> Bool {
        for index in clients.spaces.indices
        where clients.spaces[index].handle != nil || !acceptsErrors {
            for sectors in wanted(verification, clients.spaces[index].model, &sample) {
                while !clients.submit(.read, space: index, sectors: sectors) {
                    guard clients.waitForRoom() else { return false }
                }
                if clients.requestsInFlight > 8, !clients.waitForRoom() { return false }
                if machine.isCutDue { return false }
            }
        }
        clients.finish()
        return machine.violation == nil && !machine.isCutDue
    }

    private func wanted(
        _ verification: Verification, _ model: SpaceModel, _ sample: inout SeededRandom
    ) -> [Range<Int>] {
        switch verification {
        case .unsettled:
            var wanted = runs(of: model.unsettledSectors())
            for _ in 0..<4 {
                let start = sample.below(model.sectors)
                let end = min(start + sample.within(1...64), model.sectors)
                wanted.append(contentsOf: Self.withinGrains(start..<end))
            }
            return wanted
        case .touched:
            // Block by block, each with the block behind it.
            var sectors: [Int] = []
            var untilBlock = 0
            for grain in model.touchedGrains {
                // One more: the block behind the grain's last.
                let last = min((grain + 1) * 256 + 1, model.sectors / 8)
                for block in max(grain * 256, untilBlock)..<last {
                    let range = block * 8..<block * 8 + 8
                    let isNext = sectors.last.map { $0 + 1 == range.lowerBound } ?? false
                    let isTouched = range.contains { model.isTouched($0) }
                    let wasTouched = isNext && range.lowerBound > 0
                        && (range.lowerBound - 8..<range.lowerBound)
                            .contains { model.isTouched($0) }
                    if isTouched || wasTouched {
                        sectors.append(contentsOf: range)
                        untilBlock = block + 1
                    }
                }
            }
            // Where nothing but zeros ever went, what lay there before would show at the start.
            let zeros = model.sentGrains.filter { !model.touchedGrains.contains($0) }
            return runs(of: sectors) + zeros.map { $0 * 2048..<$0 * 2048 + 64 }
        case .wholeGrains:
            var wanted: [Range<Int>] = []
            for grain in model.sentGrains { wanted.append(grain * 2048..<(grain + 1) * 2048) }
            let grains = 0..<model.sectors / 2048
            if let fresh = grains.first(where: { !model.sentGrains.contains($0) }) {
                wanted.append(fresh * 2048..<(fresh + 1) * 2048)
            }
            return wanted
        }
    }

    private func runs(of sectors: [Int]) -> [Range<Int>] {
        var result: [Range<Int>] = []
        for sector in sectors {
            if let last = result.last, last.upperBound == sector, sector % 2048 != 0 {
                result[result.count - 1] = last.lowerBound..<sector + 1
            } else {
                result.append(sector..<sector + 1)
            }
        }
        return result
    }

    /// Cuts a range at grain boundaries.
    static func withinGrains(_ sectors: Range<Int>) -> [Range<Int>] {
        var pieces: [Range<Int>] = []
        var start = sectors.lowerBound
        while start < sectors.upperBound {
            let end = min(sectors.upperBound, (start / 2048 + 1) * 2048)
            pieces.append(start..<end)
            start = end
        }
        return pieces
    }

    /// The status names all of these as written since the last good flush.
    func names(_ sectors: [Range<Int>], ofSpace index: Int) -> Bool {
        let name = clients.spaces[index].name
        let named = pool?.status().spaces.first { $0.name == name }?.doubtful ?? []
        for range in sectors {
            let bytes = UInt64(range.lowerBound) * 512..<UInt64(range.upperBound) * 512
            let isNamed = named.contains {
                $0.lowerBound <= bytes.lowerBound && bytes.upperBound <= $0.upperBound
            }
            if !isNamed {
                machine.fail("space \(name): nothing says that \(range) may be lost: \(named)")
            }
        }
        return machine.violation == nil
    }

    // MARK: - who owns what

    /// The pool's tables, its spaces and its status agree; no client may be at work.
    ///
    /// A space that has just been opened may already be giving a slab group back: what disagrees
    /// only while that lasts is no leak.
    func audit() -> Bool {
        var patience = 10_000
        while machine.violation == nil, let pool {
            let wrong = pool.audit().first ?? audit(pool.status())
            guard let wrong else { return true }
            patience -= 1
            if machine.isCutDue { return false }
            if patience == 0 || !machine.step() { machine.fail("audit: \(wrong)") }
        }
        return machine.violation == nil
    }

    private func audit(_ status: Pool.Status) -> String? {
        if status.capacityBytes != status.allocatedBytes + status.freeBytes {
            return "\(status.capacityBytes) bytes are not \(status.allocatedBytes) allocated and "
                + "\(status.freeBytes) free"
        }
        let onDisks = status.disks.reduce(0) { $0 + $1.allocatedBytes }
        if onDisks != status.allocatedBytes {
            return "the disks have \(onDisks) bytes allocated, the pool \(status.allocatedBytes)"
        }
        for disk in status.disks where disk.state != .online || !disk.failure.isEmpty {
            if hasHadFaults { continue }
            return "disk \(disk.number.rawValue) is \(disk.state): \(disk.failure)"
        }
        for space in status.spaces {
            if !space.reason.isEmpty { return "space \(space.name): \(space.reason)" }
            if !hasHadFaults, !space.lostDisks.isEmpty { return "space \(space.name) has lost disks" }
            if space.mappedBytes > space.sizeBytes { return "space \(space.name) is overfull" }
        }
        return nil
    }

    /// Trims everything, then destroys everything: every slab comes back at each step.
    ///
    /// - Returns: false when the power went, or something is wrong.
    func leavesNothingBehind() -> Bool {
        guard isOpen else { return machine.violation == nil }
        for index in clients.spaces.indices {
            guard trimAll(index) else { return false }
        }
        for name in clients.spaces.map(\.name) {
            guard destroySpace(name) else { return false }
        }
        guard audit(), let status = pool?.status() else { return false }
        if status.allocatedBytes != 0 {
            machine.fail("\(status.allocatedBytes) bytes are allocated in a pool without spaces")
        }
        return machine.violation == nil
    }

    /// A whole space is trimmed: its groups go back to the pool.
    private func trimAll(_ index: Int) -> Bool {
        // A group that a crash left empty goes with the next that is emptied.
        let last = clients.spaces[index].model.sectors - 1
        var changes: [(SpaceRequest.Kind, Range<Int>)] = [(.write, last..<last + 1)]
        for grain in 0..<(last + 1) / 2048 {
            changes.append((.trim, grain * 2048..<(grain + 1) * 2048))
        }
        for (kind, sectors) in changes {
            while !clients.submit(kind, space: index, sectors: sectors) {
                guard clients.waitForRoom() else { return false }
            }
            // The write first: a pool that is full may refuse it.
            if kind == .write { clients.finish() }
        }
        clients.finish()
        clients.submit(.flush, space: index, sectors: 0..<0)
        clients.finish()
        return machine.violation == nil && !machine.isCutDue && groupsAreReleased(index)
    }

    private func groupsAreReleased(_ index: Int) -> Bool {
        let known = clients.spaces[index]
        guard !known.parameters.isFixed else { return true }
        // Every grain is discarded first, run by run.
        for _ in 0..<20_000 {
            guard let space = pool?.space(named: known.name) else { return false }
            if space.groupRecords.isEmpty { return true }
            guard machine.step(), !machine.isCutDue else { break }
        }
        guard machine.violation == nil, !machine.isCutDue else { return false }
        // A full pool may have refused even the write that goes before the trims.
        if clients.mayRunOutOfRoom { return true }
        machine.fail("space \(known.name) keeps slabs though everything in it is trimmed")
        return false
    }
}

extension SpaceShape {
    var flags: SpaceFlags {
        var flags: SpaceFlags = []
        if !checksums { flags.insert(.noChecksums) }
        if isFixed { flags.insert(.fixed) }
        return flags
    }
}
