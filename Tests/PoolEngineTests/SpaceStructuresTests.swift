import PoolFormat
import Testing

@testable import PoolEngine

/// A seeded generator: the same in every run.
struct Generator: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ mixed >> 30) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ mixed >> 27) &* 0x94D0_49BB_1331_11EB
        return mixed ^ mixed >> 31
    }
}

struct PendingTableTests {
    @Test func remembersTheFirstOldValueOfEachKeyInOrder() {
        var random = Generator(state: 1)
        for round in 0..<200 {
            var table = PendingTable(capacity: 16)
            var model: [UInt64: UInt64] = [:]
            var order: [UInt64] = []
            for _ in 0..<(round * 4) {
                let key = UInt64.random(in: 0..<64, using: &random)
                if Bool.random(using: &random) {
                    let old = random.next()
                    #expect(table.insert(key, old: old) == (model[key] == nil))
                    if model[key] == nil {
                        model[key] = old
                        order.append(key)
                    }
                } else {
                    #expect(table.remove(key) == (model.removeValue(forKey: key) != nil))
                    order.removeAll { $0 == key }
                }
                #expect(table.count == model.count)
            }
            for key in UInt64(0)..<64 { #expect(table.old(key) == model[key]) }
            #expect(table.keys.filter { $0 != PendingTable.removed } == order)
            table.removeAll()
            #expect(table.isEmpty && table.old(3) == nil)
        }
    }
}

struct SlabGroupsTests {
    /// Every byte of a group has a place of its own on every copy, and the runs of a request are
    /// what it would get byte by byte.
    @Test(arguments: [1, 2, 3, 5], [1, 2, 3])
    func layoutIsABijection(columns: Int, copies: Int) throws {
        for unit in [16 << 10, 256 << 10, 1 << 20] {
            let groups = Self.groups(columns: columns, copies: copies, unitBytes: unit)
            var seen = Set<[UInt64]>()
            // Two neighbouring grains at each end, in steps of the unit.
            let last = UInt32(columns * Units.grainsPerSlab - 1)
            for grain in [0, 1, last - 1, last] {
                let entry = GrainMap.Entry(group: 0, physicalGrain: grain)
                for copy in 0..<copies {
                    for offset in stride(from: 0, to: Units.grainBytes, by: unit) {
                        let runs = Self.runs(groups, entry, copy, offset, unit)
                        let first = try #require(runs.first)
                        #expect(runs.count == 1)
                        #expect(first.base.offsetBytes < UInt64(Units.slabBytes))
                        #expect(Int(first.base.device.rawValue) % copies == copy)
                        #expect(
                            seen.insert([UInt64(first.base.device.rawValue), first.base.offsetBytes])
                                .inserted)
                    }
                }
            }
        }
    }

