import ArgumentParser
import PoolControl

struct DiskCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "disk", abstract: "Disks of a pool.",
        subcommands: [DiskLs.self, DiskSet.self])
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
