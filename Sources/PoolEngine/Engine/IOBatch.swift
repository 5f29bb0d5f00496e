/// Device operations of a slow path that are awaited together: one suspension for all of them.
///
///     let io = IOBatch(engine)
///     io.write(...); io.write(...)
///     guard await io.run() else { ... io.statuses ... }
///
/// Reusable: `run` empties it. A batch is at most 65,536 operations.
@safe
final class IOBatch: @unchecked Sendable {
    unowned let engine: Engine
    private var pending: [DeviceOperation] = []
    /// One for each operation of the last run, in the order they were added.
    private(set) var statuses: [DeviceStatus] = []
    /// The device of each of them.
    private var devices: [DeviceIndex] = []
    private var outstanding = 0
    private var waiter: UnsafeContinuation<Void, Never>?

    init(_ engine: Engine) { unsafe (self.engine, waiter) = (engine, nil) }

    func read(_ device: DeviceIndex, at offset: UInt64, bytes: Int, into buffer: Int) {
        add(.read, device, offset, UInt64(bytes), buffer)
    }

    func write(_ device: DeviceIndex, at offset: UInt64, bytes: Int, from buffer: Int) {
        add(.write, device, offset, UInt64(bytes), buffer)
    }

    func flush(_ device: DeviceIndex) { add(.flush, device, 0, 0, 0) }

    func discard(_ device: DeviceIndex, at offset: UInt64, bytes: UInt64) {
        add(.discard, device, offset, bytes, 0)
    }

    var isEmpty: Bool { pending.isEmpty }

    /// Devices of the last run.
    var usedDevices: DeviceSet {
        var set = DeviceSet()
        for device in devices { set.insert(device) }
        return set
    }

    /// Devices of the last run of which an operation ended with a status.
    func devices(with status: DeviceStatus) -> DeviceSet {
        var set = DeviceSet()
        for (device, found) in zip(devices, statuses) where found == status { set.insert(device) }
        return set
    }

    private func add(
        _ kind: DeviceOperation.Kind, _ device: DeviceIndex, _ offset: UInt64, _ bytes: UInt64,
        _ buffer: Int
    ) {
        pending.append(
            DeviceOperation(
                kind: kind, device: device, token: 0, offsetBytes: offset, lengthBytes: bytes,
                bufferOffset: buffer))
    }

    /// Submits everything added since the last run and waits for all of it.
    ///
    /// - Returns: whether every operation succeeded; ``statuses`` says which did not.
    func run() async -> Bool {
        statuses.removeAll(keepingCapacity: true)
        devices.removeAll(keepingCapacity: true)
        guard !pending.isEmpty else { return !engine.isStopped }
        statuses.append(contentsOf: repeatElement(.aborted, count: pending.count))
        guard !engine.isStopped else {
            pending.removeAll(keepingCapacity: true)
            return false
        }
        precondition(pending.count <= 1 << 16)
        let index = engine.register(self)
        for position in pending.indices {
            pending[position].token = Token.make(batch: index, operation: position)
            devices.append(pending[position].device)
            engine.operations.append(pending[position])
        }
        outstanding = pending.count
        pending.removeAll(keepingCapacity: true)
        // Resumed exactly once: by the last completion, or by `abort`, which clears `waiter`.
        await unsafe withUnsafeContinuation { unsafe waiter = $0 }
        engine.unregister(index)
        return statuses.allSatisfy { $0 == .ok }
    }

    func complete(_ operation: Int, _ status: DeviceStatus) {
        precondition(outstanding > 0)
        statuses[operation] = status
        outstanding -= 1
        if outstanding == 0 { resume() }
    }

    /// The engine stopped: what has not completed stays `.aborted`.
    func abort() { resume() }

    private func resume() {
        guard let resumed = unsafe waiter else { return }
        unsafe waiter = nil
        unsafe resumed.resume()
    }
}

/// What comes back in a completion: an operation of a batch, or a leg of a request.
enum Token {
    static let batchFlag: UInt32 = 1 << 31

    static func make(batch: Int, operation: Int) -> UInt32 {
        precondition(batch < 1 << 15 && operation < 1 << 16)
        return batchFlag | UInt32(batch) << 16 | UInt32(operation)
    }

    static func batch(_ token: UInt32) -> (batch: Int, operation: Int) {
        (Int((token & ~batchFlag) >> 16), Int(token & 0xffff))
    }

    /// Of a request.
    static let mostLegs = 256

    static func make(request: RequestIndex, leg: Int) -> UInt32 {
        precondition(leg < mostLegs)
        return request.rawValue << 8 | UInt32(leg)
    }

    static func leg(_ token: UInt32) -> (request: RequestIndex, leg: Int) {
        (RequestIndex(token >> 8), Int(token & 0xff))
    }
}