    @Test func runsOfARangeAreItsBytesInOrder() {
        var random = Generator(state: 2)
        let groups = Self.groups(columns: 3, copies: 2, unitBytes: 64 << 10)
        for _ in 0..<300 {
            let grain = UInt32.random(in: 0..<UInt32(3 * Units.grainsPerSlab), using: &random)
            let entry = GrainMap.Entry(group: 0, physicalGrain: grain)
            let first = Int.random(in: 0..<255, using: &random)
            let count = Int.random(in: 1...(256 - first), using: &random)
            let runs = Self.runs(groups, entry, 1, first * 4096, count * 4096)
            var position = 0
            for run in runs {
                #expect(run.position == position)
                for block in 0..<(run.bytes / 4096) {
                    let single = Self.runs(
                        groups, entry, 1, first * 4096 + position + block * 4096, 4096)
                    #expect(single.count == 1)
                    #expect(single[0].base.device == run.base.device)
                    #expect(
                        single[0].base.offsetBytes == run.base.offsetBytes + UInt64(block * 4096))
                }
                position += run.bytes
            }
            #expect(position == count * 4096)
        }
    }

    @Test func aGrainHasOneOwnerAndAnEmptyGroupLeaves() {
        var groups = Self.groups(columns: 1, copies: 1, unitBytes: 256 << 10)
        var taken = Set<UInt64>()
        while let entry = groups.allocate() { #expect(taken.insert(entry.rawValue).inserted) }
        #expect(taken.count == Units.grainsPerSlab)
        #expect(groups.freeGrains == 0 && groups.removeEmpty().isEmpty)
        for raw in taken { groups.release(GrainMap.Entry(rawValue: raw)) }
        #expect(groups.removeEmpty().map(\.id) == [0])
        #expect(groups.freeGrains == 0 && groups.allocate() == nil && groups.nextID == 0)
    }

    /// Few widths of stripes divide a slab: what is left at its end is nobody's.
    @Test(arguments: Units.parityDataColumns, [ResiliencyKind.parity1, .parity2])
    func everyStripeEndsInsideItsSlabs(columns: Int, layout: ResiliencyKind) {
        let unit = GroupRecord.parityUnitBytes(dataColumns: columns)
        var groups = Self.groups(
            columns: columns, copies: 1, unitBytes: unit, layout: layout)
        var taken: Set<UInt32> = []
        func take(_ count: Int) {
            for _ in 0..<count {
                guard let entry = groups.allocate() else { return }
                #expect(taken.insert(entry.physicalGrain).inserted)
                #expect((Int(entry.physicalGrain) + 1) * unit <= Units.slabBytes)
            }
        }
        // Some are free again when the last one is taken: what is looked for next lies behind it.
        take(Units.slabBytes / unit - 1)
        for grain in taken where grain % 3 == 0 {
            groups.release(GrainMap.Entry(group: 0, physicalGrain: grain))
            taken.remove(grain)
        }
        take(.max)
        #expect(taken.count == Units.slabBytes / unit && groups.freeGrains == 0)
    }

    /// Compaction gives up what a repair goes on with.
    @Test func aGroupIsDrainingUntilAllWhoEmptyItHaveEnded() {
        var groups = Self.groups(columns: 1, copies: 1, unitBytes: 256 << 10)
        let free = groups.freeGrains
        groups.startDraining(0, by: .compaction)
        groups.startDraining(0, by: .repair)
        groups.startDraining(0, by: .repair)
        #expect(groups.freeGrains == 0)
        groups.stopDraining(0, by: .compaction)
        #expect(!groups.isDraining(0, by: .compaction) && groups.isDraining(0, by: .repair))
        #expect(groups.freeGrains == 0 && groups.allocate() == nil)
        groups.stopDraining(0, by: .repair)
        groups.stopDraining(0, by: .repair)
        #expect(groups.freeGrains == free && groups.allocate() != nil)
        groups.startDraining(0, by: .repair)
        groups.stopDraining()
        #expect(!groups.isDraining(0) && groups.freeGrains == free - 1)
    }

    private static func groups(
        columns: Int, copies: Int, unitBytes: Int, layout: ResiliencyKind = .simple
    ) -> SlabGroups {
        let slabs = (0..<columns * copies + layout.parityColumns).map {
            GroupSlab(
                address: SlabAddress(disk: DiskNumber(UInt16($0)), slab: 0), generation: 1)
        }
        var groups = SlabGroups()
        groups.add(
            GroupRecord(
                id: 0, layout: layout, mediaClass: .hdd, copies: UInt8(copies),
                columns: UInt16(columns), unitBytes: UInt32(unitBytes), rotation: 0,
                parityGenerator: 0, birth: 1, slabs: slabs)
        ) {
            let disk = $0.address.disk
            return SlabGroups.Base(
                device: DeviceIndex(disk.rawValue), disk: disk, offsetBytes: 0)
        }
        return groups
    }

    private static func runs(
        _ groups: SlabGroups, _ entry: GrainMap.Entry, _ copy: Int, _ offset: Int, _ bytes: Int
    ) -> [(base: SlabGroups.Base, position: Int, bytes: Int)] {
        var runs: [(base: SlabGroups.Base, position: Int, bytes: Int)] = []
        groups.forEachRun(entry, copy: copy, offsetBytes: offset, lengthBytes: bytes) {
            runs.append((base: $0, position: $1, bytes: $2))
        }
        return runs
    }
}

