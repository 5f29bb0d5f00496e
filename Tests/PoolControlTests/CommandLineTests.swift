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
        ["nothing"],
    ])
    func usageErrorsExitWith64(_ arguments: [String]) {
        let error = #expect(throws: (any Error).self) { try Poolctl.parseAsRoot(arguments) }
        guard let error else { return }
        #expect(Poolctl.exitCode(for: error).rawValue == 64)
        let (what, hint) = Poolctl.usageError(error)
        #expect(!what.isEmpty && !what.contains("\n"))
        #expect(hint.contains("poolctl"))
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
        ["--resiliency", "parity1"], ["--resiliency", "mirror2", "--provisioning", "fixed"],
        ["--resiliency", "simple", "--ssd-tier", "1G"],
        ["--resiliency", "simple", "--write-cache", "1G"],
    ])
    func whatIsNotInThisVersionIsTheDaemonsToRefuse(_ options: [String]) throws {
        let arguments = ["space", "create", "tank/v", "--size", "1G"] + options
        #expect(try Poolctl.parseAsRoot(arguments) is SpaceCreate)
        let help = Poolctl.helpMessage(for: SpaceCreate.self)
        for word in ["parity", "fixed", "tier", "cache", "mirror3"] {
            #expect(!help.contains(word), "help offers \(word)")
        }
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

@Suite struct ReportTests {
    @Test func aPoolFitsAnEightyColumnTerminal() {
        let text = Reports.pool(MessageSnapshotTests.pool)
        #expect(
            text == """
                pool:     tank
                health:   degraded
                reason:   r
                action:   a
                room:     4 B free of 9 B, 5 B allocated

                DISK   STATE   MEDIA  SIZE  ALLOCATED  ERRORS  PATH
                disk1  online  hdd     8 B        4 B       6  /dev/sdb

                SPACE     HEALTH         RESILIENCY  SIZE  MAPPED  ALLOCATED  CLIENTS
                tank/vm1  no-redundancy  mirror2     16 B     4 B        8 B        3

                JOB      SUBJECT  STATE    DONE
                rebuild  disk1    running  50 %
                """)
        #expect(text.split(separator: "\n").allSatisfy { $0.count <= 80 })
    }

    @Test func aSpaceTellsWhatItIs() {
        #expect(
            Reports.space(MessageSnapshotTests.space) == """
                space:    tank/vm1
                health:   no-redundancy
                reason:   r
                action:   a
                layout:   mirror2, 2 columns, interleave 256 KiB, checksums
                size:     16 B, thin
                room:     4 B mapped, 8 B allocated with copies and metadata
                on hdd:   8 B allocated
                clients:  3
                owner:    local, epoch 7
                """)
    }

    @Test func pathsFromOutsideCannotSteerATerminal() {
        var disk = MessageSnapshotTests.disk
        disk.path = "/d\u{1B}[2J"
        #expect(!Reports.disks([disk]).contains("\u{1B}"))
    }
}
