import PoolEngine

/// How long the operations of a device have taken, over some time.
public struct DevicePace: Hashable, Sendable {
    public var operations: UInt64 = 0
    public var totalNs: UInt64 = 0
    /// Of what is under way, how long the oldest has been.
    public var oldestNs: UInt64 = 0

    public init() {}

    public init(operations: UInt64, totalNs: UInt64, oldestNs: UInt64 = 0) {
        (self.operations, self.totalNs, self.oldestNs) = (operations, totalNs, oldestNs)
    }

    @inline(__always)
    mutating func note(_ ns: UInt64) {
        operations &+= 1
        totalNs &+= ns
    }

    public mutating func add(_ other: DevicePace) {
        operations &+= other.operations
        totalNs &+= other.totalNs
        oldestNs = max(oldestNs, other.oldestNs)
    }

    public var meanNs: UInt64? { operations > 0 ? totalNs / operations : nil }
}

extension DeviceDriver {
    /// The pace of every attached device since the last call.
    public func takePaces(nowNs: UInt64) -> [DeviceIndex: DevicePace] {
        var paces: [DeviceIndex: DevicePace] = [:]
        for at in 0..<DiskTable.capacity where disks[at] != nil {
            paces[DeviceIndex(UInt16(at))] = unsafe devices[at].pace
            unsafe devices[at].pace = DevicePace()
        }
        for slot in 0..<capacity {
            guard unsafe slots[slot].isUnderWay, unsafe !slots[slot].isHeld else { continue }
            let age = unsafe nowNs > slots[slot].startedNs ? nowNs - slots[slot].startedNs : 0
            let device = unsafe slots[slot].operation.device
            if let oldest = paces[device]?.oldestNs, age > oldest { paces[device]?.oldestNs = age }
        }
        return paces
    }
}