struct RangeLocksTests {
    /// Requests of four grains that share buckets or not: whoever conflicts with an earlier one
    /// waits for it, nobody else waits, and everybody gets a turn.
    @Test func conflictingRequestsGoInOrderOfArrival() {
        var random = Generator(state: 3)
        for _ in 0..<300 {
            let table = RequestTable(capacity: 32)
            let locks = RangeLocks(table)
            var waiting: [RequestIndex] = []
            var active: [RequestIndex] = []
            var arrival: [RequestIndex] = []
            for _ in 0..<24 {
                let index = table.take()
                table[index].kind = Bool.random(using: &random) ? .read : .write
                table[index].grain = UInt64.random(in: 0..<4, using: &random)
                table[index].firstBlock = UInt16.random(in: 0..<6, using: &random)
                table[index].blockCount = UInt16.random(in: 1..<4, using: &random)
                arrival.append(index)
                let isFree = locks.enter(index)
                let mustWait = (active + waiting).contains { Self.conflict(table, $0, index) }
                #expect(isFree == !mustWait)
                if isFree { active.append(index) } else { waiting.append(index) }
            }
            while !active.isEmpty {
                let done = active.remove(at: Int.random(in: 0..<active.count, using: &random))
                var runnable: [RequestIndex] = []
                locks.leave(done, runnable: &runnable)
                arrival.removeAll { $0 == done }
                waiting.removeAll { runnable.contains($0) }
                active += runnable
                for request in arrival {
                    let earlier = arrival.prefix { $0 != request }
                    let blocked = earlier.contains { Self.conflict(table, $0, request) }
                    #expect(active.contains(request) == !blocked)
                }
            }
            #expect(waiting.isEmpty && arrival.isEmpty)
        }
    }

    private static func conflict(
        _ table: RequestTable, _ a: RequestIndex, _ b: RequestIndex
    ) -> Bool {
        let (a, b) = (table[a], table[b])
        return a.grain == b.grain && (a.kind != .read || b.kind != .read)
            && (a.firstBlock..<a.firstBlock + a.blockCount)
                .overlaps(b.firstBlock..<b.firstBlock + b.blockCount)
    }
}

struct JournalScanTests {
    private static let lineage = Lineage(7)

    /// One piece with batches at the given blocks; each names the one before it in the list.
    private static func piece(
        _ batches: [(sequence: UInt64, epoch: UInt64, confirmed: UInt64, tail: UInt64)],
        leavingOut missing: Set<UInt64> = []
    ) -> [UInt8] {
        var piece = [UInt8](repeating: 0, count: Units.pieceBytes)
        var previous: UInt32 = 0
        for (block, batch) in batches.enumerated() {
            let bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: 4096, alignment: 4096)
            defer { unsafe bytes.deallocate() }
            unsafe bytes.initializeMemory(as: UInt8.self, repeating: 0)
            var writer = unsafe BatchWriter(bytes)
            _ = writer.append(.mark(region: batch.sequence))
            let (_, checksum) = writer.finish(
                BatchHeader(
                    lineage: lineage, epoch: batch.epoch, sequence: batch.sequence,
                    previousChecksum: previous, confirmedSequence: batch.confirmed,
                    tailSequence: batch.tail, tailBlock: 0, recordBytes: 0, recordCount: 0))
            previous = checksum
            if missing.contains(batch.sequence) { continue }
            unsafe piece.replaceSubrange(block * 4096..<(block + 1) * 4096, with: bytes)
        }
        return piece
    }

    private static func outcome(
        _ copies: [[UInt8]], unreadable: [Set<Int>] = []
    ) -> JournalScan.Outcome {
        var scan = JournalScan(pieceCount: 1)
        for (copy, bytes) in copies.enumerated() {
            unsafe bytes.withUnsafeBytes {
                unsafe scan.add(
                    $0, firstBlock: 0, copy: copy, lineage: lineage,
                    unreadable: copy < unreadable.count ? unreadable[copy] : [])
            }
        }
        return scan.chain()
    }

    private static func sequences(_ outcome: JournalScan.Outcome) -> [UInt64]? {
        guard case .chain(let batches) = outcome else { return nil }
        return batches.map(\.header.sequence)
    }

    @Test func aChainIsPutTogetherFromBothCopies() {
        let batches: [(UInt64, UInt64, UInt64, UInt64)] = [
            (5, 1, 4, 5), (6, 1, 5, 5), (7, 1, 6, 5), (8, 1, 7, 5),
        ]
        let found = Self.outcome([
            Self.piece(batches, leavingOut: [6]), Self.piece(batches, leavingOut: [5, 7]),
        ])
        #expect(Self.sequences(found) == [5, 6, 7, 8])
        guard case .chain(let chain) = found else { return }
        #expect(chain.map(\.copies) == [0b01, 0b10, 0b01, 0b11])
    }

    @Test func whatFollowsAGapWasNeverConfirmed() {
        // 7 and 8 were written by one commit; 7 was lost.
        let batches: [(UInt64, UInt64, UInt64, UInt64)] = [
            (5, 1, 4, 5), (6, 1, 5, 5), (7, 1, 6, 5), (8, 1, 6, 5),
        ]
        let found = Self.outcome([Self.piece(batches, leavingOut: [7])])
        #expect(Self.sequences(found) == [5, 6])
    }

    @Test func aConfirmedBatchThatIsGoneIsNoticed() {
        // 8 says that 7 was confirmed, and no copy has 7.
        let batches: [(UInt64, UInt64, UInt64, UInt64)] = [
            (5, 1, 4, 5), (6, 1, 5, 5), (7, 1, 6, 5), (8, 1, 7, 5),
        ]
        let found = Self.outcome([Self.piece(batches, leavingOut: [7])])
        guard case .lost(let sequence) = found else {
            Issue.record("a journal was made shorter")
            return
        }
        #expect(sequence == 7)
    }

    /// A batch is confirmed once every copy has it: one that has nothing there is enough.
    @Test func whatNoCopyCanTellMayBeLost() {
        let batches: [(UInt64, UInt64, UInt64, UInt64)] = [(5, 1, 4, 5), (6, 1, 5, 5)]
        let copy = Self.piece(batches)
        #expect(Self.sequences(Self.outcome([copy, copy], unreadable: [[2, 0], [3]])) == [5, 6])
        #expect(Self.sequences(Self.outcome([copy], unreadable: [[3]])) == [5, 6])
        for unreadable: [Set<Int>] in [[[2], [2]], [[2]]] {
            let found = Self.outcome(unreadable.map { _ in copy }, unreadable: unreadable)
            guard case .lost(7) = found else {
                Issue.record("a journal may have been made shorter")
                continue
            }
        }
    }

    @Test func nothingBelowTheTailIsNeeded() {
        let batches: [(UInt64, UInt64, UInt64, UInt64)] = [
            (5, 1, 4, 5), (6, 1, 5, 5), (7, 2, 6, 7), (8, 2, 7, 7),
        ]
        let found = Self.outcome([Self.piece(batches, leavingOut: [5, 6])])
        #expect(Self.sequences(found) == [7, 8])
    }

    @Test func anEmptyJournalSaysSo() {
        guard case .empty = Self.outcome([[UInt8](repeating: 0, count: Units.pieceBytes)]) else {
            Issue.record("an empty journal is not empty")
            return
        }
    }
}

