import PoolFormat

/// A parity grain in memory, or some of its rows: its data columns one behind the other, as clients
/// see a whole one, and its parities.
///
/// A *row* is what lies at one place of every column: a block of each, together with its parities.
/// Each row stands for itself: whatever of it is missing is solved from the rest.
struct StripeImage {
    enum Block: UInt8 {
        /// Not there.
        case missing
        /// Not what its value says.
        case wrong
        /// There, and without a value that could tell whether it is right.
        case unverified
        case right

        var isThere: Bool { self == .unverified || self == .right }
    }

    let shape: GroupShape
    /// The rows that there is room for.
    let rows: Range<Int>
    /// In the arena: where the columns of data begin, and those of parity.
    let data: Int
    let parity: Int
    /// Of the grain's 256.
    var blocks: [Block]
    /// Of P's rows, then of Q's.
    var parities: [[Block]]
    /// Columns that were read, or could not be. Which ones count may change meanwhile.
    var asked: Set<Int> = []

    /// A whole grain, in buffers of 1 MiB.
    init(_ shape: GroupShape, data: Int, parity: Int) {
        self.init(shape, rows: 0..<shape.unitBytes / Units.blockBytes, data: data, parity: parity)
    }

    /// Some rows, all in one buffer.
    init(_ shape: GroupShape, rows: Range<Int>, band: Int) {
        let columnBytes = rows.count * Units.blockBytes
        self.init(shape, rows: rows, data: band, parity: band + shape.columns * columnBytes)
    }

    private init(_ shape: GroupShape, rows: Range<Int>, data: Int, parity: Int) {
        self.shape = shape
        self.rows = rows
        self.data = data
        self.parity = parity
        blocks = Array(repeating: .missing, count: Units.blocksPerGrain)
        parities = Array(
            repeating: Array(repeating: .missing, count: shape.unitBytes / Units.blockBytes),
            count: shape.parityColumns)
    }

    var rowCount: Int { shape.unitBytes / Units.blockBytes }

    /// Columns of data that have a block in the row.
    func columns(ofRow row: Int) -> Range<Int> {
        let isLastShorter = row >= shape.rowCount(ofColumn: shape.columns - 1)
        return 0..<shape.columns - (isLastShorter ? 1 : 0)
    }

    func block(_ column: Int, _ row: Int) -> Int { column * rowCount + row }
    func row(ofBlock block: Int) -> Int { block % rowCount }

    /// Where a block, or one of a parity's rows, lies in the arena.
    func offset(ofBlock block: Int) -> Int {
        offset(data, column: block / rowCount, row: row(ofBlock: block))
    }

    func offset(ofParity index: Int, row: Int) -> Int { offset(parity, column: index, row: row) }

    /// P and Q behind the columns of data.
    func offset(ofColumn column: Int, row: Int) -> Int {
        column < shape.columns
            ? offset(data, column: column, row: row)
            : offset(ofParity: column - shape.columns, row: row)
    }

    private func offset(_ origin: Int, column: Int, row: Int) -> Int {
        origin + (column * rows.count + row - rows.lowerBound) * Units.blockBytes
    }

    // MARK: - arithmetic

    /// Makes every parity of the rows from their data.
    func encode(_ rows: Range<Int>, in arena: BufferArena) {
        let shorter = shape.rowCount(ofColumn: shape.columns - 1)
        for part in [rows.clamped(to: 0..<shorter), rows.clamped(to: shorter..<rowCount)]
        where !part.isEmpty {
            Parity.encode(
                data: dataColumns(part, arena),
                parity: (0..<shape.parityColumns).map { parityColumn($0, part, arena) })
        }
    }

    /// Solves columns of a row from its others and some of its parities.
    ///
    /// - Returns: false: there are too few of them.
    func solve(_ unknown: [Int], row: Int, with parities: [Int], in arena: BufferArena) -> Bool {
        let rows = row..<row + 1
        let known = { parities.contains($0) ? parityColumn($0, rows, arena) : nil }
        return Parity.solve(
            data: dataColumns(rows, arena), unknown: unknown, p: known(0), q: known(1))
    }

    /// All of the rows have to have the same columns.
    private func dataColumns(_ rows: Range<Int>, _ arena: BufferArena) -> [Parity.Column] {
        columns(ofRow: rows.lowerBound).map { column in
            let start = offset(ofBlock: block(column, rows.lowerBound))
            return unsafe Parity.Column(arena.bytes(start, rows.count * Units.blockBytes))
        }
    }

    private func parityColumn(
        _ index: Int, _ rows: Range<Int>, _ arena: BufferArena
    ) -> Parity.Column {
        let start = offset(ofParity: index, row: rows.lowerBound)
        return unsafe Parity.Column(arena.bytes(start, rows.count * Units.blockBytes))
    }
}
