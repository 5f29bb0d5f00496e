import PoolEngine
import PoolFormat

/// One space as the clients of a run know it.
struct ClientSpace {
    var name: String
    var parameters: SpaceShape
    var model: SpaceModel
    /// nil while the pool is closed.
    var handle: SpaceHandle?
    /// Whose engine takes its requests.
    var shard = 0
    /// The process that served it was killed: what that leaves depends on whether the space comes to
    /// be served before the power goes.
    var isEndOpen = false
    /// The process had made it read-only: what was not flushed may be gone.
    var isDoubtful = false

    /// Nobody serves it any more.
    mutating func end() {
        if handle != nil { isEndOpen = true }
        handle = nil
    }
}

/// What a space is made with.
struct SpaceShape: Sendable {
    var sizeBytes: UInt64
    var resiliency: ResiliencyKind
    var columns: UInt16
    var interleaveBytes: UInt32
    var checksums: Bool
    var whenFull: WhenFull
    /// Every grain is mapped when the space is made.
    var isFixed = false
    var writeCacheBytes: UInt64 = 0
}

/// A request under way.
struct ClientRequest {
    var kind: SpaceRequest.Kind
    var space: UInt64
    var sectors: Range<Int>
    /// The number of a change, or the ticket of a read or a FLUSH.
    var number: UInt32
    /// Where its buffer is, or nil.
    var buffer: Int?
    var client: Int
    /// Whose engine has it.
    var shard: Int

    var changesSpace: Bool {
        switch kind {
        case .write, .trim, .writeZeroes: true
        case .read, .flush, .blockStatus, .cache: false
        }
    }
}

/// The clients of a machine: they submit, check every reply, and keep the models.
final class Clients {
    private(set) var spaces: [ClientSpace] = []
    private(set) var submitted = 0
    private(set) var refusedForRoom = 0
    private var inFlight: [UInt64: ClientRequest] = [:]
    private var inFlightByClient: [Int] = []
    private var nextCookie: UInt64 = 1
    private var nextSerial: UInt64 = 1
    private unowned let machine: Machine
    /// Statuses that are no violation, beside `.ok`.
    var mayRunOutOfRoom = false
    /// Requests may fail: what they return is right all the same.
    var acceptsErrors = false
    private(set) var failedRequests = 0

    init(_ machine: Machine) {
        self.machine = machine
        machine.onReply = { [unowned self] reply in self.take(reply) }
    }

    /// The clients of another machine, with copies of these models: for a crashed snapshot.
    init(_ machine: Machine, spaces: [ClientSpace], nextSerial: UInt64) {
        self.machine = machine
        self.spaces = spaces
        self.nextSerial = nextSerial
        for index in self.spaces.indices { self.spaces[index].end() }
        machine.onReply = { [unowned self] reply in self.take(reply) }
    }

    var requestsInFlight: Int { inFlight.count }
    func requestsInFlight(of client: Int) -> Int {
        client < inFlightByClient.count ? inFlightByClient[client] : 0
    }
    var serials: UInt64 { nextSerial }

    // MARK: - spaces

    func add(_ name: String, _ shape: SpaceShape) {
        spaces.append(
            ClientSpace(
                name: name, parameters: shape,
                model: SpaceModel(serial: nextSerial, sizeBytes: shape.sizeBytes)))
        nextSerial += 1
    }

    func remove(_ name: String) { spaces.removeAll { $0.name == name } }

    func removeAll() { spaces.removeAll() }

    func resize(_ name: String, sizeBytes: UInt64) {
        guard let at = index(of: name) else { return }
        spaces[at].model.resize(sizeBytes: sizeBytes)
        spaces[at].parameters.sizeBytes = sizeBytes
    }

    /// Nobody asks it for anything any more, and it may be killed before it has closed.
    func leave(_ name: String) {
        if let at = index(of: name) { spaces[at].end() }
    }

