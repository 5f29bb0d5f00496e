import ArgumentParser
import PoolControl
import Testing

@testable import poolctl

/// The command line as people mistype it.
@Suite struct CommandLineTests {
    @Test(arguments: [
        ["pool", "create", "tank"], ["pool", "create"], ["pool", "creat", "tank", "/d"],
        ["pool", "create", "tank", "/d", "--create-size", "8X"],
        ["pool", "create", "tank", "/d", "--create-size"], ["pool", "destroy"],
        ["pool", "import"], ["pool", "ls", "--jsn"], ["pool", "ls", "extra"], ["disk", "ls"],
        ["space", "create", "tank/v", "--size", "1G"],
        ["space", "create", "tank/v", "--resiliency", "mirror2"],
        ["space", "create", "tank/v", "--size", "-1", "--resiliency", "mirror2"],
        ["space", "create", "tank/v", "--size", "1G", "--resiliency", "raid5"],
        ["space", "create", "tank/v", "--size", "1G", "--resiliency", "simple", "--columns", "0"],
        ["space", "create", "tank/v", "--size", "1G", "--resiliency", "simple", "--columns", "x"],
        ["space", "create", "tank/v", "--size", "1G", "--resiliency", "simple", "--when-full", "?"],
        ["pool", "get"], ["pool", "set"], ["pool", "set", "tank"], ["disk", "set", "tank"],
        ["disk", "set", "tank", "disk1"], ["space", "set", "tank/v"], ["space", "resize"],
        ["space", "resize", "tank/v"], ["space", "resize", "tank/v", "1X"],
        ["space", "resize", "tank/v", "1G", "2G"], ["explain"], ["explain", "tank/v", "tank/w"],
        ["pool", "scrub"], ["pool", "scrub", "tank", "tank"],
        ["pool", "scrub", "tank", "--wait", "--pause"],
        ["pool", "scrub", "tank", "--pause", "--resume"],
        ["pool", "scrub", "tank", "--pause", "--rate", "1M"],
        ["pool", "scrub", "tank", "--rate", "0"], ["pool", "scrub", "tank", "--rate", "fast"],
        ["pool", "rebalance"], ["pool", "rebalance", "tank", "x"], ["pool", "repair"],
        ["pool", "repair", "tank", "--now"], ["disk", "offline", "tank"],
        ["disk", "offline", "tank", "disk1", "disk2"], ["disk", "online", "tank"],
        ["disk", "online", "tank", "disk1", "--force"], ["disk", "retire", "tank"],
        ["disk", "retire", "tank", "disk1", "/d"], ["disk", "replace", "tank"],
        ["disk", "replace", "tank", "disk1"], ["disk", "replace", "tank", "disk1", "/d", "/e"],
        ["disk", "replace", "tank", "disk1", "/d", "--create-size", "x"],
    ])
    func usageErrorsExitWith64(_ arguments: [String]) {
        let error = #expect(throws: (any Error).self) { try Poolctl.parseAsRoot(arguments) }
        guard let error else { return }
        #expect(Poolctl.exitCode(for: error).rawValue == 64)
        let (what, hint) = Poolctl.usageError(error)
        #expect(!what.isEmpty && !what.contains("\n"))
        #expect(hint.contains("poolctl"))
    }

