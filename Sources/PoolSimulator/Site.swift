import PoolEngine
import PoolFormat

/// An administrator of one pool on one machine: carries out control operations, reopens after
/// crashes, and knows what a crash in the middle of each may leave.
final class Site {
    let machine: Machine
    let clients: Clients
    private(set) var pool: Pool?
    /// Disks handed to the pool so far, by index.
    private(set) var members: [Int]
    /// What was under way: a crash leaves its effect whole, or nothing of it.
    private(set) var pending: PendingControl = .none
    /// A disk whose reads fail now and then while the pool runs, which every space has to bear.
    var faultyDisk: Int?
    var readFaults = SimulatedDisk.ReadFaults(percent: 3, stayingPercent: 30)

    /// A disk has been asked to leave the pool.
    var hasHadRetirement = false
    /// A disk holds wrong bytes that nobody has looked for yet.
    var isSpoiled = false
    /// More goes wrong than any space bears: whatever fails, fails.
    var acceptsErrors = false {
        didSet { clients.acceptsErrors = acceptsErrors }
    }
    /// Disks that the pool has to refuse for good: restored from an older image, or of another
    /// history. Whoever heals it retires them.
    var outcasts: Set<Int> = []
    /// Some disk has been away: what the audits say of disks that serve is all there is.
    private(set) var hasHadFaults = false
    /// How often each disk was opened anew.
    private var openings: [Int: Int] = [:]

    static let poolUUID = PoolUUID(high: 0x706f_6f6c, low: 1)

    static func diskUUID(_ index: Int) -> PoolUUID {
        PoolUUID(high: 0xd15c, low: UInt64(index) + 1)
    }

    /// A control operation that a crash may find half done.
    enum PendingControl {
        case none
        case createPool
        case createSpace(String, SpaceShape)
        case destroySpace(String)
        case addDisk(Int)
        case resizeSpace(String, UInt64)
        case destroyPool
    }

    init(_ machine: Machine) {
        self.machine = machine
        clients = Clients(machine)
        members = []
    }

    /// Whoever comes to a machine that crashed at the moment this state was taken.
    init(_ machine: Machine, state: State) {
        self.machine = machine
        clients = Clients(machine, spaces: state.spaces, nextSerial: state.nextSerial)
        members = state.members
        pending = state.pending
        clients.mayRunOutOfRoom = state.mayRunOutOfRoom
        hasHadFaults = state.hasHadFaults
        hasHadRetirement = state.hasHadRetirement
        isSpoiled = state.isSpoiled
        outcasts = state.outcasts
        clients.crash()
        noteEnd()
    }

    /// What survives a crash outside the disks: what the clients know.
    struct State {
        var spaces: [ClientSpace]
        var nextSerial: UInt64
        var members: [Int]
        var pending: PendingControl
        var mayRunOutOfRoom: Bool
        var hasHadFaults: Bool
        var hasHadRetirement: Bool
        var isSpoiled: Bool
        var outcasts: Set<Int>
    }

    var state: State {
        State(
            spaces: clients.spaces, nextSerial: clients.serials, members: members,
            pending: pending, mayRunOutOfRoom: clients.mayRunOutOfRoom,
            hasHadFaults: hasHadFaults, hasHadRetirement: hasHadRetirement,
            isSpoiled: isSpoiled, outcasts: outcasts)
    }

    var isOpen: Bool { pool != nil }

    // MARK: - crashes

    func cutPower(_ policy: CutPolicy) {
        machine.cutPower(policy)
        afterCrash()
    }

    func killProcess() {
        for space in clients.spaces where pool?.space(named: space.name)?.readOnlyReason != nil {
            clients.doubt(space.name)
        }
        machine.killProcess()
        afterCrash()
    }

    func loseCaches(_ policy: CutPolicy) {
        machine.loseCaches(policy)
        afterCrash()
    }

    /// Opening reads tables that no other disk has: its reads are let through.
    private func armFaults(_ isArmed: Bool) {
        guard let faultyDisk else { return }
        machine.disks[faultyDisk].readFaults = isArmed ? readFaults : nil
    }

    private func afterCrash() {
        pool = nil
        openings.removeAll()
        armFaults(false)
        clients.crash()
        noteEnd()
    }

    private func noteEnd() { if !machine.isNothingLost { clients.loseVolatile() } }

    // MARK: - control operations

    func noteFault() { hasHadFaults = true }

    func removeMember(_ index: Int) { members.removeAll { $0 == index } }

    /// A device that is opened anew is another device.
    func noteReopened(_ index: Int) { openings[index, default: 0] += 1 }

    func member(_ index: Int) -> Pool.Member {
        Pool.Member(
            device: description(index),
            uuid: Self.diskUUID(index),
            mediaClass: .ssd, pathHint: "/sim/disk\(index)")
    }

    private func description(_ index: Int) -> DeviceDescription {
        let disk = machine.disks[index]
        let opening = openings[index, default: 0] % (256 / machine.disks.count)
        return DeviceDescription(
            index: DeviceIndex(UInt16(index + opening * machine.disks.count)), sizeBytes: disk.sizeBytes,
            sectorBytes: UInt32(disk.sectorBytes), supportsDiscard: disk.supportsDiscard)
    }

