import Synchronization
import Testing

@testable import PoolDevices

/// What one shard is told of its flush depends on those of the others.
@Suite struct FlushLedgerTests {
    private final class Told: Sendable {
        private let outcomes = Mutex<[Int: Bool]>([:])
        func note(_ flush: Int) -> @Sendable (Bool) -> Void {
            { [self] good in outcomes.withLock { $0[flush] = good } }
        }
        subscript(flush: Int) -> Bool? { outcomes.withLock { $0[flush] } }
    }

    @Test func aloneItIsAsTheKernelSays() {
        let ledger = FlushLedger()
        for _ in 0..<3 {
            let flush = ledger.begin()
            #expect(ledger.end(flush, hasSucceeded: true, tell: { { _ in } }) == .succeeded)
        }
    }

    @Test func failureIsForAllThatCome() {
        let ledger = FlushLedger()
        #expect(ledger.end(ledger.begin(), hasSucceeded: false, tell: { { _ in } }) == .failed)
        #expect(ledger.end(ledger.begin(), hasSucceeded: true, tell: { { _ in } }) == .failed)
    }

    @Test func shrunkFileFailsThemAll() {
        let ledger = FlushLedger()
        let flush = ledger.begin()
        ledger.fail()
        #expect(ledger.end(flush, hasSucceeded: true, tell: { { _ in } }) == .failed)
    }

    @Test(arguments: [true, false]) func oneUnderWayDecides(isGood: Bool) {
        let (ledger, told) = (FlushLedger(), Told())
        let first = ledger.begin()
        let second = ledger.begin()
        #expect(ledger.end(second, hasSucceeded: true, tell: { told.note(2) }) == .held)
        // What begins later is nothing to wait for.
        let third = ledger.begin()
        #expect(told[2] == nil)
        let outcome = ledger.end(first, hasSucceeded: isGood, tell: { told.note(1) })
        #expect(outcome == (isGood ? .held : .failed))
        #expect(told[2] == isGood)
        #expect(told[1] == nil)
        let last = ledger.end(third, hasSucceeded: true, tell: { told.note(3) })
        #expect(last == (isGood ? .succeeded : .failed))
        #expect(told[1] == (isGood ? true : nil))
        #expect(told[3] == nil)
    }

    @Test func heldOnesWaitForEachThatWasUnderWay() {
        let (ledger, told) = (FlushLedger(), Told())
        let flushes = (0..<4).map { _ in ledger.begin() }
        #expect(ledger.end(flushes[3], hasSucceeded: true, tell: { told.note(3) }) == .held)
        #expect(ledger.end(flushes[0], hasSucceeded: true, tell: { told.note(0) }) == .held)
        #expect(ledger.end(flushes[2], hasSucceeded: true, tell: { told.note(2) }) == .held)
        #expect((0..<4).allSatisfy { told[$0] == nil })
        #expect(ledger.end(flushes[1], hasSucceeded: true, tell: { told.note(1) }) == .succeeded)
        #expect([0, 2, 3].allSatisfy { told[$0] == true })
    }
}
