import Foundation
import Logging
import PoolControl
import PoolFormat
import Testing

@testable import PoolDaemon
@testable import poolctl

/// A whole daemon in this process, on sparse files, asked as poolctl asks.
@Suite(.serialized) struct DaemonTests {
    private final class Fixture {
        let folder = TemporaryFolder()
        var daemon: Daemon?
        var directory: String { folder.path + "/daemon" }
        var client: ControlClient { ControlClient(directory: directory) }

        init() throws {
            try FileManager.default.createDirectory(
                atPath: folder.path + "/disks", withIntermediateDirectories: true)
            try start()
        }

        deinit { daemon?.stop() }

        func start() throws {
            var logger = Logger(label: "test")
            logger.logLevel = .critical
            daemon = try Daemon(
                DaemonOptions(directory: directory, nbd: []), logger: logger)
        }

        func stop() {
            daemon?.stop()
            daemon = nil
        }

        /// One of two disks is no majority: without the witness's word the pool stays closed.
        func forgetWitness() throws {
            try FileManager.default.removeItem(atPath: directory + "/witness")
        }

        func disk(_ name: String) -> String { "\(folder.path)/disks/\(name)" }

        func createPool(_ name: String, _ disks: [String]) throws -> PoolControl.PoolStatus {
            try client.send(
                .poolCreate,
                PoolCreateRequest(
                    name: name, disks: disks.map { DiskChoice(path: disk($0)) },
                    createSizeBytes: 1 << 30, force: false),
                expecting: PoolControl.PoolStatus.self)
        }

        func createSpace(
            _ pool: String, _ request: SpaceCreateRequest
        ) throws -> PoolControl.SpaceStatus {
            try client.send(
                .spaceCreate(pool: pool), request, expecting: PoolControl.SpaceStatus.self)
        }

        func pool(_ name: String) throws -> PoolControl.PoolStatus {
            try client.send(.poolStatus(name), expecting: PoolControl.PoolStatus.self)
        }

        func refusal(_ body: () throws -> Void) -> ControlFailure? {
            #expect(throws: ControlFailure.self) { try body() }
        }
    }

    static let space = SpaceCreateRequest(name: "vm", sizeBytes: 64 << 20, resiliency: .mirror2)

    @Test func whatWasMadeIsThereAfterARestart() throws {
        let fixture = try Fixture()
        let pool = try fixture.createPool("tank", ["a", "b"])
        #expect(pool.health == .healthy && pool.disks.map(\.name) == ["disk1", "disk2"])
        #expect(pool.freeBytes == pool.capacityBytes && pool.capacityBytes > 1 << 30)
        let made = try fixture.createSpace("tank", Self.space)
        #expect(made.name == "tank/vm" && made.owner == "local" && made.connections == 0)
        fixture.stop()
        #expect(!FileManager.default.fileExists(atPath: fixture.directory + "/control.sock"))
        try fixture.start()
        let path = try SpacePath("tank/vm")
        let again = try fixture.client.send(
            .spaceStatus(path), expecting: PoolControl.SpaceStatus.self)
        #expect(again.epoch > made.epoch)
        #expect(again.sizeBytes == made.sizeBytes && again.health == .healthy)
        #expect(try fixture.pool("tank").uuid == pool.uuid)
    }

