import PoolEngine
import PoolFormat

/// What goes wrong with the disks of a seed, one thing after the other, as far as the atlas lets it.
///
/// Silent faults and crashes keep out of each other's way: in a region that a crash left dirty a
/// block may match no value, and is served as it is, so a copy that has rotted there, or lost a
/// write, may be what is served. A crash comes only once a scrub has put everything right.
extension SeedRun {
    /// Ends or begins one fault; or gives the disks that are away back, or scrubs.
    func ail() -> Bool {
        guard site.isOpen else { return true }
        learn()
        let away = site.members.filter { machine.disks[$0].isUnreachable || !site.isHere($0) }
        let isEnding = site.clients.submitted >= options.operations
        if !away.isEmpty, random.chance(isBeyond ? 30 : 60) { return bringBack(random.pick(away)) }
        let atWork = faultsAtWork
        if !atWork.isEmpty, random.chance(40) {
            let (index, kind) = random.pick(atWork)
            takeBack(kind, index)
            return true
        }
        if isDamaged, away.isEmpty, atWork.isEmpty, isEnding || random.chance(50) {
            return scrubDamage()
        }
        if !isEnding { strike() }
        return true
    }

    /// Something is wrong with bytes that no scrub has gone over yet.
    var isDamaged: Bool { machine.disks.indices.contains { atlas.isDamaged($0) } }

    private var kinds: [DiskFault.Kind] {
        if !options.hasAllFaults, !isBeyond {
            return [.unreachable, .unreachable, .writeErrors, .flushError, .readErrors]
        }
        return isSilent
            ? [.rot, .lostWrites, .misdirectedWrites, .latentSectors, .readErrors, .slow, .unreachable]
            : [.unreachable, .unreachable, .writeErrors, .flushError, .readErrors, .latentSectors, .slow]
    }

    private var faultsAtWork: [(Int, DiskFault.Kind)] {
        machine.disks.indices.flatMap { index in
            DiskFault.Kind.allCases.filter {
                $0 != .unreachable && atlas.isAtWork($0, index)
            }.map { (index, $0) }
        }
    }

    // MARK: - what the atlas is told

    /// Faults that have taken themselves back, disks that the pool has given up, and those that have
    /// everything again.
    func learn() {
        site.noteDisksGone()
        for index in retired where !site.members.contains(index) { atlas.noteGone(index) }
        for index in machine.disks.indices {
            let disk = machine.disks[index]
            for kind in DiskFault.Kind.allCases
            where atlas.isAtWork(kind, index) && !disk.carries(kind) {
                atlas.noteTakenBack(kind, on: index)
            }
            if disk.isUndamaged { atlas.noteHealed(index) }
            guard site.members.contains(index) else { continue }
            if !site.isHere(index) {
                if !atlas.isStale(index) { atlas.noteStale(index) }
            } else if atlas.isStale(index), !atlas.isAway(index), hasNothingToLearn(index) {
                atlas.noteInSync(index)
            }
        }
    }

    /// The pool knows of every failure of the disk, and has made up for it.
    private func hasNothingToLearn(_ index: Int) -> Bool {
        let disk = machine.disks[index]
        let isKnown = disk.failedWrites + disk.failedFlushes == failuresKnown[index, default: 0]
        guard isKnown, let number = site.number(of: index), let pool = site.pool else {
            return false
        }
        // Of a slab group with a hole there is one copy less.
        return !pool.lacksRedundancy
            && !pool.configuration.departures.contains { $0.disk == number }
    }

    private func noteFailuresKnown(_ index: Int) {
        let disk = machine.disks[index]
        failuresKnown[index] = disk.failedWrites + disk.failedFlushes
    }

    // MARK: - faults begin

    private func strike() {
        guard let (index, kind) = atlas.drawKind(kinds), site.members.contains(index) else { return }
        let isStuck = machine.disks[index].isUnreachable || !site.isHere(index)
        // One that is away is away; what happens to its bytes meanwhile is drawn for like any other.
        if isStuck, kind != .rot, kind != .latentSectors { return }
        guard let fault = draw(kind, index) else { return }
        site.noteFault()
        atlas.note(kind, on: index)
        faultCount += 1
        if DiskFault.Kind.spoiling.contains(kind) {
            site.isSpoiled = true
            // Until a scrub is through.
            if isSilent { machine.cutAtOperation = nil }
        }
        machine.set(fault, disk: index)
    }

    private func draw(_ kind: DiskFault.Kind, _ index: Int) -> DiskFault? {
        if kind == .slow, random.chance(50) {
            // Seconds, on the scale of the bounds of this seed: a region is cleaned after five of them.
            let second = max(machine.limits.cleanAfterNs / 5, 20_000_000)
            return .slow(.byNs(UInt64(random.within(1...30)) * second))
        }
        guard DiskFault.Kind.spoiling.contains(kind) || kind == .writeErrors else {
            return .draw(
                kind, of: machine.disks[index], within: [], nowNs: machine.nowNs, random: &random)
        }
        // Where something was written that has a copy elsewhere.
        let ranges = site.spoilable(index)
        guard !ranges.isEmpty else { return nil }
        return .draw(
            kind, of: machine.disks[index], within: ranges, nowNs: machine.nowNs, random: &random)
    }

    // MARK: - faults end

    private func takeBack(_ kind: DiskFault.Kind, _ index: Int) {
        machine.takeBack(kind, disk: index)
        atlas.noteTakenBack(kind, on: index)
    }

    /// What a disk on its way back must not do, and what an opening cannot bear: tables have no copy.
    func takeBackLoudFaults(_ index: Int) {
        for kind in [DiskFault.Kind.writeErrors, .flushError, .readErrors] {
            takeBack(kind, index)
        }
    }

    private func bringBack(_ index: Int) -> Bool {
        takeBackLoudFaults(index)
        if atlas.isAway(index) { atlas.noteBack(index) }
        let isBack = site.plugIn(index, losingCache: random.chance(50) ? policy() : nil)
        noteFailuresKnown(index)
        return isBack || isBeyond && machine.violation == nil && !machine.isCutDue
    }

    private func scrubDamage() -> Bool {
        let scrub = atlas.scrubBegins()
        guard site.scrub() else {
            // A space that takes no writes: before a crash nothing is put right, and before that no
            // crash comes.
            isBeyondRepair = isSilent && isBeyond
            return isBeyond && machine.violation == nil && !machine.isCutDue
        }
        atlas.noteScrubbed(scrub)
        for index in machine.disks.indices where !atlas.isDamaged(index) {
            // What is left lies where nobody keeps anything.
            machine.disks[index].forgetSilentFaults()
            machine.takeBack(.latentSectors, disk: index)
        }
        return true
    }

    /// The causes of everything are gone.
    func endFaults() {
        for index in machine.disks.indices {
            for kind in DiskFault.Kind.allCases where kind != .unreachable && kind != .latentSectors {
                takeBack(kind, index)
            }
        }
    }
}
