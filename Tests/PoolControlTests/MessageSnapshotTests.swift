import Foundation
import PoolControl
import Testing

/// What is on the wire, to the byte: a key that changes its name breaks somebody's script.
@Suite struct MessageSnapshotTests {
    private func check<M: ControlMessage & Equatable>(_ message: M, _ json: String) throws {
        #expect(String(decoding: try ControlJSON.encode(message), as: UTF8.self) == json)
        #expect(try ControlJSON.decode(M.self, from: Data(json.utf8)) == message)
    }

    static let disk = DiskStatus(
        name: "disk1", path: "/dev/sdb", uuid: "0011-22", media: .hdd, state: .online,
        reason: "dr", action: "da", enclosure: "e1", sizeBytes: 8, allocatedBytes: 4, errors: DiskErrors(read: 1, write: 2, checksum: 3))
    static let diskJSON = """
        {"action":"da","allocated_bytes":4,"enclosure":"e1",\
        "errors":{"checksum":3,"read":1,"write":2},"media":"hdd","name":"disk1","node":"",\
        "path":"/dev/sdb","rack":"","reason":"dr","size_bytes":8,"state":"online",\
        "uuid":"0011-22"}
        """
    static let space = SpaceStatus(
        name: "tank/vm1", pool: "tank", sizeBytes: 16, resiliency: .mirror2, provisioning: .thin,
        health: .noRedundancy, reason: "r", action: "a", allocatedBytes: 8, mappedBytes: 4,
        columns: 2, interleaveBytes: 262_144, checksums: true, whenFull: .wait,
        tiers: [TierStatus(media: .hdd, sizeBytes: 16, allocatedBytes: 8)],
        waitingWrites: 2, connections: 3, owner: "local", epoch: 7)
    static let spaceJSON = """
        {"action":"a","allocated_bytes":8,"checksums":true,"columns":2,"connections":3,"epoch":7,\
        "health":"no-redundancy","interleave_bytes":262144,"mapped_bytes":4,"name":"tank/vm1",\
        "owner":"local","pool":"tank","provisioning":"thin","reason":"r","resiliency":"mirror2",\
        "size_bytes":16,"tiers":[{"allocated_bytes":8,"media":"hdd","size_bytes":16}],\
        "version":1,"waiting_writes":2,"when_full":"wait","write_cache_bytes":0,\
        "write_cache_destage_bytes_per_second":0,"write_cache_dirty_bytes":0}
        """
    static let pool = PoolStatus(
        name: "tank", uuid: "u", health: .degraded, reason: "r", action: "a", fill: .notice,
        fillPercent: 71, secondsToFull: 9000, capacityBytes: 9, allocatedBytes: 5, freeBytes: 4,
        disks: [disk], spaces: [space], jobs: [job])
    static let job = JobStatus(
        id: 3, kind: .repair, subject: "disk1", state: .blocked, reason: "jr", action: "ja",
        progress: 0.5)
    static let jobJSON = """
        {"action":"ja","bytes_per_second":null,"done_bytes":0,"eta_seconds":null,"id":3,\
        "kind":"repair","lost_blocks":0,"progress":0.5,"reason":"jr","repaired_blocks":0,\
        "state":"blocked","subject":"disk1","total_bytes":0}
        """
    static let poolJSON = """
        {"action":"a","allocated_bytes":5,"capacity_bytes":9,"disks":[\(diskJSON)],\
        "fill":"notice","fill_percent":71,"free_bytes":4,"health":"degraded",\
        "jobs":[\(jobJSON)],"name":"tank","reason":"r",\
        "seconds_to_full":9000,"spaces":[\(spaceJSON)],"uuid":"u","version":1}
        """

    @Test func statuses() throws {
        try check(Self.space, Self.spaceJSON)
        try check(Self.pool, Self.poolJSON)
    }