struct JournalTests {
    /// Every batch from the tail that the newest names to the newest, and nothing else, but what was
    /// skipped between them.
    @Test func liveBlocksAreThoseThatReplayReads() {
        var random = Generator(state: 3)
        let pieces = 3
        var journal = Journal(
            pieces: Array(repeating: [], count: pieces), nextSequence: 1, nextBlock: 0,
            previousChecksum: 0, live: [])
        // Of every batch its blocks, and the sequence of the tail that it names.
        var batches: [(entry: Journal.Entry, tail: UInt64)] = []
        for _ in 0..<3000 {
            let blocks = Int.random(in: 1...Journal.batchBlocks, using: &random)
            let tail = journal.newTail(blocks: blocks)
            let entry = journal.append(blocks: blocks, checksum: 0)
            batches.append((entry, tail.sequence))
            // The tail moves on at any time, with no batch behind it that says so.
            if !journal.hasRoom(bytes: Journal.batchBlocks * Units.blockBytes)
                || Int.random(in: 0..<8, using: &random) == 0
            {
                journal.retire(
                    below: UInt64.random(in: tail.sequence...entry.sequence + 1, using: &random))
                if !journal.hasRoom(bytes: Journal.batchBlocks * Units.blockBytes) {
                    journal.retire(below: entry.sequence)
                }
            }
            let needed = batches.suffix(Int(entry.sequence + 1 - tail.sequence)).map(\.entry)
            var expected = Set(needed.flatMap { $0.firstBlock..<$0.firstBlock + $0.blocks })
            for skipping in needed.dropFirst() {
                for back in 0..<skipping.skipped {
                    let at = skipping.firstBlock - 1 - back + journal.blockCount
                    expected.insert(at % journal.blockCount)
                }
            }
            let live = (0..<pieces).flatMap { piece in
                journal.liveBlocks(ofPiece: piece).map { $0 + piece * Journal.blocksPerPiece }
            }
            #expect(Set(live) == expected && live.count == expected.count)
            #expect(tail.block == needed.first?.firstBlock)
        }
    }
}