    @Test func aDetachedPoolNamesItsMissingDisksAndComesBack() throws {
        let fixture = try Fixture()
        _ = try fixture.createPool("tank", ["a", "b"])
        _ = try fixture.createSpace("tank", Self.space)
        fixture.stop()
        try fixture.forgetWitness()
        let away = fixture.folder.path + "/away"
        try FileManager.default.moveItem(atPath: fixture.disk("b"), toPath: away)
        try fixture.start()
        let detached = try fixture.pool("tank")
        #expect(detached.health == .detached)
        #expect(detached.disks.map(\.state) == [.offline, .missing])
        #expect("\(detached.reason) \(detached.action)".contains("disk2"))
        #expect(!Reports.pool(detached).contains("space create"))
        let refused = fixture.refusal { _ = try fixture.createSpace("tank", Self.space) }
        #expect(refused?.kind == .refused)
        // Back, under another name: what counts is the label.
        try FileManager.default.moveItem(atPath: away, toPath: fixture.disk("b2"))
        fixture.daemon?.lookAgain()
        let deadline = ContinuousClock.now + .seconds(20)
        while try fixture.pool("tank").health == .detached, ContinuousClock.now < deadline {
            usleep(20_000)
        }
        let back = try fixture.pool("tank")
        #expect(back.health == .healthy && back.spaces.map(\.name) == ["tank/vm"])
        #expect(back.disks.map(\.path) == [fixture.disk("a"), fixture.disk("b2")])
    }

    @Test func aDiskThatWasCutShortIsMissing() throws {
        let fixture = try Fixture()
        _ = try fixture.createPool("tank", ["a", "b"])
        fixture.stop()
        try fixture.forgetWitness()
        let file = try #require(FileHandle(forUpdatingAtPath: fixture.disk("b")))
        try file.truncate(atOffset: 1 << 20)
        try file.close()
        try fixture.start()
        let pool = try fixture.pool("tank")
        #expect(pool.health == .detached && pool.disks.map(\.state) == [.offline, .missing])
    }

