import PoolEngine
import PoolFormat

/// What an administrator does to a pool while clients are at work.
extension SeedRun {
    func controlOperation() -> Bool {
        switch random.below(16) {
        case 13, 14, 15:
            return resize()
        case 10, 11, 12:
            return hollow()
        case 0, 1, 2:
            return site.clients.spaces.count < 4 ? createSpace() : destroySpace()
        case 3, 4:
            return site.clients.spaces.count > 1 ? destroySpace() : createSpace()
        case 5, 6:
            guard let spare else { return reopen(export: true) }
            return site.addDisk(spare)
        case 7:
            return reopen(export: true)
        default:
            return reopen(export: false)
        }
    }

    /// A disk that has never been the pool's.
    private var spare: Int? {
        machine.disks.indices.first { !site.members.contains($0) && !retired.contains($0) }
    }

    // MARK: - while disks are away

    /// What somebody does about disks that are away, or are being made equal: as much as the spaces
    /// bear, and not more than one disk leaves for good at a time.
    func administer() -> Bool {
        guard site.isOpen, !site.isWhole else { return true }
        learn()
        let stays = site.members.filter { !retired.contains($0) }
        switch administration.below(8) {
        case 0:
            return spare.map(site.addDisk) ?? true
        case 1, 2, 3:
            let idle = stays.filter { atlas.mayFault($0) && (!site.isHere($0) || hasOthers($0)) }
            guard !idle.isEmpty else { return true }
            let index = administration.pick(idle)
            atlas.noteStale(index)
            return site.putOffline(index)
        case 4, 5:
            let leaving = stays.filter { mayLeave($0, beside: 0) }
            guard !leaving.isEmpty else { return true }
            let index = administration.pick(leaving)
            retired.insert(index)
            return site.beginRetiring(index)
        default:
            let leaving = stays.filter { mayLeave($0, beside: 1) }
            guard let spare, !leaving.isEmpty else { return true }
            let index = administration.pick(leaving)
            retired.insert(index)
            return site.beginReplacing(index, with: spare)
        }
    }

    private func hasOthers(_ index: Int) -> Bool {
        site.members.contains { $0 != index && site.isHere($0) }
    }

    /// Disks enough are left for every space, and room for what it holds.
    private func mayLeave(_ index: Int, beside added: Int) -> Bool {
        guard retired.isDisjoint(with: site.members), let pool = site.pool else { return false }
        let status = pool.status().disks
        let others = site.members.filter { $0 != index && site.isHere($0) }
        let least = site.clients.spaces.map { $0.parameters.resiliency.leastDisks }.max() ?? 1
        let number = site.number(of: index)
        let held = status.first { $0.number == number }?.allocatedBytes ?? 0
        let free = status.filter { disk in others.contains { site.number(of: $0) == disk.number } }
            .reduce(0) { $0 + $1.sizeBytes - min($1.sizeBytes, $1.allocatedBytes) }
        return others.count + added >= least && free > 3 * held + 1 << 30
    }

    private func reopen(export: Bool) -> Bool {
        site.clients.finish()
        guard !machine.isCutDue else { return false }
        let step = machine.onStep
        machine.onStep = nil
        defer { machine.onStep = step }
        guard site.close(export: export) else { return false }
        return site.recover()
    }

    /// Maps every grain of a large space and trims most of them again: what is left lies sparsely
    /// in several slab groups.
    private func hollow() -> Bool {
        let large = site.clients.spaces.indices.filter {
            site.clients.spaces[$0].model.sectors > 256 * 2048
        }
        guard !large.isEmpty else { return reopen(export: false) }
        let name = site.clients.spaces[random.pick(large)].name
        traffic.quiet = name
        defer { traffic.quiet = nil }
        guard let grains = site.clients.index(of: name).map({
            site.clients.spaces[$0].model.sectors / 2048
        }) else { return true }
        for grain in 0..<grains {
            let first = grain * 2048
            guard submit(.writeZeroes, name, first..<first + 8) else { return false }
        }
        let kept = random.pick([5, 20])
        for grain in 0..<grains where !random.chance(kept) {
            guard submit(.trim, name, grain * 2048..<(grain + 1) * 2048) else { return false }
        }
        return true
    }

