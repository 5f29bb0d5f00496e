import PoolFormat

/// Why something a pool was asked for was not done. One case for each place that refuses.
///
/// ``what`` says what happened and ``hint`` what to do next, both for people; nothing has changed
/// unless the case says otherwise.
public enum PoolError: Error, Hashable, Sendable {
    /// The engine was stopped: nothing is known of the outcome.
    case stopped
    /// A space's own metadata could not be read or written; the disks' counters say where.
    case ioError
    /// The pool was closed, exported or destroyed.
    case closed(pool: String)

    // Disks that are offered.
    case noDisks
    case tooManyDisks(limit: Int)
    case diskTooSmall(path: String, bytes: UInt64)
    case diskTooLarge(path: String, bytes: UInt64)
    case diskTwice(path: String)
    case badSectorSize(path: String, bytes: UInt32)
    case badPathHint(path: String)
    case badPoolName(String)

    // Disks that are opened.
    case noLabel(path: String)
    case badLabel(path: String, String)
    case otherPool(path: String, pool: String)
    case diskShrunk(path: String, wasBytes: UInt64, isBytes: UInt64)
    case diskNeedsNewerProgram(path: String)
    case unreadable(disk: String, what: String)
    case writeFailed(disk: String, during: String)
    case damaged(disk: String, what: String)

    // Pools that are opened.
    case creationUnfinished(pool: String)
    case destroyed(pool: String)
    case noConfiguration(pool: String)
    case witnessNewer(witness: ConfigurationVersion, disks: ConfigurationVersion)
    case detached(missing: [DiskRecord], reason: String)

    // Changes.
    case noQuorum(pool: String)
    case configurationRefused(FormatError)
    case numbersExhausted
    case diskUnknown(DiskNumber)

    // Disks that leave and come back.
    case diskServes(disk: String)
    case diskRetired(disk: String)
    case lastDisk(disk: String)
    case diskNeeded(disk: String, space: String)
    case otherDisk(path: String)
    /// It has been opened without this pool's other disks, and changed.
    case otherHistory(path: String)
    case olderTime(path: String)
    /// What is to take a disk's place is that disk, as it was when it left.
    case diskReturns(path: String)
    case noScrub

    // Spaces.
    case badSpaceName(String)
    case nameTaken(String)
    case nameUnknown(String)
    case tooManySpaces(limit: Int)
    case sizeNotWhole(bytes: UInt64, next: UInt64)
    case sizeTooLarge(bytes: UInt64, limit: UInt64)
    case badInterleave(bytes: UInt32)
    case badWriteCache(bytes: UInt64)
    /// Of this resiliency, or without checksums.
    case noWriteCache(ResiliencyKind)
    case badColumns(columns: Int, allowed: ClosedRange<Int>)
    case tooFewDisks(resiliency: ResiliencyKind, columns: Int, needed: Int, present: Int)
    case spaceUnavailable(name: String, reason: String)
    case shrinkNotAsked(name: String)
    case shrinkRefused(name: String, mappedBytes: UInt64)
    /// No set of disks has a free slab each for a slab group.
    case noSpace
    /// No disk has a free metadata piece, nor a free slab for more.
    case noMetadataSpace
    /// A space's metadata names a disk, slab or piece that its disk does not grant it.
    case claimRefused(lineage: Lineage, what: String)
}

extension PoolError {
    /// Whether room would help: the request may wait and be tried again.
    public var isShortOfSpace: Bool {
        self == .noSpace || self == .noMetadataSpace
    }