    @Test func aPoolMovesByExportAndImport() throws {
        let fixture = try Fixture()
        let pool = try fixture.createPool("tank", ["a", "b"])
        _ = try fixture.createSpace("tank", Self.space)
        _ = try fixture.client.send(.poolExport("tank"), expecting: Outcome.self)
        #expect(fixture.refusal { _ = try fixture.pool("tank") }?.kind == .notFound)
        let list = try fixture.client.send(
            .poolImport, PoolImportRequest(disks: [fixture.disk("b")], force: false),
            expecting: PoolList.self)
        #expect(list.pools.map(\.uuid) == [pool.uuid])
        #expect(list.pools.first?.spaces.map(\.health) == [.healthy])
        // Open here: neither again, nor as new disks.
        let again = PoolImportRequest(disks: [fixture.disk("a")], force: false)
        let refused = fixture.refusal {
            _ = try fixture.client.send(.poolImport, again, expecting: PoolList.self)
        }
        #expect(refused?.what.contains("open here already") == true)
        #expect(
            fixture.refusal { _ = try fixture.createPool("other", ["a"]) }?.what
                .contains("belongs to pool tank") == true)
    }

    @Test func aPoolThatWasNotExportedTakesForce() throws {
        let fixture = try Fixture()
        _ = try fixture.createPool("tank", ["a", "b"])
        fixture.stop()
        // Another host: no record, no witness.
        try FileManager.default.removeItem(atPath: fixture.directory)
        try fixture.start()
        for (force, isTaken) in [(false, false), (true, true)] {
            let request = PoolImportRequest(disks: [fixture.folder.path + "/disks"], force: force)
            let result = Result {
                try fixture.client.send(.poolImport, request, expecting: PoolList.self)
            }
            switch result {
            case .success(let list): #expect(isTaken && list.pools.map(\.name) == ["tank"])
            case .failure(let error):
                #expect(!isTaken && "\(error)".contains("not exported"), "\(error)")
            }
        }
    }

    @Test func mistakesAreRefusedAndChangeNothing() throws {
        let fixture = try Fixture()
        _ = try fixture.createPool("tank", ["a", "b"])
        let before = try fixture.pool("tank")
        typealias Request = SpaceCreateRequest
        let refused: [(Request, ControlFailure.Kind, String)] = [
            (Request(name: "x", sizeBytes: 1_000_000, resiliency: .simple), .refused, "MiB"),
            (Request(name: "x", sizeBytes: 0, resiliency: .simple), .refused, ""),
            (Request(name: "x", sizeBytes: .max, resiliency: .simple), .refused, ""),
            (
                Request(name: "x", sizeBytes: 1 << 20, resiliency: .mirror2, columns: 2), .refused,
                "needs 4 disks, 2 are present"
            ),
            (
                Request(name: "x", sizeBytes: 1 << 20, resiliency: .parity1), .refused,
                "needs 3 disks, 2 are present"
            ),
            (
                Request(name: "x", sizeBytes: 1 << 20, resiliency: .parity2, columns: 3), .refused,
                "at least 4 are needed"
            ),
            (
                Request(name: "x", sizeBytes: 1 << 40, resiliency: .simple, provisioning: .fixed),
                .refused, "room"
            ),
            (
                Request(name: "x", sizeBytes: 1 << 20, resiliency: .simple, ssdTierBytes: 1),
                .notInThisVersion, "tiers"
            ),
            (
                Request(name: "x", sizeBytes: 1 << 20, resiliency: .simple, interleaveBytes: 5),
                .refused, "interleave"
            ),
            (
                Request(
                    name: "x", sizeBytes: 1 << 20, resiliency: .simple, interleaveBytes: .max),
                .refused, "interleave"
            ),
            (
                Request(name: "x", sizeBytes: 1 << 20, resiliency: .simple, columns: -1), .invalid,
                "columns"
            ),
            (
                Request(name: "x", sizeBytes: 1 << 20, resiliency: .simple, columns: 65_535),
                .refused, ""
            ),
            (Request(name: "../x", sizeBytes: 1 << 20, resiliency: .simple), .invalid, "name"),
        ]
        for (request, kind, part) in refused {
            let failure = fixture.refusal { _ = try fixture.createSpace("tank", request) }
            #expect(failure?.kind == kind, "\(request)")
            #expect(failure?.what.contains(part) == true || part.isEmpty, "\(request)")
            #expect(failure?.hint.isEmpty == false)
        }
        #expect(try fixture.pool("tank") == before)
        let misspelt = fixture.refusal { _ = try fixture.pool("tnak") }
        #expect(misspelt?.hint == "did you mean 'tank'?")
    }

    @Test func disksThatHoldSomethingTakeForce() throws {
        let fixture = try Fixture()
        // An ext4 superblock's magic, where it lies.
        let path = fixture.disk("old")
        try Data().write(to: URL(fileURLWithPath: path))
        let file = try #require(FileHandle(forUpdatingAtPath: path))
        try file.truncate(atOffset: 1 << 30)
        try file.seek(toOffset: 1024 + 0x38)
        try file.write(contentsOf: Data([0x53, 0xEF]))
        try file.close()
        let failure = fixture.refusal { _ = try fixture.createPool("tank", ["new", "old"]) }
        #expect(failure?.what.contains("file system") == true, "\(failure?.what ?? "nothing")")
        #expect(failure?.hint.contains("--force") == true)
        #expect(!FileManager.default.fileExists(atPath: fixture.disk("new")))
        #expect(
            fixture.refusal { _ = try fixture.createPool("tank", ["x", "x"]) }?.what
                .contains("twice") == true)
        #expect(!FileManager.default.fileExists(atPath: fixture.disk("x")))
    }

    /// Runs a verb as it is typed.
    private func poolctl(_ fixture: Fixture, _ arguments: [String]) -> ControlFailure? {
        fixture.refusal {
            var command = try Poolctl.parseAsRoot(arguments + ["--dir", fixture.directory])
            try command.run()
        }
    }

    @Test func mistakesAboutDisksAndJobsAreRefusedAndChangeNothing() throws {
        let fixture = try Fixture()
        _ = try fixture.createPool("tank", ["a", "b"])
        _ = try fixture.createPool("other", ["c"])
        _ = try fixture.createSpace("tank", Self.space)
        let before = try fixture.pool("tank")
        let new = fixture.disk("new")
        let refused: [([String], ControlFailure.Kind, String)] = [
            (["pool", "scrub", "tnak"], .notFound, "tnak"),
            (["pool", "rebalance", "tnak", "--wait"], .notFound, "tnak"),
            (["pool", "repair", "tnak", "--wait"], .notFound, "tnak"),
            (["disk", "offline", "tnak", "disk1"], .notFound, "tnak"),
            (["disk", "online", "tnak", "disk1"], .notFound, "tnak"),
            (["disk", "retire", "tnak", "disk1"], .notFound, "tnak"),
            (["disk", "replace", "tnak", "disk1", new], .notFound, "tnak"),
            (["disk", "offline", "tank", "disk7"], .notFound, "no disk disk7"),
            (["disk", "online", "tank", "disk7"], .notFound, "no disk disk7"),
            (["disk", "retire", "tank", fixture.disk("c")], .notFound, "no disk"),
            (["disk", "replace", "tank", "disk7", new], .notFound, "no disk disk7"),
            (["disk", "replace", "tank", "disk1", new], .refused, new),
            (
                ["disk", "replace", "tank", "disk1", fixture.disk("c"), "--force"], .refused,
                "belongs to pool other"
            ),
            (
                ["disk", "replace", "tank", "disk1", fixture.disk("b")], .refused,
                "belongs to pool tank"
            ),
            (
                ["disk", "replace", "tank", "disk1", new, "--create-size", "1M"], .refused,
                "too small"
            ),
            (["disk", "replace", "tank", "disk1", "/dev/null"], .refused, "/dev/null"),
        ]
        for (arguments, kind, part) in refused {
            let failure = poolctl(fixture, arguments)
            #expect(failure?.kind == kind, "\(arguments): \(failure?.what ?? "nothing")")
            #expect(failure?.what.contains(part) == true, "\(failure?.what ?? "nothing")")
            #expect(failure?.hint.isEmpty == false)
        }
        #expect(!FileManager.default.fileExists(atPath: new))
        let rate = fixture.refusal {
            _ = try fixture.client.send(
                .poolScrub("tank"), ScrubRequest(.start, bytesPerSecond: 0),
                expecting: JobAnswer.self)
        }
        #expect(rate?.kind == .invalid && rate?.hint.contains("--pause") == true)
        #expect(try fixture.pool("tank") == before)
    }

    /// What the engine declines arrives as it is said, and nothing has changed.
    @Test func whatTheEngineRefusesIsRefused() throws {
        let fixture = try Fixture()
        _ = try fixture.createPool("tank", ["a", "b"])
        _ = try fixture.createSpace(
            "tank",
            SpaceCreateRequest(
                name: "plain", sizeBytes: 512 << 20, resiliency: .simple, provisioning: .fixed))
        let before = try fixture.pool("tank")
        for arguments in [
            ["disk", "offline", "tank", "disk1"], ["pool", "scrub", "tank", "--pause"],
            ["pool", "scrub", "tank", "--resume"],
        ] {
            let failure = poolctl(fixture, arguments)
            #expect(failure?.what.isEmpty == false && failure?.hint.isEmpty == false)
            #expect(failure?.kind != .notFound && failure?.kind != .invalid, "\(arguments)")
        }
        fixture.daemon?.lookAgain()
        #expect(try fixture.pool("tank") == before)
    }

    @Test func aDiskThatIsOnlineStaysAsItIs() throws {
        let fixture = try Fixture()
        let pool = try fixture.createPool("tank", ["a", "b"])
        for disk in ["disk1", pool.disks[0].uuid.uppercased(), fixture.disk("a")] {
            let list = try fixture.client.send(
                .diskOnline("tank"), DiskOnlineRequest(disk: disk), expecting: DiskList.self)
            #expect(list.disks == pool.disks)
        }
        let jobs = try fixture.client.send(.jobList("tank"), expecting: JobList.self)
        #expect(jobs.pool == "tank" && jobs.jobs.isEmpty)
    }

    /// Whatever the engine makes of it, what it does not have is nobody's afterwards.
    @Test func aDiskThatIsReplacedOrNotTakenIsLetGoOf() throws {
        let fixture = try Fixture()
        _ = try fixture.createPool("tank", ["a", "b", "c"])
        _ = try fixture.createSpace("tank", Self.space)
        let new = fixture.disk("new")
        let free: String
        do {
            var command = try Poolctl.parseAsRoot([
                "disk", "replace", "tank", "disk1", new, "--create-size", "1G", "--wait", "--json",
                "--dir", fixture.directory,
            ])
            try command.run()
            fixture.daemon?.lookAgain()
            #expect(try fixture.pool("tank").disks.map(\.path).contains(new))
            free = "a"
        } catch is ControlFailure {
            #expect(!FileManager.default.fileExists(atPath: new))
            #expect(try fixture.pool("tank").disks.map(\.name) == ["disk1", "disk2", "disk3"])
            free = "new"
        }
        let deadline = ContinuousClock.now + .seconds(20)
        let request = PoolCreateRequest(
            name: "next", disks: [DiskChoice(path: fixture.disk(free))],
            createSizeBytes: 1 << 30, force: true)
        while ContinuousClock.now < deadline {
            let made = try? fixture.client.send(
                .poolCreate, request, expecting: PoolControl.PoolStatus.self)
            if made != nil { break }
            usleep(20_000)
        }
        #expect(try fixture.pool("next").disks.map(\.path) == [fixture.disk(free)])
    }

    @Test func howPoolsHealIsChosen() throws {
        let fixture = try Fixture()
        _ = try fixture.createPool("tank", ["a", "b"])
        let set = { (value: String) throws in
            try fixture.client.send(
                .poolSet("tank"), SettingsRequest(changes: [SettingText.change(value)]),
                expecting: SettingList.self
            ).settings.dropFirst(2).map { "\($0.key)=\($0.value)/\($0.default)" }
        }
        #expect(
            try set("repair_delay=7200") == ["repair_delay=2h/5m", "repair_priority=normal/normal"])
        #expect(try set("repair_delay=90s").first == "repair_delay=90s/5m")
        #expect(try set("repair_priority=low").last == "repair_priority=low/normal")
        #expect(try set("repair_priority=default").last == "repair_priority=normal/normal")
        #expect(try set("repair_delay=default").first == "repair_delay=5m/5m")
        for value in ["repair_delay=soon", "repair_delay=", "repair_delay=-5", "repair_delay=5d"] {
            let failure = fixture.refusal { _ = try set(value) }
            #expect(failure?.kind == .invalid && failure?.hint.contains("5m") == true)
        }
        let failure = fixture.refusal { _ = try set("repair_priority=urgent") }
        #expect(failure?.hint == "use low or normal or high")
    }

    @Test func whatIsDestroyedIsGoneAndItsDisksAreFree() throws {
        let fixture = try Fixture()
        _ = try fixture.createPool("tank", ["a", "b"])
        _ = try fixture.createSpace("tank", Self.space)
        let path = try SpacePath("tank/vm")
        _ = try fixture.client.send(.spaceDestroy(path), expecting: Outcome.self)
        #expect(try fixture.pool("tank").spaces.isEmpty)
        _ = try fixture.client.send(.poolDestroy("tank"), expecting: Outcome.self)
        let again = try fixture.createPool("tank2", ["b", "a"])
        #expect(again.health == .healthy)
        let grown = try fixture.client.send(
            .poolAdd("tank2"),
            PoolAddRequest(
                disks: [DiskChoice(path: fixture.disk("c"), media: .ssd)],
                createSizeBytes: 1 << 30, force: false),
            expecting: PoolControl.PoolStatus.self)
        #expect(grown.disks.count == 3 && grown.capacityBytes > again.capacityBytes)
        #expect(grown.disks.last?.media == .ssd)
    }
}
