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
        for offset in 104..<108 {
            unsafe memory.bytes.storeBytes(of: 0, toByteOffset: offset, as: UInt8.self)
        }
        reseal(memory)
        let settings = try unsafe Configuration.decode(memory.readOnly).settings
        #expect(settings == PoolSettings())
        #expect(settings.thresholds == .init(notice: 70, warning: 85, critical: 95))
        #expect(settings.compaction)
    }

    /// Each byte of the settings, every value: read back as it was written, or refused.
    @Test func `Settings out of their bounds are refused`() throws {
        for offset in 104..<108 {
            for byte: UInt8 in 0...255 {
                let memory = Memory(Specimen.configuration.bytes)
                unsafe memory.bytes.storeBytes(of: byte, toByteOffset: offset, as: UInt8.self)
                reseal(memory)
                let isRead = (try? unsafe Configuration.decode(memory.readOnly)) != nil
                // The sample's thresholds are 60, 80, 90; its compaction is off.
                let isValid =
                    switch offset {
                    case 104: (1..<80).contains(byte)
                    case 105: (61..<90).contains(byte)
                    case 106: (81...100).contains(byte)
                    default: byte <= 2
                    }
                #expect(isRead == isValid, "byte \(byte) at \(offset)")
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
