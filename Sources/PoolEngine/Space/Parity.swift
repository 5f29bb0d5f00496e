import CISAL
import PoolFormat

/// Erasure arithmetic of the parity layouts over columns in memory, at memory speed by ISA-L.
///
/// A stripe's data columns d_0 ... d_(k-1) have one or two parities, byte by byte: P is their sum,
/// Q the sum of 2^c x d_c, in GF(2^8) with the polynomial x^8 + x^4 + x^3 + x^2 + 1, 0x11d (H. P.
/// Anvin, "The mathematics of RAID-6"). What is on disks was made with these coefficients: they
/// never change.
///
/// Columns of a call have the same length and do not overlap. Nothing is allocated.
enum Parity {
    /// The most data columns that a stripe has.
    static let columnLimit = 16

    /// One column in memory that something else owns: the safe face of a raw pointer.
    ///
    /// Whole blocks, aligned to 64, alive while this value is used; whoever makes one vouches for
    /// that.
    @safe
    struct Column {
        fileprivate let start: UnsafeMutableRawPointer
        let bytes: Int

        @unsafe
        init(_ buffer: UnsafeMutableRawBufferPointer) {
            guard let base = buffer.baseAddress else { preconditionFailure("a column has bytes") }
            // ISA-L wants 32, and counts in an Int32.
            precondition(UInt(bitPattern: base) % 64 == 0)
            precondition(buffer.count % Units.blockBytes == 0 && buffer.count <= Int(Int32.max))
            unsafe start = base
            bytes = buffer.count
        }

        fileprivate func copy(from other: Column) {
            unsafe start.copyMemory(from: other.start, byteCount: bytes)
        }
    }

    /// Makes the parities of whole columns, two of them in one pass.
    ///
    /// - Parameters:
    ///   - data: 1 to 16 columns, only read.
    ///   - parity: P, or P and Q.
    static func encode(data: [Column], parity: [Column]) {
        precondition((1...columnLimit).contains(data.count) && (1...2).contains(parity.count))
        if data.count == 1 {
            // ISA-L takes no fewer than two sources; 2^0 is 1.
            for column in parity { column.copy(from: data[0]) }
            return
        }
        var vectors = Vectors(bytes: data[0].bytes)
        for column in data { vectors.append(column) }
        for column in parity { vectors.append(column) }
        if parity.count == 1 {
            vectors.makeSum()
        } else {
            vectors.makeSums()
        }
    }

    /// Makes what is not known of the data from the other columns and the parities that are given,
    /// and writes nothing else. One column is made with P where there is a choice.
    ///
    /// - Parameters:
    ///   - data: 1 to 16 columns. What the unknown ones hold does not matter.
    ///   - unknown: distinct columns, in any order.
    ///   - p: nil where it is not known; so is `q`.
    /// - Returns: false where there are too few parities for that: nothing is written.
    static func solve(data: [Column], unknown: [Int], p: Column?, q: Column?) -> Bool {
        precondition((1...columnLimit).contains(data.count))
        precondition(unknown.allSatisfy(data.indices.contains))
        switch (unknown.count, p, q) {
        case (0, _, _):
            return true
        case (1, let p?, _):
            solve(data, unknown[0], p: p)
        case (1, nil, let q?):
            solve(data, unknown[0], q: q)
        case (2, let p?, let q?):
            precondition(unknown[0] != unknown[1])
            solve(data, unknown[0], unknown[1], p, q)
        default:
            return false
        }
        return true
    }

    private static func solve(_ data: [Column], _ x: Int, p: Column) {
        guard data.count > 1 else { return data[x].copy(from: p) }
        var vectors = Vectors(bytes: p.bytes)
        for (c, column) in data.enumerated() where c != x { vectors.append(column) }
        vectors.append(p)
        vectors.append(data[x])
        vectors.makeSum()
    }

    /// d_x = (Q + sum of 2^c d_c) / 2^x over the known columns c.
    private static func solve(_ data: [Column], _ x: Int, q: Column) {
        guard data.count > 1 else { return data[x].copy(from: q) }
        let inverse = gf_inv(power(x))
        var vectors = Vectors(bytes: q.bytes)
        var factors = Factors(sources: data.count, targets: 1)
        for (c, column) in data.enumerated() where c != x {
            vectors.append(column)
            factors.append(gf_mul(power(c), inverse))
        }
        vectors.append(q)
        factors.append(inverse)
        vectors.append(data[x])
        vectors.makeCombinations(factors)
    }

