/// How much of the disks' time repair takes while clients want it, too.
public enum RepairPriority: UInt8, Sendable, CaseIterable {
    case low = 1, normal, high
}

/// What the owner of a pool may choose for it. What was never chosen follows the defaults of the
/// version that reads it, and is stored as zeros: configurations from before a setting existed
/// read as if it had never been chosen.
public struct PoolSettings: Hashable, Sendable {
    /// How full a pool is when it says so: percentages of its slabs, each higher than the last.
    public struct Thresholds: Hashable, Sendable {
        public var notice: UInt8
        public var warning: UInt8
        public var critical: UInt8

        public init(notice: UInt8, warning: UInt8, critical: UInt8) {
            self.notice = notice
            self.warning = warning
            self.critical = critical
        }

        public static let byDefault = Thresholds(notice: 70, warning: 85, critical: 95)

        /// Percentages from 1 to 100 in ascending order: each state can be reached.
        public var isValid: Bool {
            1 <= notice && notice < warning && warning < critical && critical <= 100
        }
    }

    /// nil: never chosen.
    public var chosenThresholds: Thresholds?
    /// Whether sparse slab groups are emptied while nobody asks for their room; nil: never chosen.
    public var chosenCompaction: Bool?
    /// How long a disk may be away before what it held is rebuilt elsewhere; nil: never chosen.
    public var repairDelaySeconds: UInt32?
    /// How much of the disks' time repair takes from clients; nil: never chosen.
    public var repairPriority: RepairPriority?

    public init(
        chosenThresholds: Thresholds? = nil, chosenCompaction: Bool? = nil,
        repairDelaySeconds: UInt32? = nil, repairPriority: RepairPriority? = nil
    ) {
        self.chosenThresholds = chosenThresholds
        self.chosenCompaction = chosenCompaction
        self.repairDelaySeconds = repairDelaySeconds
        self.repairPriority = repairPriority
    }

    public static let defaultRepairDelaySeconds: UInt32 = 300
    /// A year.
    public static let repairDelayLimitSeconds: UInt32 = 366 * 86_400

    public var thresholds: Thresholds { chosenThresholds ?? .byDefault }
    public var compaction: Bool { chosenCompaction ?? true }
}

extension PoolSettings {
    static let bytes = 16
    private enum Switch: UInt8 { case byDefault = 0, on, off }

    func validate() throws(FormatError) {
        guard thresholds.isValid else {
            throw Configuration.outOfRange("thresholds", UInt64(thresholds.notice))
        }
        if let delay = repairDelaySeconds, delay > Self.repairDelayLimitSeconds {
            throw Configuration.outOfRange("repair delay", UInt64(delay))
        }
    }

    func encode(into writer: inout ByteWriter) {
        writer.u8(chosenThresholds?.notice ?? 0)
        writer.u8(chosenThresholds?.warning ?? 0)
        writer.u8(chosenThresholds?.critical ?? 0)
        let compaction: Switch = chosenCompaction.map { $0 ? .on : .off } ?? .byDefault
        writer.u8(compaction.rawValue)
        writer.u32(repairDelaySeconds.map { $0 + 1 } ?? 0)
        writer.u8(repairPriority?.rawValue ?? 0)
        writer.zeros(Self.bytes - 9)
    }

    static func decode(from reader: inout ByteReader) throws(FormatError) -> PoolSettings {
        let thresholds = Thresholds(
            notice: try reader.u8(), warning: try reader.u8(), critical: try reader.u8())
        let isChosen = thresholds != Thresholds(notice: 0, warning: 0, critical: 0)
        let compaction: Bool? =
            switch try reader.choice("compaction", Switch.self) {
            case .byDefault: nil
            case .on: true
            case .off: false
            }
        let delay = try reader.u32()
        let priority = try reader.u8()
        guard priority == 0 || RepairPriority(rawValue: priority) != nil else {
            throw Configuration.outOfRange("repair priority", UInt64(priority))
        }
        try reader.reserved(bytes - 9)
        return PoolSettings(
            chosenThresholds: isChosen ? thresholds : nil, chosenCompaction: compaction,
            repairDelaySeconds: delay == 0 ? nil : delay - 1,
            repairPriority: RepairPriority(rawValue: priority))
    }
}
