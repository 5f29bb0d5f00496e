import PoolFormat

/// The engine's own buffers, taken from the arena once, so that slow paths never wait for clients'
/// buffers: a full queue of writes cannot starve the commit that would let them go.
final class ScratchBuffers: @unchecked Sendable {
    private let arena: BufferArena
    /// Set before anything else; not weak, which would make every count of the engine slow.
    private unowned var engine: Engine?
    /// Free buffers: 4 KiB, 16 KiB, 1 MiB.
    private var pages: [Int] = []
    private var pairs: [Int] = []
    private var grains: [Int] = []
    /// Two of 1 MiB each, for a stripe: whoever holds one waits for nothing but devices, and for the
    /// record of one that failed; so others may wait for one and hold any other.
    private var stripes: [(data: Int, parity: Int)] = []
    /// Of 128 KiB, for some rows of a stripe: the same holds of them.
    private var bands: [Int] = []
    /// For writing a configuration: whoever waits for a failed disk to be recorded may hold any other.
    private var configurations: [Int]
    private var given: Signal?
    /// Requests parked for a page.
    private var parked: [RequestIndex] = []

    init(arena: BufferArena, limits: Limits) {
        self.arena = arena
        for _ in 0..<limits.scratchPages {
            guard let page = arena.take(bytes: Units.blockBytes) else { break }
            pages.append(page)
        }
        for _ in 0..<limits.scratchPairs {
            guard let pair = arena.take(bytes: Self.pairBytes) else { break }
            pairs.append(pair)
        }
        for _ in 0..<limits.scratchGrains {
            guard let grain = arena.take(bytes: Units.grainBytes) else { break }
            grains.append(grain)
        }
        for _ in 0..<limits.scratchStripes {
            guard let data = arena.take(bytes: Units.grainBytes),
                let parity = arena.take(bytes: Units.grainBytes)
            else { break }
            stripes.append((data, parity))
        }
        for _ in 0..<limits.scratchBands {
            guard let band = arena.take(bytes: Self.bandBytes) else { break }
            bands.append(band)
        }
        // One buffer is never in the lists: it is what a stopped engine's slow paths scribble on.
        let spare = grains.popLast()
        afterStop = spare ?? 0
        configurations = arena.take(bytes: Units.grainBytes).map { [$0] } ?? []
        precondition(
            pages.count == limits.scratchPages && pairs.count == limits.scratchPairs
                && stripes.count == limits.scratchStripes && bands.count == limits.scratchBands
                && grains.count == limits.scratchGrains - 1 && !configurations.isEmpty,
            "the arena is smaller than the engine's own buffers")
    }

    func connect(_ engine: Engine) {
        self.engine = engine
        given = Signal(engine)
    }

    static let pairBytes = 4 * Units.blockBytes
    static let bandBytes = 128 << 10

    /// A buffer of 4 KiB, 16 KiB or 1 MiB, the smallest that holds `bytes`; waits until one is
    /// free. A slow path holds at most three of 1 MiB.
    func take(bytes: Int) async -> Int {
        precondition(bytes <= Units.grainBytes)
        return await wait(afterStop: afterStop) { self.tryTake(bytes: bytes) }
    }

    /// The buffer of 1 MiB for a configuration; it goes back with ``giveConfiguration(_:)``.
    func takeConfiguration() async -> Int {
        await wait(afterStop: afterStop) { self.configurations.popLast() }
    }

    func giveConfiguration(_ buffer: Int) {
        if buffer == afterStop { return }
        configurations.append(buffer)
        given?.fire()
    }

    /// Up to three of 1 MiB, or none yet: whoever needs several holds nothing while it waits.
    func takeGrains(_ count: Int) async -> [Int] {
        precondition(count <= 3)
        return await wait(afterStop: Array(repeating: afterStop, count: count)) {
            guard self.grains.count >= count else { return nil }
            return (0..<count).map { _ in self.grains.removeLast() }
        }
    }

    func takeStripe() async -> (data: Int, parity: Int) {
        await wait(afterStop: (afterStop, afterStop)) { self.stripes.popLast() }
    }

    func giveStripe(_ data: Int, _ parity: Int) {
        if data == afterStop { return }
        stripes.append((data, parity))
        given?.fire()
    }

    func takeBand() async -> Int {
        await wait(afterStop: afterStop) { self.bands.popLast() }
    }

    func giveBand(_ band: Int) {
        if band == afterStop { return }
        bands.append(band)
        given?.fire()
    }

    /// What `take` has, as soon as it has something. A stopped engine's slow paths go on with what
    /// goes nowhere.
    private func wait<Buffers>(
        afterStop: Buffers, _ take: () -> Buffers?
    ) async -> Buffers {
        while true {
            if let buffers = take() { return buffers }
            guard let engine, !engine.isStopped, let given else { return afterStop }
            await given.wait()
        }
    }

    private func tryTake(bytes: Int) -> Int? {
        if bytes <= Units.blockBytes { return pages.popLast() }
        if bytes <= Self.pairBytes { return pairs.popLast() }
        return grains.popLast()
    }

    /// A 4 KiB buffer, or nil while there is none: then the request is parked until there is.
    func takePage(orPark request: RequestIndex) -> Int? {
        if let page = pages.popLast() { return page }
        parked.append(request)
        return nil
    }

    func give(_ buffer: Int) {
        if buffer == afterStop { return }
        switch arena.capacity(of: buffer) {
        case Units.blockBytes:
            pages.append(buffer)
            engine?.runnable.append(contentsOf: parked)
            parked.removeAll(keepingCapacity: true)
        case Self.pairBytes: pairs.append(buffer)
        case let bytes:
            precondition(bytes >= Units.grainBytes)
            grains.append(buffer)
        }
        given?.fire()
    }

    /// Handed out by a stopped engine only, whose operations go nowhere.
    private let afterStop: Int
}