    enum ControlResult: Sendable {
        case done
        case refused(PoolError)
    }

    /// Done; refused, which is a violation unless room is short; or nil: the power went.
    func control(
        _ what: String, allowing isAllowed: (PoolError) -> Bool = { _ in false },
        _ body: @escaping @Sendable (Pool) async throws(PoolError) -> Void
    ) -> ControlResult? {
        guard let pool else { return nil }
        machine.note("control: \(what)")
        let result = machine.run(what) { _ async -> ControlResult in
            do throws(PoolError) {
                try await body(pool)
                return .done
            } catch {
                return .refused(error)
            }
        }
        guard case .refused(let error) = result else { return result }
        guard clients.mayRunOutOfRoom && error.isShortOfSpace || isAllowed(error) || acceptsErrors
        else {
            machine.fail("\(what): \(error)")
            return nil
        }
        pending = .none
        return result
    }

    func createPool(disks: [Int]) -> Bool {
        pending = .createPool
        members = disks
        let list = disks.map(member)
        machine.note("control: create pool on \(disks)")
        let created = open("create pool") { engine async throws(PoolError) in
            try await Pool.create(engine, name: "pool", uuid: Self.poolUUID, members: list)
        }
        return orFail("create pool", created)
    }

    /// A refusal is a violation; a power cut is not.
    private func orFail(_ what: String, _ done: Bool) -> Bool {
        if let reason = lastRefusal, !done { machine.fail("\(what): \(reason)") }
        return done
    }

    private var lastRefusal: PoolError?

    private func open(
        _ what: String, _ body: @escaping @Sendable (Engine) async throws(PoolError) -> Pool
    ) -> Bool {
        lastRefusal = nil
        let result = machine.run(what) { engine async -> OpenResult in
            do throws(PoolError) {
                return .pool(try await body(engine))
            } catch {
                return .failed(error)
            }
        }
        switch result {
        case nil:
            return false
        case .failed(let error):
            lastRefusal = error
            return false
        case .pool(let opened):
            pool = opened
            pending = .none
            machine.noteOpened()
            return true
        }
    }

    private enum OpenResult: Sendable {
        case pool(Pool)
        case failed(PoolError)
    }

    func createSpace(_ name: String, _ shape: SpaceShape) -> Bool {
        pending = .createSpace(name, shape)
        let parameters = Pool.SpaceParameters(
            name: name, sizeBytes: shape.sizeBytes, resiliency: shape.resiliency,
            columns: Int(shape.columns), interleaveBytes: shape.interleaveBytes,
            flags: shape.flags, whenFull: shape.whenFull,
            writeCacheBytes: shape.writeCacheBytes)
        let result = control("create space \(name) \(shape)") { pool async throws(PoolError) in
            _ = try await pool.createSpace(parameters)
        }
        guard let result else { return false }
        guard case .done = result else { return true }
        pending = .none
        clients.add(name, shape)
        let space = pool?.space(named: name)
        clients.setHandle(name, space?.handle, shard: space?.shard ?? 0)
        return true
    }

    /// The caller sees to it that no request of the space is in flight.
    func destroySpace(_ name: String) -> Bool {
        pending = .destroySpace(name)
        clients.leave(name)
        let result = control("destroy space \(name)") { pool async throws(PoolError) in
            try await pool.destroySpace(name)
        }
        guard case .done = result else { return false }
        pending = .none
        clients.remove(name)
        return true
    }

    func addDisk(_ index: Int) -> Bool {
        join(index, "add disk \(index)") { pool, added async throws(PoolError) in
            try await pool.addDisks([added])
        }
    }

    /// A disk becomes the pool's.
    func join(
        _ index: Int, _ what: String,
        _ body: @escaping @Sendable (Pool, Pool.Member) async throws(PoolError) -> Void
    ) -> Bool {
        pending = .addDisk(index)
        let added = member(index)
        members.append(index)
        let result = control(what) { pool async throws(PoolError) in
            try await body(pool, added)
        }
        guard case .done = result else { return false }
        pending = .none
        return true
    }

    /// Grows a space, or shrinks one in which nothing is mapped past the new end.
    ///
    /// The caller sees to it that no request is in flight past the new end.
    func resizeSpace(_ name: String, grains: Int) -> Bool {
        let sizeBytes = UInt64(grains) << 20
        pending = .resizeSpace(name, sizeBytes)
        let result = control("resize space \(name) to \(grains) grains") {
            pool async throws(PoolError) in
            try await pool.resizeSpace(name, sizeBytes: sizeBytes, allowShrink: true)
        }
        guard let result else { return false }
        guard case .done = result else { return true }
        pending = .none
        clients.resize(name, sizeBytes: sizeBytes)
        return true
    }

