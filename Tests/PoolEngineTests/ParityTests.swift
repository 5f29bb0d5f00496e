import Testing

@testable import PoolEngine

@Suite struct ParityTests {
    /// Columns with a gap behind each, all of it filled with random bytes.
    @safe
    private final class Stripe {
        static let gapBytes = 64
        let k: Int
        let bytes: Int
        private let memory: UnsafeMutableRawBufferPointer

        /// k data columns, P and Q.
        init(_ k: Int, bytes: Int, seed: UInt64) {
            self.k = k
            self.bytes = bytes
            let whole = (k + 2) * (bytes + Self.gapBytes)
            unsafe memory = .allocate(byteCount: whole, alignment: 64)
            var random = Generator(state: seed)
            for start in stride(from: 0, to: whole, by: 8) {
                unsafe memory.storeBytes(of: random.next(), toByteOffset: start, as: UInt64.self)
            }
        }

        deinit { unsafe memory.deallocate() }

        /// Everything, the gaps, too.
        var image: [UInt8] {
            get { unsafe [UInt8](memory) }
            set { unsafe memory.copyBytes(from: newValue) }
        }

        /// Where its bytes are others. An expectation that sees all of them takes minutes to fail.
        func firstDifference(from expected: [UInt8]) -> Int? {
            let image = image
            return image == expected ? nil : image.indices.first { image[$0] != expected[$0] }
        }

        func range(_ index: Int) -> Range<Int> {
            let start = index * (bytes + Self.gapBytes)
            return start..<start + bytes
        }

        func column(_ index: Int) -> Parity.Column {
            unsafe Parity.Column(.init(rebasing: memory[range(index)]))
        }

        var data: [Parity.Column] { (0..<k).map(column) }
        var p: Parity.Column { column(k) }
        var q: Parity.Column { column(k + 1) }
    }

    /// By the definition: long multiplication, then the remainder of 0x11d.
    private func product(_ a: UInt8, _ b: UInt8) -> UInt8 {
        var wide = 0
        for bit in 0..<8 where b >> bit & 1 == 1 { wide ^= Int(a) << bit }
        for bit in stride(from: 14, through: 8, by: -1) where wide >> bit & 1 == 1 {
            wide ^= 0x11d << (bit - 8)
        }
        return UInt8(wide)
    }

    /// The memory of a stripe whose parities are right, byte by byte.
    private func encoded(_ stripe: Stripe, parities: Int) -> [UInt8] {
        var image = stripe.image
        var sums = [[UInt8]](repeating: [UInt8](repeating: 0, count: stripe.bytes), count: 2)
        var power: UInt8 = 1
        for column in 0..<stripe.k {
            let multiples = (0...255).map { product(UInt8($0), power) }
            for (index, byte) in image[stripe.range(column)].enumerated() {
                sums[0][index] ^= byte
                sums[1][index] ^= multiples[Int(byte)]
            }
            power = product(power, 2)
        }
        for parity in 0..<parities {
            image.replaceSubrange(stripe.range(stripe.k + parity), with: sums[parity])
        }
        return image
    }

    @Test(arguments: 1...16) func paritiesAreThoseOfTheDefinition(k: Int) {
        for (blocks, parities) in [(1, 1), (1, 2), (3, 2)] {
            let seed = UInt64(k * 100 + blocks * 10 + parities)
            let stripe = Stripe(k, bytes: blocks * 4096, seed: seed)
            let expected = encoded(stripe, parities: parities)
            Parity.encode(data: stripe.data, parity: [stripe.p, stripe.q].dropLast(2 - parities))
            let difference = stripe.firstDifference(from: expected)
            #expect(difference == nil, "\(blocks) blocks, \(parities) parities")
        }
    }

    /// One byte of one column, in Q: what is on disks depends on it.
    @Test func coefficientsAreThePowersOfTwo() {
        let powers: [UInt8] = [
            0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80,
            0x1d, 0x3a, 0x74, 0xe8, 0xcd, 0x87, 0x13, 0x26,
        ]
        for (column, power) in powers.enumerated() {
            let stripe = Stripe(16, bytes: 4096, seed: 1)
            var image = [UInt8](repeating: 0, count: stripe.image.count)
            image[stripe.range(column).lowerBound + 77] = 1
            stripe.image = image
            Parity.encode(data: stripe.data, parity: [stripe.p, stripe.q])
            image[stripe.range(16).lowerBound + 77] = 1
            image[stripe.range(17).lowerBound + 77] = power
            let difference = stripe.firstDifference(from: image)
            #expect(difference == nil)
        }
    }

    /// Whichever of P and Q are given, and every set of up to two unknown columns: they come back
    /// where they can, and nothing else changes, neither known columns nor parities.
    @Test(arguments: 1...16) func whatIsUnknownIsSolved(k: Int) {
        let stripe = Stripe(k, bytes: (k.isMultiple(of: 5) ? 3 : 1) * 4096, seed: UInt64(k))
        Parity.encode(data: stripe.data, parity: [stripe.p, stripe.q])
        let whole = stripe.image
        let wrong = whole.map { ~$0 }
        var sets: [[Int]] = [[]]
        for x in 0..<k {
            sets.append([x])
            // In either order, by turns.
            for y in 0..<x { sets.append((x + y) % 3 == 0 ? [x, y] : [y, x]) }
        }
        for unknown in sets {
            for given in 0..<4 {
                let (hasP, hasQ) = (given & 1 != 0, given & 2 != 0)
                var damaged = whole
                // The parities that are not given are wrong.
                let lost = unknown + (hasP ? [] : [k]) + (hasQ ? [] : [k + 1])
                for range in lost.map(stripe.range) {
                    damaged.replaceSubrange(range, with: wrong[range])
                }
                stripe.image = damaged
                let isSolved = Parity.solve(
                    data: stripe.data, unknown: unknown, p: hasP ? stripe.p : nil,
                    q: hasQ ? stripe.q : nil)
                let parities = (hasP ? 1 : 0) + (hasQ ? 1 : 0)
                #expect(isSolved == (unknown.count <= parities))
                if isSolved {
                    for column in unknown {
                        let range = stripe.range(column)
                        damaged.replaceSubrange(range, with: whole[range])
                    }
                }
                let difference = stripe.firstDifference(from: damaged)
                #expect(difference == nil, "\(unknown), P \(hasP), Q \(hasQ)")
            }
        }
    }

    /// With both parities one column is made with P: a Q that is wrong does not matter.
    @Test func oneColumnIsMadeWithP() {
        let stripe = Stripe(5, bytes: 4096, seed: 9)
        var whole = encoded(stripe, parities: 2)
        for index in stripe.range(6) { whole[index] = ~whole[index] }
        stripe.image = whole
        stripe.image.replaceSubrange(
            stripe.range(2), with: [UInt8](repeating: 0, count: stripe.bytes))
        #expect(Parity.solve(data: stripe.data, unknown: [2], p: stripe.p, q: stripe.q))
        let difference = stripe.firstDifference(from: whole)
        #expect(difference == nil)
    }

    @Test func threeColumnsAreTooMany() {
        let stripe = Stripe(4, bytes: 4096, seed: 3)
        let image = stripe.image
        #expect(!Parity.solve(data: stripe.data, unknown: [0, 1, 3], p: stripe.p, q: stripe.q))
        let difference = stripe.firstDifference(from: image)
        #expect(difference == nil)
    }
}
