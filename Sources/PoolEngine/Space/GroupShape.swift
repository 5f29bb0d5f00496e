import PoolFormat

/// How the grains of a slab group lie on its slabs. Positions are those of the group's record.
///
///     mirror, 2 columns of 2 copies          parity, 3 + 1: each grain a stripe of its own
///
///     position  0    1    2    3             position  0    1    2    3
///     grain 0   a    a    b    b             grain 0   a    b    c    P
///     grain 1   c    c    d    d             grain 1   P    a    b    c
///                                            grain 2   c    P    a    b
///
/// Of simple and mirror groups physical address `a` lies in column `(a / unit) % columns` at
/// `(a / unit / columns) x unit + a % unit`. A parity grain takes one unit of each slab, all at the
/// same place; its last data column may be shorter, and counts as zeros from there on.
struct GroupShape: Equatable {
    /// Those of data.
    let columns: Int
    let copies: Int
    let parityColumns: Int
    let unitBytes: Int
    let grainCount: Int
    private let unitShift: Int

    init(_ record: GroupRecord) {
        columns = Int(record.columns)
        copies = Int(record.copies)
        parityColumns = record.layout.parityColumns
        unitBytes = Int(record.unitBytes)
        unitShift = unitBytes.trailingZeroBitCount
        grainCount =
            parityColumns > 0 ? Units.slabBytes / unitBytes : columns * Units.grainsPerSlab
    }

    var isParity: Bool { parityColumns > 0 }
    /// Slabs of the group.
    var width: Int { columns * copies + parityColumns }
    /// What so many grains take of each slab, at most.
    func bytesPerSlab(grains: Int) -> Int {
        isParity ? grains * unitBytes : grains * Units.grainBytes / columns
    }

    // MARK: - parity

    /// Where the stripe's column lies, P and Q behind those of data.
    func position(ofColumn column: Int, grain: UInt32) -> Int { (column + Int(grain)) % width }

    func column(at position: Int, grain: UInt32) -> Int {
        (position + width - Int(grain) % width) % width
    }

    /// Of the grain; past its end for parity, which has no bytes of the grain.
    func blocks(ofColumn column: Int) -> Range<Int> {
        let unit = unitBytes / Units.blockBytes
        let first = min(column * unit, Units.blocksPerGrain)
        return first..<min(first + unit, Units.blocksPerGrain)
    }

    /// Rows of a stripe in which the column has a block.
    func rowCount(ofColumn column: Int) -> Int {
        column < columns ? blocks(ofColumn: column).count : unitBytes / Units.blockBytes
    }

    // MARK: - bytes of a grain

    /// Cuts a byte range of a grain into runs that lie in one column each.
    ///
    /// - Parameter body: the position of the run's first copy, its offset in the slab, where in the
    ///   range it begins, and its length.
    @inline(__always)
    func forEachPart(
        _ grain: UInt32, offsetBytes: Int, lengthBytes: Int,
        _ body: (_ slab: Int, _ offset: Int, _ position: Int, _ lengthBytes: Int) -> Void
    ) {
        if isParity {
            return forEachStripePart(
                grain, offsetBytes: offsetBytes, lengthBytes: lengthBytes, body)
        }
        var address = Int(grain) * Units.grainBytes + offsetBytes
        var position = 0
        while position < lengthBytes {
            let within = address & (1 << unitShift - 1)
            let chunk = address >> unitShift
            let run =
                columns == 1
                ? lengthBytes - position : min(lengthBytes - position, 1 << unitShift - within)
            body(
                chunk % columns * copies, (chunk / columns) << unitShift + within, position, run)
            position += run
            address += run
        }
    }

    private func forEachStripePart(
        _ grain: UInt32, offsetBytes: Int, lengthBytes: Int,
        _ body: (_ slab: Int, _ offset: Int, _ position: Int, _ lengthBytes: Int) -> Void
    ) {
        var position = 0
        while position < lengthBytes {
            let address = offsetBytes + position
            let (column, within) = (address / unitBytes, address % unitBytes)
            let run = min(lengthBytes - position, unitBytes - within)
            body(
                self.position(ofColumn: column, grain: grain), Int(grain) * unitBytes + within,
                position, run)
            position += run
        }
    }
}
