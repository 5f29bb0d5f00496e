import PoolEngine
import Testing

@testable import PoolSimulator

/// Every fault, by every kind of operation, set before it, during it and after it.
@Suite struct DiskFaultTests {
    enum Moment: CaseIterable { case before, during, after }

    /// Each kind as hard as it comes, and for the whole of what the tests look at.
    private static func hard(_ kind: DiskFault.Kind) -> DiskFault {
        let all: [Range<UInt64>] = [0..<1 << 20]
        return switch kind {
        case .unreachable: .unreachable
        case .readErrors: .readErrors(.init(percent: 100, stayingPercent: 0))
        case .writeErrors: .writeErrors(.all())
        case .flushError: .flushError
        case .latentSectors: .latentSectors(all)
        case .rot: .rot([0..<4096])
        case .lostWrites: .lostWrites(.all(within: all))
        case .misdirectedWrites: .misdirectedWrites(.init(.all(within: all), into: all))
        case .slow: .slow(.factor(10))
        case .hang: .hang(untilNs: nil)
        case .shrunk: .shrunk(toBytes: 0)
        case .lyingFlush: .lyingFlush
        }
    }

    private static func struck(_ kind: DiskFault.Kind) -> Set<DeviceOperation.Kind> {
        switch kind {
        case .unreachable: [.read, .write, .flush, .discard]
        case .shrunk: [.read, .write, .discard]
        case .readErrors, .latentSectors: [.read]
        case .writeErrors: [.write]
        case .flushError: [.flush]
        case .rot, .lostWrites, .misdirectedWrites, .slow, .hang, .lyingFlush: []
        }
    }

    private static let operations: [DeviceOperation.Kind] = [.read, .write, .flush, .discard]

    @Test(arguments: DiskFault.Kind.allCases, Moment.allCases)
    func faultStrikesItsOperationsAndNoOthers(_ kind: DiskFault.Kind, _ moment: Moment) {
        for operation in Self.operations {
            var bench = DiskBench()
            bench.write(0, 8192, 1)
            bench.flush()
            if moment == .before { bench.set(Self.hard(kind)) }
            let length = operation == .flush ? 0 : 4096
            let started = bench.start(operation, 0, length, fill: 2)
            if moment == .during { bench.set(Self.hard(kind)) }
            let fails = moment != .after && Self.struck(kind).contains(operation)
            #expect(bench.end(started) == (fails ? .ioError : .ok), "\(operation)")
            if moment == .after { bench.set(Self.hard(kind)) }
            #expect(bench.disk.operationsInFlight == 0)
        }
    }

    /// The disk serves again, and keeps what is written and flushed from then on.
    @Test(arguments: DiskFault.Kind.allCases, operations)
    func faultIsTakenBack(_ kind: DiskFault.Kind, _ operation: DeviceOperation.Kind) {
        var bench = DiskBench()
        bench.write(0, 8192, 1)
        bench.set(Self.hard(kind))
        #expect(bench.disk.carries(kind))
        bench.end(bench.start(operation, 0, operation == .flush ? 0 : 4096, fill: 2))
        bench.disk.takeBack(kind)
        #expect(kind == .rot || !bench.disk.carries(kind))
        bench.disk.reopen()
        #expect(bench.write(0, 8192, 3) == .ok)
        #expect(bench.flush() == .ok)
        bench.write(4096, 4096, 4)
        #expect(bench.read(0, 8192) == .ok)
        bench.cutPower()
        #expect(bench.fills(0, 8192) == [UInt8](repeating: 3, count: 16))
    }

    /// A fault that is not set draws nothing, and one that was set and taken back leaves no trace.
    @Test func faultsThatAreNotSetDrawNothing() {
        func left(_ change: (inout DiskBench) -> Void) -> (UInt64, [UInt8]) {
            var bench = DiskBench()
            change(&bench)
            var random = SeededRandom(seed: 1)
            bench.random = random
            for round in 1...5 as ClosedRange<UInt8> {
                bench.write(UInt64(round) * 1024, 4096, round)
                _ = bench.end(bench.start(.discard, 8192, 4096))
                bench.read(0, 4096)
                if round == 3 { bench.flush() }
            }
            bench.cutPower(.sectors(percent: 50))
            random = bench.random
            return (random.next(), bench.disk.contents(0, 16_384))
        }
        let untouched = left { _ in }
        for kind in DiskFault.Kind.allCases where ![.rot, .unreachable].contains(kind) {
            let changed = left {
                $0.set(Self.hard(kind))
                $0.disk.takeBack(kind)
            }
            #expect(changed == untouched, "\(kind)")
        }
        let away = left {
            $0.disconnect()
            $0.disk.reconnect()
            $0.disk.reopen()
        }
        #expect(away == untouched)
    }