    /// Submits one request, as soon as there is room for it.
    private func submit(
        _ kind: SpaceRequest.Kind, _ name: String, _ sectors: Range<Int>
    ) -> Bool {
        guard let index = site.clients.index(of: name) else { return false }
        while !site.clients.submit(kind, flags: .noHole, space: index, sectors: sectors) {
            guard site.clients.waitForRoom() else { return false }
        }
        return true
    }

    func createSpace() -> Bool {
        let name = "s\(nextSpace)"
        nextSpace += 1
        return site.createSpace(name, shape())
    }

    private func destroySpace() -> Bool {
        let name = random.pick(site.clients.spaces.map(\.name))
        traffic.quiet = name
        defer { traffic.quiet = nil }
        return calmDown(name) && site.destroySpace(name)
    }

    /// The last requests of a space end while the others go on.
    private func calmDown(_ name: String) -> Bool {
        while let index = site.clients.index(of: name),
            site.clients.requestsInFlight(inSpace: index) > 0
        {
            refill()
            guard site.clients.waitForRoom(), !machine.isCutDue else { return false }
        }
        return true
    }

    private func resize() -> Bool {
        guard let space = site.clients.spaces.indices.randomElement(using: &random) else {
            return true
        }
        let name = site.clients.spaces[space].name
        let grains = site.clients.spaces[space].model.sectors / 2048
        guard grains > 1, random.chance(40) else {
            return site.resizeSpace(name, grains: min(grains + random.within(1...120), 600))
        }
        traffic.quiet = name
        defer { traffic.quiet = nil }
        let end = random.within(1...grains - 1)
        guard calmDown(name), let index = site.clients.index(of: name) else { return false }
        if site.clients.spaces[index].model.surelyHolds(fromGrain: end) {
            guard site.tryToCutOff(name, grains: end) else { return false }
        }
        for grain in end..<grains {
            guard submit(.trim, name, grain * 2048..<(grain + 1) * 2048) else { return false }
        }
        return calmDown(name) && site.resizeSpace(name, grains: end)
    }

    private func shape() -> SpaceShape {
        let disks = site.members.count { site.serves($0) }
        let kind = resiliency(onDisks: disks)
        let widest = kind.isParity ? min(disks, 18) : disks / kind.copies
        // One column: a large space is more than one slab group then. Of a parity 0 stays 0.
        let least = kind.isParity ? 2 + kind.parityColumns : 1
        let columns = random.below(widest + 1)
        let grains = random.pick([4, 16, 40, 300])
        var shape = SpaceShape(
            sizeBytes: UInt64(grains + random.below(4)) << 20,
            resiliency: kind,
            columns: grains == 300 && !kind.isParity ? 1 : UInt16(columns < least ? 0 : columns),
            interleaveBytes: random.pick([64 << 10, 256 << 10, 1 << 20]),
            checksums: isSilent || isBeyond || random.chance(70),
            whenFull: random.chance(50) ? .enospc : .wait,
            isFixed: grains < 300 && random.chance(15))
        if kind.isParity, shape.checksums {
            shape.writeCacheBytes = random.pick([0, 1 << 20, 2 << 20, 4 << 20])
        }
        return shape
    }

    private func resiliency(onDisks disks: Int) -> ResiliencyKind {
        guard isFaulty || isAiling || random.chance(65) else { return .simple }
        var kinds: [ResiliencyKind] = [.mirror2, .mirror2]
        if disks >= 3 { kinds += [.mirror3, .parity1] }
        if disks >= 4 { kinds.append(.parity2) }
        let kind = random.pick(kinds)
        guard losesTwo else { return kind }
        return kind.isParity && disks >= 4 ? .parity2 : .mirror3
    }
}