struct SlabReplacementTests {
    private func slab(_ disk: UInt16) -> GroupSlab {
        GroupSlab(address: SlabAddress(disk: DiskNumber(disk), slab: 0), generation: 1)
    }

    private func base(_ slab: GroupSlab) -> SlabGroups.Base {
        SlabGroups.Base(
            device: slab.isHole ? DiskPlaces.nowhere : DeviceIndex(slab.address.disk.rawValue),
            disk: slab.address.disk, offsetBytes: 0)
    }

    /// Two columns of two copies, the second copy of the first column a hole.
    private func groups() -> SlabGroups {
        var groups = SlabGroups()
        groups.add(
            GroupRecord(
                id: 0, layout: .mirror2, mediaClass: .ssd, copies: 2, columns: 2,
                unitBytes: 256 << 10, rotation: 0, parityGenerator: 0, birth: 1,
                slabs: [slab(1), slab(0), slab(2), slab(3)]),
            base: base)
        return groups
    }

    private func disks(_ groups: SlabGroups, copy: Int) -> [UInt16] {
        var disks: [UInt16] = []
        groups.forEachRun(
            GrainMap.Entry(group: 0, physicalGrain: 0), copy: copy, offsetBytes: 0,
            lengthBytes: Units.grainBytes
        ) { base, _, _ in disks.append(base.disk.rawValue) }
        return disks
    }

    /// The record says what is durable, the places what is read and written: a hole is one for as long
    /// as bytes would go there.
    @Test func aHoleIsOneUntilTheSwitch() {
        var groups = groups()
        groups.startReplacing(0, at: 1, with: slab(4), base(slab(4)))
        let record = groups.rename(0, at: 1, slab(4))
        #expect(record?.slabs.contains(where: \.isHole) == false)
        #expect(groups.hasHoles && disks(groups, copy: 1) == [0, 3, 0, 3])
        groups.gateReplacement(of: 0)
        groups.endReplacing(0, isUsed: true)
        #expect(!groups.hasHoles && disks(groups, copy: 1) == [4, 3, 4, 3])
        groups.forgetReplacement(of: 0)
        #expect(groups.replacements.isEmpty)
    }

    /// The new slab takes its column's part of every write, and lacks what was in use before, until that
    /// is copied, or freed, and anew where nobody knows what a write has done.
    @Test func aSuccessorLacksWhatWasInUse() throws {
        var groups = groups()
        let grains = [groups.allocate(), groups.allocate()]
        let (first, second) = (try #require(grains[0]), try #require(grains[1]))
        groups.startReplacing(0, at: 1, with: slab(4), base(slab(4)))
        let next = groups.allocate()
        let later = try #require(next)
        func lacking() -> Set<UInt32>? { groups.replacement(of: 0)?.lacking }
        #expect(lacking() == [first.physicalGrain, second.physicalGrain])
        #expect(groups.isReplacing(later))
        var runs: [(offset: UInt64, position: Int, bytes: Int)] = []
        groups.forEachReplacingRun(
            GrainMap.Entry(group: 0, physicalGrain: 1), offsetBytes: 0, lengthBytes: Units.grainBytes
        ) { base, position, bytes in
            #expect(base.disk == DiskNumber(4))
            runs.append((base.offsetBytes, position, bytes))
        }
        #expect(runs.map(\.position) == [0, 512 << 10] && runs.allSatisfy { $0.bytes == 256 << 10 })
        #expect(runs.map(\.offset) == [512 << 10, 768 << 10])
        groups.noteReplaced(first)
        groups.release(second)
        #expect(lacking() == [])
        groups.lack(later)
        #expect(lacking() == [later.physicalGrain])
        // Its group stays while it is replaced, and what is refused leaves everything as it was.
        groups.release(first)
        groups.release(later)
        let removed = groups.removeEmpty()
        #expect(removed.isEmpty && groups.sparsest(excluding: []) == nil)
        groups.loseReplacements(on: DiskNumber(4))
        #expect(groups.replacement(of: 0)?.isLost == true)
        groups.endReplacing(0, isUsed: false)
        #expect(!groups.isReplacing(later) && disks(groups, copy: 1) == [0, 3, 0, 3])
        groups.forgetReplacement(of: 0)
        let left = groups.removeEmpty()
        #expect(left.count == 1)
    }
}
