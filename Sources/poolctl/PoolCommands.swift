import ArgumentParser
import PoolControl

struct PoolCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pool", abstract: "Pools: sets of disks.",
        subcommands: [
            PoolCreate.self, PoolLs.self, PoolStatusCommand.self, PoolAdd.self,
            PoolExport.self, PoolImport.self, PoolDestroy.self, PoolScrub.self,
            PoolRebalance.self, PoolRepair.self, PoolGet.self, PoolSet.self,
        ])
}

/// The disks of a verb that takes new ones.
struct NewDisks: ParsableArguments {
    @Argument(help: "Block devices or files, each of 1 GiB or more.")
    var disks: [String] = []

    @Option(
        parsing: .upToNextOption,
        help: ArgumentHelp("Disks that are SSDs, whatever the kernel says.", valueName: "disk"))
    var ssd: [String] = []

    @Option(
        parsing: .upToNextOption,
        help: ArgumentHelp("Disks that are HDDs, whatever the kernel says.", valueName: "disk"))
    var hdd: [String] = []

    @Option(
        help: ArgumentHelp("Make missing files, sparse, of this size.", valueName: "size"),
        transform: Size.init(parsing:))
    var createSize: Size?

    @Flag(help: "Use disks that hold something; what they hold is lost.")
    var force = false

    mutating func validate() throws {
        guard !disks.isEmpty || !ssd.isEmpty || !hdd.isEmpty else {
            throw ValidationError("Missing expected argument '<disks> ...'")
        }
    }

    var choices: [DiskChoice] {
        disks.map { DiskChoice(path: Paths.absolute($0)) }
            + ssd.map { DiskChoice(path: Paths.absolute($0), media: .ssd) }
            + hdd.map { DiskChoice(path: Paths.absolute($0), media: .hdd) }
    }
}

struct PoolCreate: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "create", abstract: "Make a pool from disks.")
    @Argument(help: "The new pool's name.") var pool: String
    @OptionGroup var new: NewDisks
    @OptionGroup var common: CommonOptions

    func run() throws {
        try NameRules.check(pool, "pool")
        let request = PoolCreateRequest(
            name: pool, disks: new.choices, createSizeBytes: new.createSize?.bytes,
            force: new.force)
        let status = try common.client.send(.poolCreate, request, expecting: PoolStatus.self)
        try common.show(status, as: Reports.pool)
    }
}

struct PoolLs: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ls", abstract: "List the pools this daemon knows.")
    @OptionGroup var common: CommonOptions

    func run() throws {
        try common.show(
            common.client.send(.poolList, expecting: PoolList.self), as: Reports.pools)
    }
}

struct PoolStatusCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status", abstract: "Show a pool: health, room, disks, spaces.")
    @Argument(help: "The pool; may be left out where there is only one.") var pool: String?
    @OptionGroup var common: CommonOptions

    func run() throws {
        if let pool {
            try NameRules.check(pool, "pool")
            let status = try common.client.send(.poolStatus(pool), expecting: PoolStatus.self)
            return try common.show(status, as: Reports.pool)
        }
        let list = try common.client.send(.poolList, expecting: PoolList.self)
        if list.pools.count == 1, let only = list.pools.first {
            try common.show(only, as: Reports.pool)
        } else {
            try common.show(list) { list in
                list.pools.isEmpty
                    ? Reports.pools(list)
                    : list.pools.map(Reports.pool).joined(separator: "\n\n")
            }
        }
    }
}

struct PoolAdd: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "add", abstract: "Add disks to a pool.")
    @Argument(help: "The pool.") var pool: String
    @OptionGroup var new: NewDisks
    @OptionGroup var common: CommonOptions

    func run() throws {
        try NameRules.check(pool, "pool")
        let request = PoolAddRequest(
            disks: new.choices, createSizeBytes: new.createSize?.bytes, force: new.force)
        let status = try common.client.send(.poolAdd(pool), request, expecting: PoolStatus.self)
        try common.show(status, as: Reports.pool)
    }
}

struct PoolExport: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "export", abstract: "Close a pool, so that another host can import it.")
    @Argument(help: "The pool.") var pool: String
    @OptionGroup var common: CommonOptions

    func run() throws {
        try NameRules.check(pool, "pool")
        try common.show(
            common.client.send(.poolExport(pool), expecting: Outcome.self), as: Reports.outcome)
    }
}

struct PoolImport: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "import", abstract: "Open a pool that another daemon exported.",
        discussion: """
            With --force also one that was not exported, or of which too many disks are missing. A \
            new history begins: what its old host still had to write and what only the missing disks \
            know is lost, those can join again only as new disks, and the old host must not use the \
            pool again.
            """)
    @Argument(help: "Its disks, or folders they are in.") var disks: [String]
    @Flag(help: "Only when its old host, or the missing disks, are gone for good.")
    var force = false
    @OptionGroup var common: CommonOptions

    func run() throws {
        let request = PoolImportRequest(disks: disks.map(Paths.absolute), force: force)
        let list = try common.client.send(.poolImport, request, expecting: PoolList.self)
        try common.show(list) { $0.pools.map(Reports.pool).joined(separator: "\n\n") }
    }
}

struct PoolDestroy: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "destroy", abstract: "Take a pool apart; everything in it is lost.")
    @Argument(help: "The pool.") var pool: String
    @Flag(help: "Really do it.") var yes = false
    @OptionGroup var common: CommonOptions

    func run() throws {
        try NameRules.check(pool, "pool")
        guard yes else {
            throw ControlFailure(
                .refused, "destroying pool \(pool) loses everything in it",
                hint: "repeat with --yes if that is what you want")
        }
        try common.show(
            common.client.send(.poolDestroy(pool), expecting: Outcome.self), as: Reports.outcome)
    }
}

struct PoolGet: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "get", abstract: "Show a pool's settings, their defaults and meanings.")
    @Argument(help: "The pool.") var pool: String
    @OptionGroup var common: CommonOptions

    func run() throws {
        try NameRules.check(pool, "pool")
        try common.show(
            common.client.send(.settingList(pool), expecting: SettingList.self),
            as: Reports.settings)
    }
}

struct PoolSet: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "set", abstract: "Change settings of a pool: all of them or none.",
        discussion: "The keys are those that 'pool get' shows; KEY=default goes back to the default.")
    @Argument(help: "The pool.") var pool: String
    @OptionGroup var settings: SettingArguments
    @OptionGroup var common: CommonOptions

    func run() throws {
        try NameRules.check(pool, "pool")
        let request = SettingsRequest(changes: try settings.changes())
        try common.show(
            common.client.send(.poolSet(pool), request, expecting: SettingList.self),
            as: Reports.settings)
    }
}

/// The changes of a verb that sets something.
struct SettingArguments: ParsableArguments {
    @Argument(help: ArgumentHelp("What to set.", valueName: "key=value"))
    var settings: [String]

    func changes() throws(ControlFailure) -> [SettingChange] {
        var changes: [SettingChange] = []
        for setting in settings { changes.append(try SettingText.change(setting)) }
        return changes
    }
}
