import ArgumentParser
import PoolControl

struct DiskCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "disk", abstract: "Disks of a pool.",
        subcommands: [
            DiskLs.self, DiskSet.self, DiskOffline.self, DiskOnline.self, DiskRetire.self,
            DiskReplace.self,
        ])
}

struct DiskLs: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ls", abstract: "List a pool's disks.")
    @Argument(help: "The pool.") var pool: String
    @OptionGroup var common: CommonOptions

    func run() throws {
        try NameRules.check(pool, "pool")
        let list = try common.client.send(.diskList(pool), expecting: DiskList.self)
        try common.show(list) { Reports.disks($0.disks) }
    }
}

struct DiskSet: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "set", abstract: "Say what a disk is and what it fails together with.",
        discussion: """
            The keys are media (ssd or hdd), enclosure, node and rack; KEY= takes a tag away. New \
            slab groups keep their copies in different racks, nodes or enclosures where they can.
            """)
    @Argument(help: "The pool.") var pool: String
    @Argument(help: "The disk: its path, its uuid or the name shown.") var disk: String
    @OptionGroup var settings: SettingArguments
    @OptionGroup var common: CommonOptions

    func run() throws {
        try NameRules.check(pool, "pool")
        let request = DiskSetRequest(disk: Paths.disk(disk), changes: try settings.changes())
        let list = try common.client.send(.diskSet(pool), request, expecting: DiskList.self)
        try common.show(list) { Reports.disks($0.disks) }
    }
}

struct DiskOffline: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "offline", abstract: "Take a disk out of use, until it is brought back.",
        discussion: "Refused where data could not be read without it, unless with --force.")
    @Argument(help: "The pool.") var pool: String
    @Argument(help: "The disk: its path, its uuid or the name shown.") var disk: String
    @Flag(help: "Also where data cannot be read until it is back.") var force = false
    @OptionGroup var common: CommonOptions

    func run() throws {
        try NameRules.check(pool, "pool")
        let request = DiskOfflineRequest(disk: Paths.disk(disk), force: force)
        let list = try common.client.send(.diskOffline(pool), request, expecting: DiskList.self)
        try common.show(list) { Reports.disks($0.disks) }
    }
}

struct DiskOnline: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "online", abstract: "Bring a disk back; it gets what it missed.",
        discussion: """
            It is looked for where it was last, beside there and among all block devices; its path \
            may also be a new one. Disks that were lost come back by themselves when they are found.
            """)
    @Argument(help: "The pool.") var pool: String
    @Argument(help: "The disk: its path, its uuid or the name shown.") var disk: String
    @OptionGroup var common: CommonOptions

    func run() throws {
        try NameRules.check(pool, "pool")
        let request = DiskOnlineRequest(disk: Paths.disk(disk))
        let list = try common.client.send(.diskOnline(pool), request, expecting: DiskList.self)
        try common.show(list) { Reports.disks($0.disks) }
    }
}

struct DiskRetire: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "retire", abstract: "Empty a disk onto the others, then let it go.")
    @Argument(help: "The pool.") var pool: String
    @Argument(help: "The disk: its path, its uuid or the name shown.") var disk: String
    @OptionGroup var waiting: WaitOption
    @OptionGroup var common: CommonOptions

    func run() throws {
        try NameRules.check(pool, "pool")
        let request = DiskRetireRequest(disk: Paths.disk(disk))
        try common.finish(
            common.client.send(.diskRetire(pool), request, expecting: JobAnswer.self),
            wait: waiting.wait)
    }
}

struct DiskReplace: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "replace", abstract: "Put a new disk in the place of one, gone or not.")
    @Argument(help: "The pool.") var pool: String
    @Argument(help: "The disk that goes: its path, its uuid or the name shown.") var old: String
    @Argument(help: "The disk that comes: a block device or a file.") var new: String

    @Option(
        help: ArgumentHelp("Make the new one, a sparse file, of this size.", valueName: "size"),
        transform: Size.init(parsing:))
    var createSize: Size?

    @Flag(help: "Use a new disk that holds something; what it holds is lost.")
    var force = false
    @OptionGroup var waiting: WaitOption
    @OptionGroup var common: CommonOptions

    func run() throws {
        try NameRules.check(pool, "pool")
        let request = DiskReplaceRequest(
            disk: Paths.disk(old), new: DiskChoice(path: Paths.absolute(new)),
            createSizeBytes: createSize?.bytes, force: force)
        try common.finish(
            common.client.send(.diskReplace(pool), request, expecting: JobAnswer.self),
            wait: waiting.wait)
    }
}
