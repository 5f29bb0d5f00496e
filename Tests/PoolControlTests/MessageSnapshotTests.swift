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
        sizeBytes: 8, allocatedBytes: 4, errors: DiskErrors(read: 1, write: 2, checksum: 3))
    static let diskJSON = """
        {"allocated_bytes":4,"errors":{"checksum":3,"read":1,"write":2},"media":"hdd",\
        "name":"disk1","path":"/dev/sdb","size_bytes":8,"state":"online","uuid":"0011-22"}
        """
    static let space = SpaceStatus(
        name: "tank/vm1", pool: "tank", sizeBytes: 16, resiliency: .mirror2, provisioning: .thin,
        health: .noRedundancy, reason: "r", action: "a", allocatedBytes: 8, mappedBytes: 4,
        columns: 2, interleaveBytes: 262_144, checksums: true, whenFull: .wait,
        tiers: [TierStatus(media: .hdd, sizeBytes: 16, allocatedBytes: 8)], connections: 3,
        owner: "local", epoch: 7)
    static let spaceJSON = """
        {"action":"a","allocated_bytes":8,"checksums":true,"columns":2,"connections":3,"epoch":7,\
        "health":"no-redundancy","interleave_bytes":262144,"mapped_bytes":4,"name":"tank/vm1",\
        "owner":"local","pool":"tank","provisioning":"thin","reason":"r","resiliency":"mirror2",\
        "size_bytes":16,"tiers":[{"allocated_bytes":8,"media":"hdd","size_bytes":16}],\
        "version":1,"when_full":"wait","write_cache_bytes":0,"write_cache_dirty_bytes":0}
        """
    static let pool = PoolStatus(
        name: "tank", uuid: "u", health: .degraded, reason: "r", action: "a", capacityBytes: 9,
        allocatedBytes: 5, freeBytes: 4, disks: [disk], spaces: [space],
        jobs: [
            JobStatus(
                kind: "rebuild", subject: "disk1", state: "running", progress: 0.5,
                etaSeconds: nil)
        ])
    static let poolJSON = """
        {"action":"a","allocated_bytes":5,"capacity_bytes":9,"disks":[\(diskJSON)],\
        "free_bytes":4,"health":"degraded","jobs":[{"eta_seconds":null,"kind":"rebuild",\
        "progress":0.5,"state":"running","subject":"disk1"}],"name":"tank","reason":"r",\
        "spaces":[\(spaceJSON)],"uuid":"u","version":1}
        """

    @Test func statuses() throws {
        try check(Self.space, Self.spaceJSON)
        try check(Self.pool, Self.poolJSON)
    }

    @Test func lists() throws {
        try check(PoolList(pools: [Self.pool]), #"{"pools":[\#(Self.poolJSON)],"version":1}"#)
        try check(PoolList(pools: []), #"{"pools":[],"version":1}"#)
        try check(SpaceList(spaces: [Self.space]), #"{"spaces":[\#(Self.spaceJSON)],"version":1}"#)
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