    /// What happened, in one line.
    public var what: String {
        switch self {
        case .stopped: "the engine was stopped"
        case .ioError: "its metadata cannot be read or written"
        case .closed(let pool): "pool \(pool) is closed"
        case .noDisks: "a pool needs at least one disk"
        case .tooManyDisks(let limit): "a pool has at most \(limit) disks"
        case .diskTooSmall(let path, let bytes):
            "\(path) has \(bytes) bytes, a disk of a pool has at least 1 GiB"
        case .diskTooLarge(let path, let bytes):
            "\(path) has \(bytes) bytes, a disk of a pool has at most 1 EiB"
        case .diskTwice(let path): "\(path) is named twice, or is a copy of another disk"
        case .badSectorSize(let path, let bytes): "\(path) has sectors of \(bytes) bytes"
        case .badPathHint(let path): "the path \(path.prefix(64))... is too long"
        case .badPoolName(let name): "\"\(name)\" cannot be a pool's name"
        case .noLabel(let path): "\(path) carries no pool label"
        case .badLabel(let path, let why): "\(path): \(why)"
        case .otherPool(let path, let pool): "\(path) belongs to another pool, \(pool)"
        case .diskShrunk(let path, let was, let now):
            "\(path) had \(was) bytes when it was labelled and has \(now) now"
        case .diskNeedsNewerProgram(let path):
            "\(path) uses format features that this program may only read"
        case .unreadable(let disk, let what): "\(disk) cannot be read (\(what))"
        case .writeFailed(let disk, let during): "\(disk) failed \(during)"
        case .damaged(let disk, let what): "\(disk) is damaged: \(what)"
        case .creationUnfinished(let pool): "the creation of pool \(pool) was never finished"
        case .destroyed(let pool): "pool \(pool) was destroyed"
        case .noConfiguration(let pool): "no disk has a readable configuration of pool \(pool)"
        case .witnessNewer(let witness, let disks):
            "the disks know the pool as of change \(disks.sequence), "
                + "its newest is \(witness.sequence)"
        case .detached(let missing, let reason):
            missing.isEmpty ? reason : reason + ": " + Self.list(missing.map(Self.name))
        case .noQuorum(let pool): "pool \(pool) cannot record changes: too few disks take them"
        case .configurationRefused(let error): "the change does not fit: \(error.description)"
        case .numbersExhausted: "the pool has used up its numbers"
        case .diskUnknown(let number): "there is no disk\(number.rawValue)"
        case .diskServes(let disk): "\(disk) is online already"
        case .diskRetired(let disk): "\(disk) is being retired"
        case .lastDisk(let disk): "\(disk) is the last disk that serves"
        case .diskNeeded(let disk, let space): "space \(space) would lose data without \(disk)"
        case .otherDisk(let path): "\(path) is another disk of this pool"
        case .otherHistory(let path):
            "\(path) was in use without the others of this pool, and has changed"
        case .noScrub: "no scrub is under way"
        case .olderTime(let path): "\(path) holds an older state of its disk"
        case .diskReturns(let path): "\(path) is that disk, and can come back as it is"
        case .badSpaceName(let name): "\"\(name)\" cannot be a space's name"
        case .nameTaken(let name): "a space named \(name) exists"
        case .nameUnknown(let name): "there is no space named \(name)"
        case .tooManySpaces(let limit): "a pool has at most \(limit) spaces"
        case .sizeNotWhole(let bytes, _): "\(bytes) bytes is not a whole number of MiB"
        case .sizeTooLarge(let bytes, let limit):
            "\(bytes) bytes is more than a space can have (\(limit))"
        case .badInterleave(let bytes): "an interleave of \(bytes) bytes is not possible"
        case .badWriteCache(let bytes): "a write cache of \(bytes) bytes is not possible"
        case .noWriteCache(let resiliency):
            resiliency.isParity
                ? "a space without checksums cannot have a write cache"
                : "a \(resiliency) space cannot have a write cache"
        case .badColumns(let columns, let allowed):
            columns > allowed.upperBound
                ? "\(columns) columns, at most \(allowed.upperBound) work"
                : "\(columns) column\(columns == 1 ? "" : "s"), "
                    + "at least \(allowed.lowerBound) are needed"
        case .tooFewDisks(let resiliency, let columns, let needed, let present):
            "\(resiliency) with \(columns) column\(columns == 1 ? "" : "s") needs \(needed) disks, "
                + "\(present) \(present == 1 ? "is" : "are") present"
        case .spaceUnavailable(let name, let reason): "space \(name) is not open: \(reason)"
        case .shrinkNotAsked(let name): "space \(name) is larger than that"
        case .shrinkRefused(let name, let mapped):
            "space \(name) holds \(mapped >> 20)M past the new end"
        case .noSpace: "the pool's disks have no room for another slab group"
        case .noMetadataSpace: "no disk has room for metadata"
        case .claimRefused(let lineage, let what):
            "the metadata of space \(lineage.rawValue) is wrong: \(what)"
        }
    }

    /// A disk knows something else than the pool does, and cannot be taken back.
    var isOfAnotherPast: Bool {
        switch self {
        case .otherHistory, .olderTime: true
        default: false
        }
    }

