import PoolFormat
import Testing

@Suite struct ConfigurationTests {
    private func roundTrip(_ value: Configuration) throws -> Configuration {
        let memory = Memory(Configuration.slotBytes)
        let bytes = try unsafe value.encode(into: memory.bytes)
        #expect(bytes % 4096 == 0)
        let first = unsafe UnsafeRawBufferPointer(rebasing: memory.readOnly[..<4096])
        #expect(try unsafe Configuration.peek(first) == bytes)
        let written = unsafe UnsafeRawBufferPointer(rebasing: memory.readOnly[..<bytes])
        return try unsafe Configuration.decode(written)
    }

    @Test func `The sample comes back equal`() throws {
        #expect(try roundTrip(Sample.configuration) == Sample.configuration)
    }

    /// Invariant 3: the largest configuration the limits allow fits its slot.
    @Test func `The largest configuration fits its slot`() throws {
        func text(_ bytes: Int, _ number: Int) -> String {
            let digits = String(number)
            return digits + String(repeating: "x", count: bytes - digits.count)
        }
        var value = Sample.configuration
        value.poolName = text(64, 0)
        value.nextDiskNumber = 256
        value.nextLineage = 2000
        value.disks = (0..<Configuration.diskLimit).map {
            DiskRecord(
                number: DiskNumber(UInt16($0)), uuid: PoolUUID(high: 1, low: UInt64($0)),
                sizeBytes: 1 << 40, mediaClass: .hdd, state: .online, enclosure: text(64, $0),
                node: text(64, $0), rack: text(64, $0), pathHint: text(1024, $0))
        }
        value.voters = value.disks.map(\.number)
        value.spaces = (1...Configuration.spaceLimit).map {
            var space = Sample.configuration.spaces[0]
            space.lineage = Lineage(UInt64($0))
            space.name = text(64, $0)
            space.readOnlyReason = text(128, $0)
            space.owner = text(64, $0)
            return space
        }
        value.departures = (0..<Configuration.departureLimit).map {
            Departure(disk: DiskNumber(1), lineage: Lineage(1), generation: UInt64($0))
        }
        #expect(try roundTrip(value) == value)
        let memory = Memory(Configuration.slotBytes)
        value.departures.append(value.departures[0])
        #expect(throws: FormatError.self) { try unsafe value.encode(into: memory.bytes) }
    }