    @Test func aForecastThatIsUnknownIsNull() throws {
        var pool = Self.pool
        pool.secondsToFull = nil
        try check(pool, Self.poolJSON.replacing("9000", with: "null"))
    }

    @Test func jobs() throws {
        try check(
            JobList(pool: "tank", jobs: [Self.job], uptimeSeconds: 9),
            #"{"jobs":[\#(Self.jobJSON)],"pool":"tank","uptime_seconds":9,"version":1}"#)
        var job = Self.job
        (job.kind, job.subject, job.state) = (.scrub, "tank", .running)
        (job.reason, job.action, job.progress) = ("", "", 0.25)
        (job.etaSeconds, job.bytesPerSecond) = (60, 5)
        (job.doneBytes, job.totalBytes) = (100, 400)
        (job.repairedBlocks, job.lostBlocks) = (1, 2)
        try check(
            JobAnswer(pool: "tank", job: job, uptimeSeconds: 9),
            """
            {"job":{"action":"","bytes_per_second":5,"done_bytes":100,"eta_seconds":60,"id":3,\
            "kind":"scrub","lost_blocks":2,"progress":0.25,"reason":"","repaired_blocks":1,\
            "state":"running","subject":"tank","total_bytes":400},"pool":"tank",\
            "uptime_seconds":9,"version":1}
            """)
    }

    @Test func theWordsOfJobs() {
        #expect(
            JobKind.allCases.map(\.rawValue)
                == ["resync", "repair", "retire", "replace", "rebalance", "scrub"])
        #expect(
            JobState.allCases.map(\.rawValue)
                == ["waiting", "running", "paused", "blocked", "done", "failed"])
        #expect(JobState.allCases.filter(\.isOver) == [.done, .failed])
    }

    @Test func requestsAboutDisks() throws {
        try check(
            DiskOfflineRequest(disk: "disk1", force: true),
            #"{"disk":"disk1","force":true,"version":1}"#)
        try check(DiskOnlineRequest(disk: "/d1"), #"{"disk":"/d1","version":1}"#)
        try check(DiskRetireRequest(disk: "disk1"), #"{"disk":"disk1","version":1}"#)
        try check(
            DiskReplaceRequest(
                disk: "disk1", new: DiskChoice(path: "/d9"), createSizeBytes: nil, force: false),
            #"{"disk":"disk1","force":false,"new":{"path":"/d9"},"version":1}"#)
        try check(
            DiskReplaceRequest(
                disk: "disk1", new: DiskChoice(path: "/d9", media: .ssd), createSizeBytes: 5,
                force: true),
            """
            {"create_size_bytes":5,"disk":"disk1","force":true,\
            "new":{"media":"ssd","path":"/d9"},"version":1}
            """)
        try check(ScrubRequest(.start), #"{"action":"start","version":1}"#)
        try check(
            ScrubRequest(.resume, bytesPerSecond: 5),
            #"{"action":"resume","bytes_per_second":5,"version":1}"#)
        #expect(ScrubRequest.Action.allCases.map(\.rawValue) == ["start", "pause", "resume"])
    }

    @Test func settingsAndExplanations() throws {
        try check(
            SettingList(
                pool: "tank",
                settings: [Setting(key: "k", value: "v", default: "d", meaning: "m")]),
            """
            {"pool":"tank","settings":[{"default":"d","key":"k","meaning":"m","value":"v"}],\
            "version":1}
            """)
        try check(
            Self.explanation,
            """
            {"action":"","disks":[{"domain":"rack r1","groups":2,"name":"disk1",\
            "reason":"safe","safe_to_pull":true,"state":"online"}],\
            "domains":[{"disks":["disk1"],"name":"rack r1","reason":"lost",\
            "safe_to_lose":false}],"groups":[{"columns":1,"copies":2,\
            "disks":["disk1","disk2"],"id":7,"layout":"mirror2","media":"ssd",\
            "separated":true}],"groups_omitted":1,"health":"healthy","may_fail":"any one disk",\
            "metadata_disks":["disk1","disk2"],"name":"tank/vm1",\
            "placements":[{"columns":[["disk1","disk2"]],"count":2,"groups":"7-8"}],\
            "pool":"tank","reason":"","repairs":[],"resiliency":"mirror2","version":1,\
            "widths":[{"columns":1,"copies":2,"count":2,"efficiency":0.5,"parity":0}],\
            "write_cache_bytes":0,"write_cache_dirty_bytes":0}
            """)
    }

    static let explanation = SpaceExplanation(
        name: "tank/vm1", pool: "tank", resiliency: .mirror2, health: .healthy, reason: "",
        action: "", mayFail: "any one disk",
        groups: [
            .init(
                id: 7, layout: .mirror2, media: .ssd, columns: 1, copies: 2,
                disks: ["disk1", "disk2"], separated: true)
        ], groupsOmitted: 1, widths: [.init(columns: 1, parity: 0, copies: 2, count: 2)],
        placements: [.init(groups: "7-8", count: 2, columns: [["disk1", "disk2"]])],
        metadataDisks: ["disk1", "disk2"],
        disks: [
            .init(
                name: "disk1", state: .online, domain: "rack r1", groups: 2, safeToPull: true,
                reason: "safe")
        ],
        domains: [.init(name: "rack r1", disks: ["disk1"], safeToLose: false, reason: "lost")])

    @Test func idsAreFoldedIntoRanges() {
        #expect(SpaceExplanation.ranges([]) == "")
        #expect(SpaceExplanation.ranges([4]) == "4")
        #expect(SpaceExplanation.ranges([0, 1, 2, 3, 7, 9, 10]) == "0-3,7,9-10")
        #expect(SpaceExplanation.ranges([.max - 1, .max]) == "4294967294-4294967295")
        #expect(SpaceExplanation.ranges([1, 3, 5], limit: 2) == "1,3,...")
    }

    @Test func lists() throws {
        try check(PoolList(pools: [Self.pool]), #"{"pools":[\#(Self.poolJSON)],"version":1}"#)
        try check(PoolList(pools: []), #"{"pools":[],"version":1}"#)
        try check(
            SpaceList(spaces: [Self.space], detachedPools: ["t"]),
            #"{"detached_pools":["t"],"spaces":[\#(Self.spaceJSON)],"version":1}"#)
        try check(
            DiskList(pool: "tank", disks: [Self.disk]),
            #"{"disks":[\#(Self.diskJSON)],"pool":"tank","version":1}"#)
    }

    @Test func requests() throws {
        try check(
            PoolCreateRequest(
                name: "tank",
                disks: [DiskChoice(path: "/d1"), DiskChoice(path: "/d2", media: .ssd)],
                createSizeBytes: 5, force: true),
            """
            {"create_size_bytes":5,"disks":[{"path":"/d1"},{"media":"ssd","path":"/d2"}],\
            "force":true,"name":"tank","version":1}
            """)
        try check(
            PoolAddRequest(disks: [DiskChoice(path: "/d1")], createSizeBytes: nil, force: false),
            #"{"disks":[{"path":"/d1"}],"force":false,"version":1}"#)
        try check(
            PoolImportRequest(disks: ["/d1"], force: false),
            #"{"disks":["/d1"],"force":false,"version":1}"#)
        try check(
            SpaceCreateRequest(name: "vm1", sizeBytes: 16, resiliency: .simple),
            """
            {"checksums":true,"name":"vm1","provisioning":"thin","resiliency":"simple",\
            "size_bytes":16,"version":1,"when_full":"wait"}
            """)
        try check(
            SpaceCreateRequest(
                name: "vm1", sizeBytes: 16, resiliency: .parity1, provisioning: .fixed, columns: 5,
                interleaveBytes: 1, whenFull: .enospc, checksums: false, ssdTierBytes: 2,
                ssdResiliency: .mirror3, writeCacheBytes: 3),
            """
            {"checksums":false,"columns":5,"interleave_bytes":1,"name":"vm1",\
            "provisioning":"fixed","resiliency":"parity1","size_bytes":16,\
            "ssd_resiliency":"mirror3","ssd_tier_bytes":2,"version":1,"when_full":"enospc",\
            "write_cache_bytes":3}
            """)
    }

    @Test func changes() throws {
        let changes = [SettingChange(key: "k", value: "v")]
        try check(
            SettingsRequest(changes: changes),
            #"{"changes":[{"key":"k","value":"v"}],"version":1}"#)
        try check(
            DiskSetRequest(disk: "disk1", changes: changes),
            #"{"changes":[{"key":"k","value":"v"}],"disk":"disk1","version":1}"#)
        try check(
            SpaceResizeRequest(sizeBytes: 5, shrink: true),
            #"{"shrink":true,"size_bytes":5,"version":1}"#)
    }

    @Test func everyKindOfFailure() throws {
        let kinds = [
            "invalid", "not_found", "refused", "not_in_this_version", "failed", "unavailable",
        ]
        #expect(ControlFailure.Kind.allCases.map(\.rawValue) == kinds)
        for kind in ControlFailure.Kind.allCases {
            try check(
                FailureMessage(ControlFailure(kind, "w", hint: "h")),
                #"{"error":{"hint":"h","kind":"\#(kind.rawValue)","what":"w"},"version":1}"#)
        }
    }

    @Test func theRest() throws {
        try check(
            DaemonInfo(
                program: "poold 0.1.0", pid: 1, dir: "/d", engine: "io_uring", shards: 1,
                nbd: ["unix:/d/nbd.sock"], uptimeSeconds: 9),
            """
            {"dir":"/d","engine":"io_uring","nbd":["unix:/d/nbd.sock"],"pid":1,\
            "program":"poold 0.1.0","shards":1,"uptime_seconds":9,"version":1}
            """)
        try check(Outcome(done: "x"), #"{"done":"x","version":1}"#)
        try check(
            FailureMessage(ControlFailure(.notInThisVersion, "w", hint: "h")),
            #"{"error":{"hint":"h","kind":"not_in_this_version","what":"w"},"version":1}"#)
    }

    @Test(arguments: [
        ("", "not JSON"), ("[]", "wrong type"), ("{", "not JSON"), ("{}", "lacks 'version'"),
        (#"{"version":2}"#, "version 2"), (#"{"version":"1"}"#, "'version' has the wrong type"),
        (#"{"version":1}"#, "lacks"),
        (#"{"version":1,"name":7,"disks":[],"force":false}"#, "'name' has the wrong type"),
        (#"{"version":1,"name":"t","disks":[{}],"force":false}"#, "lacks 'disks.[0].path'"),
        (#"{"version":1,"name":"t","disks":[{"path":"/d","media":"tape"}],"force":false}"#,
            "'disks.[0].media' has a value that is not known"),
        (#"{"version":1,"name":"t","disks":[],"create_size_bytes":-1,"force":false}"#,
            "out of range"),
        (#"{"version":1,"name":"t","disks":[],"create_size_bytes":1e99,"force":false}"#,
            "out of range"),
    ])
    func malformedMessagesNameTheKey(_ json: String, _ part: String) {
        let failure = #expect(throws: ControlFailure.self) {
            try ControlJSON.decode(PoolCreateRequest.self, from: Data(json.utf8))
        }
        #expect(failure?.kind == .invalid)
        #expect(failure?.what.contains(part) == true, "\(failure?.what ?? "nothing")")
    }

    @Test func healthIsOrderedFromBestToWorst() {
        #expect(
            Health.allCases.sorted()
                == [.healthy, .degraded, .noRedundancy, .incomplete, .readOnly, .detached])
    }
}