    /// Whether a new history can begin in spite of it.
    public var endsWithForce: Bool {
        switch self {
        case .detached, .witnessNewer: true
        default: false
        }
    }

    /// What to do next, in one line.
    public var hint: String {
        switch self {
        case .stopped: "start poold again"
        case .closed: "import the pool to open it"
        case .noDisks: "name at least one disk"
        case .tooManyDisks: "make a second pool of the others"
        case .diskTooSmall: "use a larger disk or file"
        case .diskTooLarge: "use a partition of it"
        case .diskTwice: "name each disk once; wipe the label of a copied disk"
        case .badSectorSize: "use a disk with sectors of 512 or 4096 bytes"
        case .badPathHint: "use a path of at most 1,024 bytes"
        case .badPoolName, .badSpaceName: "use 1 to 64 letters, digits, dots, dashes, underscores"
        case .noLabel: "check the path; a new disk joins with pool create or pool add"
        case .badLabel: "check the disk; if its data may go, add it with --force"
        case .otherPool: "import that pool, or take the disk with --force"
        case .diskShrunk: "give the disk or file its old size back"
        case .diskNeedsNewerProgram: "use the newer poold that wrote it"
        case .ioError: "see the error counters in disk ls, and the kernel's log"
        case .unreadable, .writeFailed: "check its cabling and the kernel's log"
        case .damaged: "keep the disk as it is; restore the data from a backup"
        case .creationUnfinished: "create it again"
        case .destroyed: "its disks are free to use"
        case .noConfiguration: "check that the right disks are named"
        case .witnessNewer:
            "connect the disks that were last in use; or go back to what these know, for good: "
                + "pool import --force"
        case .detached(let missing, _):
            "connect "
                + (missing.isEmpty
                    ? "the missing disks"
                    : Self.list(missing.map { $0.pathHint.isEmpty ? Self.name($0) : $0.pathHint }))
                + "; or give up for good what only they know: pool import --force"
        case .noQuorum: "bring back its disks and restart poold"
        case .configurationRefused: "use fewer or shorter names"
        case .numbersExhausted: "make a new pool"
        case .diskUnknown: "see disk ls"
        case .diskServes: "nothing is to be done; see disk ls"
        case .diskRetired: "wait until it is empty; or pull it, and the others' copies are used"
        case .lastDisk: "export or destroy the pool, or add a disk"
        case .diskNeeded: "see explain; --force takes it out all the same, until it is back"
        case .otherDisk: "see disk ls for the path of the one that is missing"
        case .noScrub: "start one: pool scrub"
        case .otherHistory, .olderTime:
            "replace it: disk replace takes it as a new one, with --force"
        case .diskReturns: "bring it back with disk online; to empty it, disk retire"
        case .nameTaken: "choose another name"
        case .nameUnknown: "see space ls"
        case .tooManySpaces: "destroy one, or make a second pool"
        case .sizeNotWhole(_, let next): "the next size is \(next) bytes (\(next >> 20)M)"
        case .sizeTooLarge: "make it smaller"
        case .badInterleave: "use a power of two from 16K to 1M"
        case .badWriteCache: "use 0 for none, or a multiple of 1M from 1M to 4G"
        case .noWriteCache(let resiliency):
            resiliency.isParity
                ? "use 0, or leave --no-checksums out"
                : "use 0: only parity1 and parity2 write whole stripes, and gain from one"
        case .badColumns(_, let allowed):
            "use \(allowed.lowerBound) to \(allowed.upperBound) columns"
        case .tooFewDisks(_, _, let needed, let present):
            "add \(max(1, needed - present)) more, or ask for fewer columns or copies"
        case .spaceUnavailable: "see pool status"
        case .shrinkNotAsked: "add --shrink if a smaller space is meant"
        case .shrinkRefused: "shrink the filesystem first, then trim what lies behind it"
        case .noSpace, .noMetadataSpace: "add a disk, or trim or destroy what is not needed"
        case .claimRefused: "keep the disks as they are; restore the space from a backup"
        }
    }

    private static func name(_ record: DiskRecord) -> String { "disk\(record.number.rawValue)" }

    private static func list(_ names: [String]) -> String {
        names.joined(separator: ", ")
    }
}
