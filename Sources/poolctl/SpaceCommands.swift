import ArgumentParser
import PoolControl

struct SpaceCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "space", abstract: "Spaces: virtual disks cut from a pool.",
        subcommands: [
            SpaceCreate.self, SpaceLs.self, SpaceStatusCommand.self, SpaceSet.self,
            SpaceResize.self, SpaceDestroy.self,
        ])
}

struct SpaceCreate: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "create", abstract: "Make a space; it is exported over NBD at once.")
    @Argument(help: ArgumentHelp("The new space.", valueName: "pool/space")) var space: String

    @Option(
        help: ArgumentHelp("Its size, a multiple of 1 MiB.", valueName: "size"),
        transform: Size.init(parsing:))
    var size: Size

    @Option(
        help: ArgumentHelp(
            "simple (one copy), mirror2 (two, survives the loss of one disk) or mirror3 (three, of "
                + "two disks).",
            valueName: "kind"))
    var resiliency: Resiliency

    @Option(
        help: "Columns of data, of a parity all of its disks; default: what the disks allow.")
    var columns: Int?

    @Option(
        help: ArgumentHelp("Bytes on one column before the next; default 256K.", valueName: "size"),
        transform: Size.init(parsing:))
    var interleave: Size?

    @Option(
        help: ArgumentHelp(
            "thin: room is taken as it is written; fixed: all of it is taken now.",
            valueName: "kind"))
    var provisioning = Provisioning.thin

    @Option(
        help: ArgumentHelp(
            "What a write does that finds no room: wait (60 s, then ENOSPC), or enospc.",
            valueName: "policy"))
    var whenFull = WhenFullPolicy.wait

    @Option(
        help: ArgumentHelp(
            """
            What a parity space takes small writes to first, on SSDs if there are any; 0: none. \
            Default: 1 % of the SSDs, 64M to 1G; 256M without any.
            """,
            valueName: "size"),
        transform: Size.init(parsing:))
    var writeCache: Size?

    @Flag(help: "Keep no checksums: rot on a disk goes unnoticed.")
    var noChecksums = false

    // Part of the interface, refused by the daemon for now, and so not in the help.
    @Option(help: .hidden, transform: Size.init(parsing:)) var ssdTier: Size?
    @Option(help: .hidden) var ssdResiliency: Resiliency?

    @OptionGroup var common: CommonOptions

    mutating func validate() throws {
        if let columns, columns < 1 {
            throw ValidationError("--columns is a number from 1 on")
        }
    }

    func run() throws {
        let path = try SpacePath(space)
        let request = SpaceCreateRequest(
            name: path.space, sizeBytes: size.bytes, resiliency: resiliency,
            provisioning: provisioning, columns: columns, interleaveBytes: interleave?.bytes,
            whenFull: whenFull, checksums: !noChecksums, ssdTierBytes: ssdTier?.bytes,
            ssdResiliency: ssdResiliency, writeCacheBytes: writeCache?.bytes)
        let status = try common.client.send(
            .spaceCreate(pool: path.pool), request, expecting: SpaceStatus.self)
        try common.show(status, as: Reports.space)
    }
}

struct SpaceLs: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ls", abstract: "List the spaces of all pools.")
    @OptionGroup var common: CommonOptions

    func run() throws {
        let list = try common.client.send(.spaceList, expecting: SpaceList.self)
        try common.show(list, as: Reports.spaces)
    }
}

struct SpaceStatusCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status", abstract: "Show a space: health, room, connections.")
    @Argument(help: ArgumentHelp("The space.", valueName: "pool/space")) var space: String
    @OptionGroup var common: CommonOptions

    func run() throws {
        let path = try SpacePath(space)
        try common.show(
            common.client.send(.spaceStatus(path), expecting: SpaceStatus.self),
            as: Reports.space)
    }
}

struct SpaceDestroy: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "destroy", abstract: "Give a space back to its pool; its data is lost.")
    @Argument(help: ArgumentHelp("The space.", valueName: "pool/space")) var space: String
    @Flag(help: "Really do it.") var yes = false
    @OptionGroup var common: CommonOptions

    func run() throws {
        let path = try SpacePath(space)
        guard yes else {
            throw ControlFailure(
                .refused, "destroying space \(path) loses everything in it",
                hint: "repeat with --yes if that is what you want")
        }
        try common.show(
            common.client.send(.spaceDestroy(path), expecting: Outcome.self),
            as: Reports.outcome)
    }
}

struct SpaceSet: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "set", abstract: "Change a space: all of what is named or nothing.",
        discussion: """
            The keys are when_full (wait or enospc), write-cache (a size; 0: none) and name \
            (while nobody uses it).
            """)
    @Argument(help: ArgumentHelp("The space.", valueName: "pool/space")) var space: String
    @OptionGroup var settings: SettingArguments
    @OptionGroup var common: CommonOptions

    func run() throws {
        let path = try SpacePath(space)
        let request = SettingsRequest(changes: try settings.changes())
        try common.show(
            common.client.send(.spaceSet(path), request, expecting: SpaceStatus.self),
            as: Reports.space)
    }
}

struct SpaceResize: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "resize", abstract: "Make a space larger, or smaller with --shrink.",
        discussion: "Clients that attach afterwards see the new size.")
    @Argument(help: ArgumentHelp("The space.", valueName: "pool/space")) var space: String
    @Argument(help: "Its new size, a multiple of 1 MiB.", transform: Size.init(parsing:))
    var size: Size
    @Flag(help: "Allow it to become smaller; refused while data lies beyond the new end.")
    var shrink = false
    @OptionGroup var common: CommonOptions

    func run() throws {
        let path = try SpacePath(space)
        let request = SpaceResizeRequest(sizeBytes: size.bytes, shrink: shrink)
        try common.show(
            common.client.send(.spaceResize(path), request, expecting: SpaceStatus.self),
            as: Reports.space)
    }
}

struct ExplainCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "explain",
        abstract: "Show where a space lies, and which disks may go without loss.")
    @Argument(help: ArgumentHelp("The space.", valueName: "pool/space")) var space: String
    @OptionGroup var common: CommonOptions

    func run() throws {
        let path = try SpacePath(space)
        try common.show(
            common.client.send(.spaceExplain(path), expecting: SpaceExplanation.self),
            as: Reports.explanation)
    }
}