    /// Tries to cut off what holds data: that has to be refused, and to change nothing.
    func tryToCutOff(_ name: String, grains: Int) -> Bool {
        let result = control(
            "cut off space \(name) at \(grains) grains",
            allowing: {
                if case .shrinkRefused = $0 { return true }
                return false
            },
            { pool async throws(PoolError) in
                try await pool.resizeSpace(
                    name, sizeBytes: UInt64(grains) << 20, allowShrink: true)
            })
        guard let result else { return false }
        if case .done = result { machine.fail("space \(name) was cut off, with data behind") }
        return machine.violation == nil
    }

    /// Closes the pool cleanly, for another host or for a restart; nothing may be in flight.
    func close(export: Bool) -> Bool {
        let result = control(export ? "export" : "close") { pool async throws(PoolError) in
            if export { try await pool.export() } else { try await pool.close() }
        }
        guard case .done = result else { return false }
        machine.shutDown()
        pool = nil
        armFaults(false)
        clients.cleanClose()
        return true
    }

    func destroyPool() -> Bool {
        pending = .destroyPool
        let result = control("destroy pool") { pool async throws(PoolError) in
            try await pool.destroy()
        }
        guard case .done = result else { return false }
        pending = .none
        pool = nil
        machine.shutDown()
        return true
    }

    // MARK: - opening

    /// Boots and opens whatever pool the disks hold.
    ///
    /// - Parameters:
    ///   - startsHistory: of what is here, whatever the other disks know.
    ///   - forgetsWitness: what the witness knew is lost.
    ///   - isAllowed: refusals that are no violation; the pool is not open then.
    /// - Returns: false when the power went again, or something is wrong.
    func recover(
        startsHistory: Bool = false, forgetsWitness: Bool = false,
        allowing isAllowed: (PoolError) -> Bool = { _ in false }
    ) -> Bool {
        machine.boot()
        guard let labelled = labelledDisks() else { return false }
        guard !labelled.isEmpty else { return afterNothingFound() }
        let list = labelled.map(member)
        let known =
            forgetsWitness ? nil : machine.witness.first { $0.pool == Self.poolUUID }?.version
        let wasPending = pending
        let opened = open("open") { engine async throws(PoolError) in
            try await Pool.open(
                engine, members: list, witness: known, startsHistory: startsHistory)
        }
        guard opened else {
            if let lastRefusal, isAllowed(lastRefusal) { return true }
            // A pool half made or half destroyed is no pool: it may say so.
            if lastRefusal != nil, isHalfPool { return afterNothingFound() }
            return orFail("open", false)
        }
        pending = .none
        guard adoptSpaces(wasPending) else { return false }
        armFaults(true)
        return true
    }

    private var isHalfPool: Bool {
        switch pending {
        case .createPool, .destroyPool: true
        case .none, .createSpace, .destroySpace, .addDisk, .resizeSpace: false
        }
    }

    private func afterNothingFound() -> Bool {
        guard isHalfPool else {
            machine.fail("no disk shows the pool any more")
            return false
        }
        members = []
        clients.removeAll()
        return true
    }

    private func labelledDisks() -> [Int]? {
        var found: [Int] = []
        for index in machine.disks.indices {
            let device = description(index)
            let isMember = machine.run("inspect") { engine async -> String in
                do throws(PoolError) {
                    switch try await Pool.inspect(engine, device) {
                    case .label(let label):
                        return label.poolUUID == Self.poolUUID ? "member" : "foreign"
                    case .noLabel: return "none"
                    case .damagedLabel(let text): return "damaged: \(text)"
                    }
                } catch {
                    return "\(error)"
                }
            }
            guard let isMember else { return nil }
            if isMember == "member" { found.append(index) }
        }
        return found
    }

    private func adoptSpaces(_ wasPending: PendingControl) -> Bool {
        guard let pool else { return false }
        switch wasPending {
        case .createSpace(let name, let shape):
            // It is there, whole and empty, or it is not.
            if pool.space(named: name) != nil { clients.add(name, shape) }
        case .destroySpace(let name):
            if pool.space(named: name) == nil { clients.remove(name) }
        case .addDisk(let index):
            let uuid = Self.diskUUID(index)
            if !pool.configuration.disks.contains(where: { $0.uuid == uuid }) {
                members.removeAll { $0 == index }
            }
        case .resizeSpace(let name, let sizeBytes):
            let record = pool.configuration.spaces.first { $0.name == name }
            if record?.sizeBytes == sizeBytes { clients.resize(name, sizeBytes: sizeBytes) }
        case .none, .createPool, .destroyPool:
            break
        }
        // A retired disk may have left before the crash.
        members.removeAll { index in
            let uuid = Self.diskUUID(index)
            return hasHadRetirement && !pool.configuration.disks.contains { $0.uuid == uuid }
        }
        for space in clients.spaces {
            guard let opened = pool.space(named: space.name) else {
                if acceptsErrors { continue }
                let known = pool.status().spaces.first { $0.name == space.name }
                machine.fail("space \(space.name) is gone: \(known?.reason ?? "unknown")")
                return false
            }
            clients.setHandle(space.name, opened.handle, shard: opened.shard)
        }
        if pool.configuration.spaces.count != clients.spaces.count {
            machine.fail("the pool has a space nobody knows")
        }
        return acceptsErrors ? true : audit()
    }
}
