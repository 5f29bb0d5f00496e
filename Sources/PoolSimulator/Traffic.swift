import PoolEngine
import PoolFormat

/// What several clients ask for: overlapping, unaligned, of every kind and size.
struct Traffic {
    private var random: SeededRandom
    private let depths: [Int]
    private let weights: Weights
    /// Windows of each space, by serial, that most requests go to.
    private var windows: [UInt64: [Range<Int>]] = [:]
    /// Spaces that take no new requests: about to be destroyed.
    var quiet: String?

    struct Weights {
        var read: Int
        var write: Int
        var flush: Int
        var trim: Int
        var zeroes: Int
        var status: Int
        var fuaPercent: Int
        var hotPercent: Int
    }

    init(seed: UInt64) {
        random = SeededRandom(seed: seed)
        var drawn: [Int] = []
        for _ in 0..<random.within(1...4) { drawn.append(random.within(1...16)) }
        depths = drawn
        weights = Weights(
            read: random.within(10...40), write: random.within(30...60),
            flush: random.within(1...8), trim: random.within(0...12),
            zeroes: random.within(0...10), status: random.within(0...10),
            fuaPercent: random.pick([0, 5, 10, 50]),
            hotPercent: random.pick([50, 80, 95]))
    }

    /// Fills every client's queue.
    mutating func refill(_ clients: Clients) {
        guard clients.spaces.contains(where: { $0.handle != nil }) else { return }
        for client in depths.indices {
            var tries = 0
            while clients.requestsInFlight(of: client) < depths[client], tries < depths[client] {
                tries += 1
                submitOne(clients, client)
            }
        }
    }

    private mutating func submitOne(_ clients: Clients, _ client: Int) {
        let index = random.below(clients.spaces.count)
        // No copy of the space outlives an expression here: a change of its model would then copy
        // the histories of all its sectors.
        guard clients.spaces[index].handle != nil, clients.spaces[index].name != quiet else {
            return
        }
        let total =
            weights.read + weights.write + weights.flush + weights.trim + weights.zeroes
            + weights.status
        var draw = random.below(total)
        let fua: SpaceRequest.Flags = random.chance(weights.fuaPercent) ? .fua : []
        let sectors = range(clients.spaces[index])
        draw -= weights.read
        if draw < 0 {
            clients.submit(.read, space: index, sectors: sectors, client: client)
            return
        }
        draw -= weights.write
        if draw < 0 {
            clients.submit(.write, flags: fua, space: index, sectors: sectors, client: client)
            return
        }
        draw -= weights.flush
        if draw < 0 {
            clients.submit(.flush, space: index, sectors: 0..<0, client: client)
            return
        }
        draw -= weights.status
        if draw < 0 { return submitStatus(clients, client, index, sectors) }
        draw -= weights.trim
        if draw < 0 {
            clients.submit(.trim, flags: fua, space: index, sectors: sectors, client: client)
            return
        }
        let flags = random.chance(50) ? fua.union(.noHole) : fua
        clients.submit(.writeZeroes, flags: flags, space: index, sectors: sectors, client: client)
    }

    /// Block status of a few sectors, or of everything up to the end; now and then a cache.
    private mutating func submitStatus(
        _ clients: Clients, _ client: Int, _ index: Int, _ sectors: Range<Int>
    ) {
        if random.chance(20) {
            clients.submit(.cache, space: index, sectors: sectors, client: client)
            return
        }
        let end = random.chance(50) ? clients.spaces[index].model.sectors : sectors.upperBound
        clients.submit(
            .blockStatus, space: index, sectors: sectors.lowerBound..<end, client: client)
    }

    /// A range within one grain.
    private mutating func range(_ space: ClientSpace) -> Range<Int> {
        let sectors = space.model.sectors
        let window = window(space)
        let within = random.chance(weights.hotPercent) ? window : 0..<sectors
        let start: Int
        let count: Int
        switch random.below(10) {
        case 0..<4:
            // Whole blocks.
            count = 8 * random.within(1...16)
            start = (within.lowerBound + random.below(within.count)) & ~7
        case 4..<8:
            count = random.within(1...64)
            start = within.lowerBound + random.below(within.count)
        case 8:
            count = random.within(64...2048)
            start = within.lowerBound + random.below(within.count)
        default:
            // A whole grain.
            count = 2048
            start = (within.lowerBound + random.below(within.count)) & ~2047
        }
        let grainEnd = (start / 2048 + 1) * 2048
        return start..<min(start + count, grainEnd, sectors)
    }

    private mutating func window(_ space: ClientSpace) -> Range<Int> {
        // A space that has become smaller has other windows.
        let sectors = space.model.sectors
        let old = windows[space.model.serial].flatMap { old in
            old.allSatisfy { $0.upperBound <= sectors } ? old : nil
        }
        let known = old ?? makeWindows(sectors)
        windows[space.model.serial] = known
        return random.pick(known)
    }

    private mutating func makeWindows(_ sectors: Int) -> [Range<Int>] {
        (0..<random.within(1...4)).map { _ in
            let size = random.pick([128, 512, 4096, 20_000])
            let start = random.below(sectors)
            return start..<min(start + size, sectors)
        }
    }
}