    @Test func `A configuration that breaks an invariant is not written`() {
        let changes: [@Sendable (inout Configuration) -> Void] = [
            { $0.disks[1].number = $0.disks[0].number }, { $0.disks[1].uuid = $0.disks[0].uuid },
            { $0.nextDiskNumber = 6 }, { $0.nextLineage = Sample.lineage.rawValue },
            { $0.spaces.append($0.spaces[0]) }, { $0.spaces[0].lineage = .metadata },
            { $0.spaces[0].lineage = .none }, { $0.spaces[0].sizeBytes = 0 },
            { $0.spaces[0].sizeBytes += 512 }, { $0.spaces[0].sizeBytes = 1 << 61 },
            { $0.spaces[0].copies = 0 }, { $0.spaces[0].columns = 31 },
            { $0.spaces[0].interleaveBytes = 1000 },
            { $0.spaces[0].flags = SpaceFlags(rawValue: 8) },
            { $0.spaces[0].ssdResiliency = 9 }, { $0.spaces[0].currentCopies = 4 },
            { $0.spaces[0].root[0].piece = 0 }, { $0.spaces[0].root[0].piece = 256 },
            { $0.spaces[0].root += $0.spaces[0].root }, { $0.voters.append(DiskNumber(3)) },
            { $0.disks[0].rack = String(repeating: "r", count: 65) },
            { $0.spaces[0].readOnlyReason = String(repeating: "r", count: 129) },
            { $0.settings.chosenThresholds?.notice = 0 },
            { $0.settings.chosenThresholds?.notice = 80 },
            { $0.settings.chosenThresholds?.warning = 90 },
            { $0.settings.chosenThresholds?.critical = 101 },
            { $0.settings.repairDelaySeconds = PoolSettings.repairDelayLimitSeconds + 1 },
            { $0.settings.repairDelaySeconds = .max },
            { $0.sequenceBefore = $0.version.sequence }, { $0.sequenceBefore = .max },
            { $0.disks[1].leftAfterSequence = $0.version.sequence + 1 },
            { $0.disks[1].leftAfterSequence = DiskRecord.givenUp - 1 },
        ]
        for (number, change) in changes.enumerated() {
            var value = Sample.configuration
            change(&value)
            let memory = Memory(Configuration.slotBytes)
            #expect(throws: FormatError.self, "change \(number)") {
                try unsafe value.encode(into: memory.bytes)
            }
        }
    }

    @Test(arguments: [64, 68, 72, 76])
    func `Overlong counts are refused before anything is read`(offset: Int) {
        for count: UInt32 in [8193, 0x7fff_ffff, .max] {
            let memory = Memory(Specimen.configuration.bytes)
            unsafe memory.bytes.storeBytes(of: count, toByteOffset: offset, as: UInt32.self)
            reseal(memory)
            let error = #expect(throws: FormatError.self) {
                try unsafe Configuration.decode(memory.readOnly)
            }
            guard case .tooMany = error else {
                Issue.record("\(String(describing: error))")
                continue
            }
        }
    }

    @Test func `A configuration from before there were settings reads as all by default`() throws {
        let memory = Memory(Specimen.configuration.bytes)
        for offset in 104..<128 {
            unsafe memory.bytes.storeBytes(of: 0, toByteOffset: offset, as: UInt8.self)
        }
        reseal(memory)
        let value = try unsafe Configuration.decode(memory.readOnly)
        let settings = value.settings
        #expect(settings == PoolSettings() && value.sequenceBefore == 0)
        #expect(settings.repairDelaySeconds == nil && settings.repairPriority == nil)
        #expect(settings.thresholds == .init(notice: 70, warning: 85, critical: 95))
        #expect(settings.compaction)
    }

    /// Each byte of the settings, every value: read back as it was written, or refused.
    @Test func `Settings out of their bounds are refused`() throws {
        for offset in 104..<120 {
            for byte: UInt8 in 0...255 {
                let memory = Memory(Specimen.configuration.bytes)
                unsafe memory.bytes.storeBytes(of: byte, toByteOffset: offset, as: UInt8.self)
                reseal(memory)
                let isRead = (try? unsafe Configuration.decode(memory.readOnly)) != nil
                // The sample's thresholds are 60, 80, 90; its compaction is off; its repair delay
                // is 0x0102_0304, of at most 0x01e2_8500.
                let isValid =
                    switch offset {
                    case 104: (1..<80).contains(byte)
                    case 105: (61..<90).contains(byte)
                    case 106: (81...100).contains(byte)
                    case 107: byte <= 2
                    case 108, 109: true
                    case 110: byte <= 0xe2
                    case 111: byte <= 1
                    case 112: byte <= 3
                    default: byte == 0
                    }
                #expect(isRead == isValid, "byte \(byte) at \(offset)")
            }
        }
    }

    @Test func `A delay of nothing is a choice, and the longest is a year`() throws {
        var value = Sample.configuration
        let limit = PoolSettings.repairDelayLimitSeconds
        #expect(limit == 31_622_400)
        for delay: UInt32? in [nil, 0, 1, 300, limit - 1, limit] {
            for priority in [nil] + RepairPriority.allCases.map(Optional.some) {
                value.settings.repairDelaySeconds = delay
                value.settings.repairPriority = priority
                let settings = try roundTrip(value).settings
                #expect(settings.repairDelaySeconds == delay)
                #expect(settings.repairPriority == priority)
            }
        }
        // As the disk has it: one more than it is.
        for stored: UInt32 in [limit + 2, 1 << 31, .max] {
            let memory = Memory(Specimen.configuration.bytes)
            unsafe memory.bytes.storeBytes(of: stored, toByteOffset: 108, as: UInt32.self)
            reseal(memory)
            let error = FormatError.outOfRange(
                .configuration, field: "repair delay", value: UInt64(stored - 1))
            #expect(throws: error) { try unsafe Configuration.decode(memory.readOnly) }
        }
    }

    @Test func `What was before is older`() throws {
        var value = Sample.configuration
        value.version.sequence = 9
        value.disks[1].leftAfterSequence = DiskRecord.givenUp
        #expect(throws: FormatError.self) { try roundTrip(value) }
        value.sequenceBefore = 8
        value.disks[0].leftAfterSequence = 9
        #expect(try roundTrip(value) == value)
        for before: UInt64 in [0, 1, 8] {
            value.sequenceBefore = before
            value.disks[0].leftAfterSequence = before
            value.disks[1].leftAfterSequence = 8 - before
            #expect(try roundTrip(value) == value)
        }
    }

    /// The rest of a disk's record that this version keeps zero.
    @Test func `Reserved bytes of a disk are refused`() throws {
        // Behind the pool's name; number, media, state, zero 4, UUID 16, size 8, left after 8.
        let disk = 128 + 2 + 4
        #expect(Array(Specimen.configuration.bytes[disk..<disk + 4]) == [3, 0, 1, 6])
        for offset in Array(4..<8) + Array(40..<48) {
            let memory = Memory(Specimen.configuration.bytes)
            unsafe memory.bytes[disk + offset] = 1
            reseal(memory)
            let error = #expect(throws: FormatError.self) {
                try unsafe Configuration.decode(memory.readOnly)
            }
            guard case .reservedNotZero = error else {
                Issue.record("byte \(offset): \(String(describing: error))")
                continue
            }
        }
    }

    @Test func `Versions compare as pool epoch, then sequence`() {
        let old = ConfigurationVersion(poolEpoch: 1, sequence: 9)
        let new = ConfigurationVersion(poolEpoch: 2, sequence: 1)
        #expect(old < new && !(new < old))
        #expect(new < ConfigurationVersion(poolEpoch: 2, sequence: 2))
    }
}