    /// A verb that does not exist is named, whatever follows it.
    @Test(arguments: [
        ([], "poolctl needs a verb", "pool, disk, space, explain"),
        (["pool"], "poolctl pool needs a verb", "create, ls, status"),
        (["frobnicate"], "there is no verb 'frobnicate'", "pool, disk"),
        (["pol", "ls"], "there is no verb 'pol'", "did you mean 'poolctl pool'?"),
        (["pool", "craete", "tank", "/d"], "verb 'pool craete'", "'poolctl pool create'"),
        (["pool", "scurb", "tank"], "there is no verb 'pool scurb'", "'poolctl pool scrub'"),
        (["pool", "fsck", "tank", "--wait"], "there is no verb 'pool fsck'", "verbs are"),
        (["disk", "replce", "tank"], "no verb 'disk replce'", "'poolctl disk replace'"),
        (["disk", "eject", "tank", "disk1", "--force"], "no verb 'disk eject'", "ls, set, offline"),
        (["space", "xyz", "--size", "1G"], "there is no verb 'space xyz'", "resize"),
        (["tier", "status", "tank/v"], "there is no verb 'tier'", ""),
        (["--json", "pool", "ls"], "'--json' stands where a verb should", "options behind"),
        (["pool", "--dir", "/d", "ls"], "'--dir' stands where", "poolctl pool VERB"),
        (["\u{1B}[2J"], "there is no verb '?[2J'", ""),
    ])
    func aVerbThatDoesNotExistIsNamed(_ arguments: [String], _ what: String, _ hint: String) {
        let usage = #expect(throws: UsageFailure.self) { try Verbs.check(arguments) }
        #expect(usage?.failure.what.contains(what) == true, "\(usage?.failure.what ?? "")")
        #expect(
            usage?.failure.hint.contains(hint) == true || hint.isEmpty,
            "\(usage?.failure.hint ?? "")")
    }

    @Test(arguments: [
        ["--help"], ["help", "pool"], ["--version"], ["pool", "--help"], ["pool", "ls", "--help"],
        ["pool", "ls", "--jsn"], ["explain"], ["explain", "--json"],
        ["--generate-completion-script=bash"],
    ])
    func verbsThatExistAreLeftToTheParser(_ arguments: [String]) throws {
        try Verbs.check(arguments)
    }

    @Test func settingsAreReadBeforeAnythingIsSent() throws {
        for (arguments, part) in [
            (["pool", "set", "tank", "thresholds"], "'thresholds' is not of the form KEY=VALUE"),
            (["pool", "set", "tank", "=1"], "'=1' is not of the form"),
            (["disk", "set", "tank", "disk1", "media"], "'media' is not"),
            (["space", "set", "tank/v", "name"], "'name' is not"),
            (["space", "set", "tank", "name=x"], "'tank' is not of the form POOL/SPACE"),
            (["explain", "tank"], "POOL/SPACE"),
        ] {
            var command = try Poolctl.parseAsRoot(arguments + ["--dir", "/nonexistent"])
            let failure = #expect(throws: ControlFailure.self) { try command.run() }
            #expect(failure?.kind == .invalid)
            #expect(failure?.what.contains(part) == true, "\(failure?.what ?? "")")
        }
        #expect(try SettingText.change("a=b=c") == SettingChange(key: "a", value: "b=c"))
        #expect(try SettingText.change("rack=") == SettingChange(key: "rack", value: ""))
    }

    @Test(arguments: [
        ("disk1", "disk1"), ("disk12", "disk12"), ("/dev/sdb", "/dev/sdb"),
        ("00112233-4455-6677-8899-AABBCCDDEEFF", "00112233-4455-6677-8899-AABBCCDDEEFF"),
        ("/a/./disk1", "/a/disk1"),
    ])
    func aDiskIsANameAUUIDOrAPath(_ text: String, _ sent: String) {
        #expect(Paths.disk(text) == sent)
    }

    @Test(arguments: ["disk", "diskx", "d1", "./disk1", "disk1x", "disk\u{663}"])
    func whatIsNoNameIsAPathHere(_ text: String) {
        #expect(Paths.disk(text).hasPrefix("/"))
    }

    @Test func optionsBecomeARequest() throws {
        let command = try Poolctl.parseAsRoot([
            "pool", "create", "tank", "/a", "/b/./c", "--ssd", "/s1", "/s2", "--hdd", "/h",
            "--create-size", "8G", "--force", "--dir", "/run/p", "--json",
        ])
        let create = try #require(command as? PoolCreate)
        #expect(create.pool == "tank" && create.new.force && create.common.json)
        #expect(create.new.createSize?.bytes == 8 << 30)
        #expect(create.common.client.directory == "/run/p")
        #expect(
            create.new.choices == [
                DiskChoice(path: "/a"), DiskChoice(path: "/b/c"),
                DiskChoice(path: "/s1", media: .ssd), DiskChoice(path: "/s2", media: .ssd),
                DiskChoice(path: "/h", media: .hdd),
            ])
    }

    @Test(arguments: [
        ["--resiliency", "simple", "--ssd-tier", "1G"],
        ["--resiliency", "simple", "--ssd-resiliency", "mirror2"],
    ])
    func whatIsNotInThisVersionIsTheDaemonsToRefuse(_ options: [String]) throws {
        let arguments = ["space", "create", "tank/v", "--size", "1G"] + options
        #expect(try Poolctl.parseAsRoot(arguments) is SpaceCreate)
        let help = Poolctl.helpMessage(for: SpaceCreate.self)
        #expect(!help.contains("tier"), "help offers tiers")
        let all = ["simple", "mirror2", "mirror3", "parity1", "parity2"]
        #expect(Resiliency.allValueStrings == all)
        #expect(all.allSatisfy(help.contains))
    }

    /// Each verb for disks and jobs, as it is written when it is right.
    static let jobVerbs: [[String]] = [
        ["pool", "scrub", "tank"], ["pool", "scrub", "tank", "--wait", "--rate", "50M"],
        ["pool", "scrub", "tank", "--pause"], ["pool", "scrub", "tank", "--resume", "--rate", "1G"],
        ["pool", "rebalance", "tank", "--wait"], ["pool", "repair", "tank", "--wait"],
        ["disk", "offline", "tank", "disk1", "--force"], ["disk", "online", "tank", "disk1"],
        ["disk", "retire", "tank", "disk1", "--wait"],
        ["disk", "replace", "tank", "disk1", "/d", "--wait", "--force", "--create-size", "1G"],
    ]

    @Test(arguments: jobVerbs) func withoutADaemonNothingIsWaitedFor(_ arguments: [String]) throws {
        for json in [[], ["--json"]] {
            var command = try Poolctl.parseAsRoot(arguments + json + ["--dir", "/nonexistent"])
            let failure = #expect(throws: ControlFailure.self) { try command.run() }
            #expect(failure?.kind == .unavailable)
            #expect(failure?.hint == "start one: poold --dir /nonexistent")
        }
    }

    @Test(arguments: jobVerbs) func aBadPoolIsRefusedHere(_ arguments: [String]) throws {
        var mistyped = arguments
        mistyped[2] = "../tank"
        var command = try Poolctl.parseAsRoot(mistyped + ["--dir", "/nonexistent"])
        let failure = #expect(throws: ControlFailure.self) { try command.run() }
        #expect(failure?.kind == .invalid)
    }

    @Test func whatIsReplacedIsADiskAndTheNewOneAPath() throws {
        let command = try Poolctl.parseAsRoot(["disk", "replace", "tank", "disk1", "/a/./disk2"])
        let replace = try #require(command as? DiskReplace)
        #expect(Paths.disk(replace.old) == "disk1" && Paths.absolute(replace.new) == "/a/disk2")
        #expect(!replace.force && !replace.waiting.wait && replace.createSize == nil)
    }

    @Test func destroyingTakesAYes() throws {
        for arguments in [["pool", "destroy", "tank"], ["space", "destroy", "tank/v"]] {
            var command = try Poolctl.parseAsRoot(arguments + ["--dir", "/nonexistent"])
            let failure = #expect(throws: ControlFailure.self) { try command.run() }
            #expect(failure?.kind == .refused)
            #expect(failure?.hint.contains("--yes") == true)
        }
    }

    @Test func withoutADaemonTheStartLineIsShown() throws {
        var command = try Poolctl.parseAsRoot(["pool", "ls", "--dir", "/none/it's"])
        let failure = #expect(throws: ControlFailure.self) { try command.run() }
        #expect(failure?.what == "no poold at /none/it's")
        #expect(failure?.hint == #"start one: poold --dir '/none/it'\''s'"#)
    }

    @Test func aBadNameIsRefusedBeforeAnythingIsSent() throws {
        for arguments in [
            ["pool", "status", "../x"], ["pool", "create", "a/b", "/d"], ["disk", "ls", ".x"],
            ["space", "status", "tank"],
        ] {
            var command = try Poolctl.parseAsRoot(arguments + ["--dir", "/nonexistent"])
            let failure = #expect(throws: ControlFailure.self) { try command.run() }
            #expect(failure?.kind == .invalid)
        }
    }
}