    /// The same seed gives the same faults with the same outcome.
    @Test func faultsAreDrawnFromTheSeed() {
        func outcome(_ seed: UInt64) -> [UInt8] {
            var bench = DiskBench(seed: seed)
            var outcome: [UInt8] = []
            for round in 0..<60 {
                let kind = bench.random.pick(DiskFault.Kind.allCases)
                let fault = DiskFault.draw(
                    kind, of: bench.disk, within: [0..<32_768], nowNs: 0, random: &bench.random)
                bench.set(fault)
                let offset = UInt64(bench.random.below(12)) * 512
                outcome.append(bench.write(offset, 4096, UInt8(round)).rawValue)
                outcome.append(bench.flush().rawValue)
                outcome.append(bench.read(offset, 4096).rawValue)
                bench.disk.takeBack(kind)
                bench.disk.reopen()
                if round % 10 == 9 { bench.cutPower(.sectors(percent: 50)) }
            }
            return outcome + bench.disk.contents(0, 32_768)
        }
        for seed in 0..<10 as Range<UInt64> {
            #expect(outcome(seed) == outcome(seed))
            #expect(outcome(seed) != outcome(seed + 1))
        }
    }

    /// What is drawn lies where it was asked for.
    @Test(arguments: DiskFault.Kind.allCases) func drawnFaultsStayInside(_ kind: DiskFault.Kind) {
        let inside: [Range<UInt64>] = [65_536..<69_632, 1 << 20..<2 << 20]
        for seed in 0..<50 as Range<UInt64> {
            var bench = DiskBench(sectorBytes: seed % 2 == 0 ? 512 : 4096, seed: seed)
            let fault = DiskFault.draw(
                kind, of: bench.disk, within: inside, nowNs: 7, random: &bench.random)
            #expect(fault.kind == kind)
            switch fault {
            case .rot(let ranges), .latentSectors(let ranges):
                #expect(!ranges.isEmpty && ranges.allSatisfy { !$0.isEmpty })
                for range in ranges {
                    #expect(inside.contains { $0.clamped(to: range) == range })
                }
            case .shrunk(let bytes):
                #expect(bytes < bench.disk.fullSizeBytes)
            case .hang(let untilNs):
                #expect(untilNs ?? .max > 7)
            case .unreachable, .readErrors, .writeErrors, .flushError, .lostWrites,
                .misdirectedWrites, .slow, .lyingFlush:
                break
            }
            bench.set(fault)
        }
    }
}

@Suite struct WriteSelectionTests {
    /// Which of five writes to alternating places fail.
    private func failures(_ selection: WriteSelection) -> [Int] {
        var bench = DiskBench()
        bench.disk.writeErrors = selection
        return (0..<5).filter { bench.write($0 % 2 == 0 ? 0 : 8192, 512, 1) == .ioError }
    }

    @Test func selectionsStrikeWhatTheySay() {
        #expect(failures(.next(2)) == [0, 1])
        #expect(failures(.next(2, within: [8192..<8193])) == [1, 3])
        #expect(failures(.all()) == [0, 1, 2, 3, 4])
        #expect(failures(.all(within: [0..<1, 100_000..<200_000])) == [0, 2, 4])
        #expect(failures(.percent(0)) == [])
        #expect(failures(.percent(100, within: [8703..<8704])) == [1, 3])
        #expect(failures(.all(within: [512..<8192])) == [])
    }

    @Test func selectionThatIsUsedUpIsTakenBack() {
        var bench = DiskBench()
        bench.disk.writeErrors = .next(1)
        bench.write(0, 512, 1)
        #expect(!bench.disk.carries(.writeErrors))
        #expect(bench.disk.failedWrites == 1)
    }

    @Test func percentIsOfWrites() {
        var bench = DiskBench()
        bench.disk.writeErrors = .percent(30)
        for _ in 0..<1000 { bench.write(0, 512, 1) }
        #expect((200...400).contains(bench.disk.failedWrites))
    }
}