    func setHandle(_ name: String, _ handle: SpaceHandle?, shard: Int) {
        guard let at = spaces.firstIndex(where: { $0.name == name }) else { return }
        if handle != nil, spaces[at].isEndOpen {
            // Without checksums an opening cannot know that the disks still have what they had.
            spaces[at].model.crash(
                isNothingLost: spaces[at].parameters.checksums && !spaces[at].isDoubtful)
        }
        (spaces[at].isEndOpen, spaces[at].isDoubtful) = (false, false)
        spaces[at].handle = handle
        spaces[at].shard = shard
    }

    func doubt(_ name: String) {
        guard let at = index(of: name) else { return }
        spaces[at].isDoubtful = true
    }

    func index(of name: String) -> Int? { spaces.firstIndex { $0.name == name } }

    func requestsInFlight(inSpace index: Int) -> Int {
        let serial = spaces[index].model.serial
        return inFlight.values.reduce(0) { $0 + ($1.space == serial ? 1 : 0) }
    }

    /// The engine is gone, with everything in flight.
    func crash() {
        for index in spaces.indices { spaces[index].end() }
        forgetRequests()
    }

    /// What was not durable may be gone: power has gone, or the memory that outlives a process.
    func loseVolatile() {
        for index in spaces.indices {
            spaces[index].model.crash()
            spaces[index].isEndOpen = false
        }
    }

    /// The pool was closed cleanly: everything acknowledged is durable where it was served.
    func cleanClose() {
        for index in spaces.indices where spaces[index].handle != nil {
            let flush = spaces[index].model.submitFlush()
            spaces[index].model.replyFlush(flush, ok: true)
            spaces[index].model.crash()
            spaces[index].handle = nil
        }
        forgetRequests()
    }

    private func forgetRequests() {
        inFlight.removeAll()
        inFlightByClient = inFlightByClient.map { _ in 0 }
    }

    // MARK: - requests

    /// Submits one request; of at most a grain, unless it asks for block status.
    ///
    /// - Returns: false when there is no buffer, no room in the engine, or no such space now.
    @discardableResult
    func submit(
        _ kind: SpaceRequest.Kind, flags: SpaceRequest.Flags = [], space index: Int,
        sectors: Range<Int>, client: Int = 0
    ) -> Bool {
        guard machine.engine != nil, let handle = spaces[index].handle else { return false }
        let engine = machine.engines[spaces[index].shard]
        guard engine.canAcceptRequest else { return false }
        let offset = UInt64(sectors.lowerBound) * 512
        let length = sectors.count * 512
        let edge = Int(offset % 4096)
        var buffer: Int?
        if kind == .read || kind == .write {
            guard let taken = engine.arena.take(bytes: (edge + length + 4095) & ~4095) else {
                return false
            }
            buffer = taken
            // What the client did not write must not reach the disk.
            unsafe engine.arena.bytes(taken, (edge + length + 4095) & ~4095)
                .initializeMemory(as: UInt8.self, repeating: 0xa5)
        }
        let number = begin(kind, flags, index, sectors)
        if kind == .write, let buffer {
            unsafe spaces[index].model.stamp(
                number, sectors: sectors, into: engine.arena.bytes(buffer + edge, length))
        }
        let cookie = nextCookie
        nextCookie += 1
        submitted += 1
        inFlight[cookie] = ClientRequest(
            kind: kind, space: spaces[index].model.serial, sectors: sectors, number: number,
            buffer: buffer, client: client, shard: spaces[index].shard)
        while inFlightByClient.count <= client { inFlightByClient.append(0) }
        inFlightByClient[client] += 1
        machine.note(
            "client \(client): \(kind)\(flags.contains(.fua) ? " FUA" : "") \(spaces[index].name)"
                + " sectors \(sectors) number \(number) cookie \(cookie)")
        engine.submit(
            SpaceRequest(
                kind: kind, flags: flags, space: handle, offsetBytes: offset,
                lengthBytes: UInt32(length), bufferOffset: buffer ?? 0, cookie: cookie))
        return true
    }

    private func begin(
        _ kind: SpaceRequest.Kind, _ flags: SpaceRequest.Flags, _ index: Int,
        _ sectors: Range<Int>
    ) -> UInt32 {
        switch kind {
        case .read, .blockStatus, .cache: spaces[index].model.submitRead()
        case .flush: spaces[index].model.submitFlush()
        case .write:
            spaces[index].model.submitWrite(sectors: sectors, fua: flags.contains(.fua))
        case .trim, .writeZeroes:
            spaces[index].model.submitZeroes(sectors: sectors, fua: flags.contains(.fua))
        }
    }

