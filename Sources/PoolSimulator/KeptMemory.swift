import PoolEngine
import PoolFormat

/// Memory that a killed process leaves behind, and that a power cut takes along.
final class KeptMemory: RestartMemory, @unchecked Sendable {
    private var regions: [RestartLog.Owner: Region] = [:]

    init() {}

    /// What it holds at this moment.
    init(copying other: KeptMemory) { regions = other.regions.mapValues(Region.init(copying:)) }

    func region(of owner: RestartLog.Owner, bytes: Int) -> UnsafeMutableRawBufferPointer? {
        let region = regions[owner] ?? Region(zeros: bytes)
        regions[owner] = region
        return unsafe region.bytes
    }

    func discard(_ owner: RestartLog.Owner) { regions[owner] = nil }

    /// The power is gone.
    func forget() { regions.removeAll() }
}

@safe
private final class Region {
    let bytes: UnsafeMutableRawBufferPointer

    init(zeros count: Int) {
        unsafe bytes = .allocate(byteCount: count, alignment: 4096)
        unsafe bytes.initializeMemory(as: UInt8.self, repeating: 0)
    }

    init(copying other: Region) {
        unsafe bytes = .allocate(byteCount: other.bytes.count, alignment: 4096)
        unsafe bytes.copyMemory(from: UnsafeRawBufferPointer(other.bytes))
    }

    deinit { unsafe bytes.deallocate() }
}