    /// The known columns c taken out of both, P' = d_x + d_y and Q' = 2^x d_x + 2^y d_y are left.
    /// So d_x = (2^y P' + Q') / (2^x + 2^y), and d_y is that with x for y: the two powers differ.
    private static func solve(_ data: [Column], _ x: Int, _ y: Int, _ p: Column, _ q: Column) {
        let inverse = gf_inv(power(x) ^ power(y))
        var vectors = Vectors(bytes: p.bytes)
        for (c, column) in data.enumerated() where c != x && c != y { vectors.append(column) }
        vectors.append(p)
        vectors.append(q)
        vectors.append(data[x])
        vectors.append(data[y])
        var factors = Factors(sources: data.count, targets: 2)
        for target in 0..<2 {
            let other = power(target == 0 ? y : x)
            for c in data.indices where c != x && c != y {
                factors.append(gf_mul(other ^ power(c), inverse))
            }
            factors.append(gf_mul(other, inverse))
            factors.append(inverse)
        }
        vectors.makeCombinations(factors)
    }

    /// 2^exponent, of which the first 255 differ.
    private static func power(_ exponent: Int) -> UInt8 {
        (0..<exponent).reduce(1) { power, _ in gf_mul(power, 2) }
    }
}

/// The coefficients of sums of columns: for each target those of all sources, in their order.
private struct Factors {
    let sources: Int
    let targets: Int
    private var list = InlineArray<32, UInt8>(repeating: 0)
    private var count = 0

    init(sources: Int, targets: Int) {
        precondition(sources <= Parity.columnLimit && targets <= 2)
        self.sources = sources
        self.targets = targets
    }

    mutating func append(_ factor: UInt8) {
        list[count] = factor
        count += 1
    }

    /// As ISA-L wants them: at most 32 bytes for each.
    func expand(into tables: inout InlineArray<1024, UInt8>) {
        precondition(count == sources * targets)
        var list = list
        var factors = list.mutableSpan
        var expanded = tables.mutableSpan
        unsafe factors.withUnsafeMutableBufferPointer { factors in
            unsafe expanded.withUnsafeMutableBufferPointer {
                unsafe ec_init_tables(
                    Int32(sources), Int32(targets), factors.baseAddress, $0.baseAddress)
            }
        }
    }
}

/// Columns in a row, as ISA-L wants them: the sources, then what is written.
@safe
private struct Vectors {
    private let bytes: Int
    private var list = unsafe InlineArray<18, UnsafeMutableRawPointer?>(repeating: nil)
    private var count = 0

    init(bytes: Int) { self.bytes = bytes }

    mutating func append(_ column: Parity.Column) {
        precondition(column.bytes == bytes)
        unsafe list[count] = column.start
        count += 1
    }

    /// The last is the sum of the others.
    mutating func makeSum() {
        let (count, bytes) = (Int32(count), Int32(bytes))
        let result = unsafe withList { unsafe xor_gen(count, bytes, $0) }
        precondition(result == 0)
    }

    /// The last two are P and Q of the others.
    mutating func makeSums() {
        let (count, bytes) = (Int32(count), Int32(bytes))
        let result = unsafe withList { unsafe pq_gen(count, bytes, $0) }
        precondition(result == 0)
    }

    /// The last are the sums of the others that the factors say.
    mutating func makeCombinations(_ factors: Factors) {
        precondition(count == factors.sources + factors.targets)
        var tables = InlineArray<1024, UInt8>(repeating: 0)
        factors.expand(into: &tables)
        var expanded = tables.mutableSpan
        let (count, bytes) = (count, Int32(bytes))
        unsafe expanded.withUnsafeMutableBufferPointer { tables in
            unsafe withList { list in
                unsafe list.withMemoryRebound(
                    to: UnsafeMutablePointer<UInt8>?.self, capacity: count
                ) {
                    unsafe ec_encode_data(
                        bytes, Int32(factors.sources), Int32(factors.targets), tables.baseAddress,
                        $0, $0 + factors.sources)
                }
            }
        }
    }

    private mutating func withList<Result>(
        _ body: (UnsafeMutablePointer<UnsafeMutableRawPointer?>) -> Result
    ) -> Result {
        var span = unsafe list.mutableSpan
        return unsafe span.withUnsafeMutableBufferPointer {
            guard let start = $0.baseAddress else { preconditionFailure("18 is not none") }
            return unsafe body(start)
        }
    }
}