    private func take(_ reply: SpaceReply) {
        guard var request = inFlight.removeValue(forKey: reply.cookie) else {
            return machine.fail("a reply for cookie \(reply.cookie), which is not in flight")
        }
        if let buffer = reply.movedTo { request.buffer = buffer }
        inFlightByClient[request.client] -= 1
        machine.note("reply \(reply.cookie): \(reply.status)")
        defer {
            if let buffer = request.buffer { machine.engines[request.shard].arena.give(buffer) }
        }
        guard let index = spaces.firstIndex(where: { $0.model.serial == request.space }) else {
            return
        }
        let ok = reply.status == .ok
        if !ok { judge(reply.status, request, spaces[index].name) }
        switch request.kind {
        case .flush:
            spaces[index].model.replyFlush(request.number, ok: ok)
        case .write, .trim, .writeZeroes:
            spaces[index].model.replyChange(request.number, ok: ok)
        case .cache: spaces[index].model.failRead(request.number)
        case .blockStatus:
            guard ok else { return spaces[index].model.failRead(request.number) }
            takeStatus(reply.extent, request, index)
        case .read:
            guard ok, let buffer = request.buffer else {
                return spaces[index].model.failRead(request.number)
            }
            let start = buffer + request.sectors.lowerBound * 512 % 4096
            let engine = machine.engines[request.shard]
            let bytes = unsafe engine.arena.bytes(start, request.sectors.count * 512)
            if let wrong = unsafe spaces[index].model.replyRead(
                request.number, sectors: request.sectors, bytes: UnsafeRawBufferPointer(bytes))
            {
                machine.fail("\(spaces[index].name): read of \(request.sectors): \(wrong)")
            }
        }
    }

    private func takeStatus(_ extent: SpaceExtent, _ request: ClientRequest, _ index: Int) {
        let (length, first) = (Int(extent.lengthBytes), request.sectors.lowerBound)
        guard length % 512 == 0 else {
            return machine.fail("\(spaces[index].name): an extent of \(length) bytes")
        }
        let told = SpaceModel.Extent(
            sectors: first..<first + length / 512, isMapped: extent.isMapped,
            readsAsZeros: extent.readsAsZeros)
        if let wrong = spaces[index].model.replyStatus(
            request.number, asked: request.sectors, told,
            isFixed: spaces[index].parameters.isFixed)
        {
            machine.fail("\(spaces[index].name): status of \(request.sectors): \(wrong)")
        }
    }

    /// Nothing fails here that no fault was put in for.
    private func judge(_ status: RequestStatus, _ request: ClientRequest, _ space: String) {
        switch status {
        case .noSpace where mayRunOutOfRoom && request.changesSpace: refusedForRoom += 1
        case .ioError where acceptsErrors, .readOnly where acceptsErrors,
            .noSpace where acceptsErrors:
            failedRequests += 1
        case .ok, .ioError, .noSpace, .readOnly, .invalid, .shutdown:
            machine.fail(
                "\(space): \(request.kind) of \(request.sectors) failed: \(status)\n"
                    + machine.waiting)
        }
    }

    /// Lets a request end, or something that one waits for.
    ///
    /// - Returns: false when the power is due, something is wrong, or nothing is under way.
    func waitForRoom() -> Bool {
        guard machine.violation == nil, !machine.isCutDue else { return false }
        let before = inFlight.count
        machine.settle()
        return inFlight.count < before || machine.step()
    }

    /// Steps the machine until no request is in flight.
    func finish() {
        while !inFlight.isEmpty {
            guard machine.violation == nil, !machine.isCutDue else { return }
            guard machine.step() else {
                if machine.violation == nil, !inFlight.isEmpty {
                    machine.fail(
                        "\(inFlight.count) requests never end: nothing is under way\n\(machine.waiting)"
                    )
                }
                return
            }
        }
    }
}
