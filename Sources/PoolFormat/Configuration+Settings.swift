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

    public init(chosenThresholds: Thresholds? = nil, chosenCompaction: Bool? = nil) {
        self.chosenThresholds = chosenThresholds
        self.chosenCompaction = chosenCompaction
    }

    public var thresholds: Thresholds { chosenThresholds ?? .byDefault }
    public var compaction: Bool { chosenCompaction ?? true }
}

extension PoolSettings {
    static let bytes = 24
    private enum Switch: UInt8 { case byDefault = 0, on, off }

    func validate() throws(FormatError) {
        guard thresholds.isValid else {
            throw Configuration.outOfRange("thresholds", UInt64(thresholds.notice))
        }
    }

    func encode(into writer: inout ByteWriter) {
        writer.u8(chosenThresholds?.notice ?? 0)
        writer.u8(chosenThresholds?.warning ?? 0)
        writer.u8(chosenThresholds?.critical ?? 0)
        let compaction: Switch = chosenCompaction.map { $0 ? .on : .off } ?? .byDefault
        writer.u8(compaction.rawValue)
        writer.zeros(Self.bytes - 4)
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
        try reader.reserved(bytes - 4)
        return PoolSettings(
            chosenThresholds: isChosen ? thresholds : nil, chosenCompaction: compaction)
    }
}
