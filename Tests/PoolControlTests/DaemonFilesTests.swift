import Foundation
import Logging
import PoolControl
import PoolFormat
import Testing

@testable import PoolDaemon

/// A folder that goes away with its test.
struct TemporaryFolder: ~Copyable {
    let path = "/tmp/poold-test-\(UUID().uuidString.prefix(8))"
    deinit { try? FileManager.default.removeItem(atPath: path) }
}

@Suite struct DaemonFilesTests {
    @Test(arguments: [
        ("unix:/run/nbd.sock", NBDAddress.unix(path: "/run/nbd.sock")),
        ("tcp:127.0.0.1:10809", .tcp(host: "127.0.0.1", port: 10809)),
        ("tcp:[::1]:1", .tcp(host: "::1", port: 1)), ("tcp:h:65535", .tcp(host: "h", port: 65535)),
    ])
    func addressesReadBack(_ text: String, _ address: NBDAddress) throws {
        #expect(try NBDAddress(text) == address)
        #expect(address.description == text)
    }

    @Test(arguments: [
        "", "unix:", "unix:nbd.sock", "tcp:", "tcp:host", "tcp:host:", "tcp::1", "tcp:h:0",
        "tcp:h:65536", "tcp:h:-1", "tcp:h:x", "udp:h:1",
        "unix:/" + String(repeating: "x", count: 107),
    ])
    func otherAddressesAreRefused(_ text: String) {
        #expect(throws: ControlFailure.self) { try NBDAddress(text) }
    }

    @Test(arguments: [
        ("tcp:127.0.0.1:1", true), ("tcp:[::1]:1", true), ("tcp:localhost:1", true),
        ("unix:/x", true), ("tcp:0.0.0.0:1", false), ("tcp:[::]:1", false),
        ("tcp:10.0.0.1:1", false),
    ])
    func loopbackIsKnown(_ text: String, _ isLocal: Bool) throws {
        #expect(try NBDAddress(text).isLocal == isLocal)
    }

    @Test func aConfigurationFileIsLinesOfOptions() throws {
        let text = "# comment\n\n dir = /srv/poold \nnbd=unix:/a\nnbd = tcp:h:1\r\n"
        let file = try ConfigurationFile(text, options: ["dir", "nbd"], file: "f")
        #expect(file.values("dir") == ["/srv/poold"])
        #expect(file.values("nbd") == ["unix:/a", "tcp:h:1"])
        let failure = #expect(throws: ControlFailure.self) {
            try ConfigurationFile("dir = /a\ndri = /b", options: ["dir", "nbd"], file: "f")
        }
        #expect(failure?.what == "f:2: there is no option 'dri'")
        #expect(failure?.hint == "did you mean 'dir'?")
        #expect(throws: ControlFailure.self) {
            try ConfigurationFile("dir", options: ["dir"], file: "f")
        }
    }

    @Test func identitiesReadBack() {
        let uuid = PoolUUID(high: 0x0123_4567_89ab_cdef, low: 1)
        #expect(UUIDText.format(uuid) == "01234567-89ab-cdef-0000-000000000001")
        #expect(UUIDText.parse("01234567-89AB-cdef-0000-000000000001") == uuid)
        for text in [
            "", "0123456789abcdef0000000000000001", "+1234567-89ab-cdef-0000-000000000001",
            "01234567-89ab-cdef-0000-00000000000g", "01234567-89ab-cdef-0000-0000000000011",
        ] {
            #expect(UUIDText.parse(text) == nil)
        }
        let random = UUIDText.format(UUIDText.random())
        #expect(UUIDText.parse(random).map(UUIDText.format) == random)
        #expect(Array(random)[14] == "4" && "89ab".contains(Array(random)[19]))
    }

    @Test func aFolderHasOneDaemon() throws {
        let folder = TemporaryFolder()
        let directory = try DaemonDirectory(path: folder.path + "/a/b")
        #expect(FileManager.default.fileExists(atPath: directory.witnessFolder))
        let failure = #expect(throws: ControlFailure.self) {
            try DaemonDirectory(path: folder.path + "/a/b")
        }
        #expect(failure?.what.contains("another poold") == true)
    }

    @Test func theWitnessNeverGoesBack() throws {
        let folder = TemporaryFolder()
        let store = WitnessStore(directory: try DaemonDirectory(path: folder.path))
        let pool = UUIDText.random()
        #expect(try store.read(pool) == nil)
        let version = ConfigurationVersion(poolEpoch: 3, sequence: 9)
        try store.record(version, of: pool)
        #expect(try store.read(pool) == version)
        #expect(throws: ControlFailure.self) {
            try store.record(ConfigurationVersion(poolEpoch: 2, sequence: 10), of: pool)
        }
        try store.record(version, of: pool)
        #expect(try store.read(pool) == version)
        try store.forget(pool)
        #expect(try store.read(pool) == nil)
    }

    @Test(arguments: ["", "1", "1 2 3", "x y", "-1 2"])
    func aDamagedWitnessIsNoWitness(_ content: String) throws {
        let folder = TemporaryFolder()
        let directory = try DaemonDirectory(path: folder.path)
        let pool = UUIDText.random()
        try DurableFile.replace(directory.witnessFile(pool), with: Data(content.utf8))
        #expect(throws: ControlFailure.self) { try WitnessStore(directory: directory).read(pool) }
    }

    @Test func knownPoolsReadBackAndDamageIsTold() throws {
        let folder = TemporaryFolder()
        let directory = try DaemonDirectory(path: folder.path)
        #expect(try KnownPools.load(directory.knownPools).pools.isEmpty)
        var known = KnownPools()
        for name in ["b", "a"] {
            known.put(
                KnownPools.Pool(
                    name: name, uuid: "u\(name)",
                    disks: [
                        KnownPools.Disk(
                            number: 1, uuid: "d", path: "/d", media: .ssd, sizeBytes: 5)
                    ]))
        }
        try known.save(directory.knownPools)
        #expect(try KnownPools.load(directory.knownPools) == known)
        #expect(known.pools.map(\.name) == ["a", "b"])
        known.remove(uuid: "ua")
        #expect(known.pools.map(\.name) == ["b"])
        try DurableFile.replace(directory.knownPools, with: Data("{\"version\":1".utf8))
        #expect(throws: ControlFailure.self) { try KnownPools.load(directory.knownPools) }
    }
}

/// What a killed daemon finds of itself.
@Suite struct RestartFolderTests {
    private static let owner = RestartLog.Owner(
        pool: PoolUUID(high: 1, low: 2), lineage: Lineage(3))
    private static let name = "00000000-0000-0001-0000-000000000002.3"

    private func open(_ folder: borrowing TemporaryFolder) throws -> RestartFolder {
        try FileManager.default.createDirectory(
            atPath: folder.path, withIntermediateDirectories: true)
        return RestartFolder(path: folder.path, logger: Logger(label: "test"))
    }

    /// The first and the last bytes of the space's region, after setting them where asked.
    private func ends(
        _ folder: RestartFolder, bytes: Int = 64 << 10, set: UInt8? = nil
    ) -> [UInt8]? {
        guard let region = unsafe folder.region(of: Self.owner, bytes: bytes) else { return nil }
        if let set {
            unsafe region[0] = set
            unsafe region[bytes - 1] = set
        }
        return unsafe [region[0], region[bytes - 1]]
    }

    @Test func aRegionOutlivesWhoeverMadeIt() throws {
        let folder = TemporaryFolder()
        #expect(ends(try open(folder), set: 7) == [7, 7])
        let next = try open(folder)
        #expect(ends(next) == [7, 7])
        next.discard(Self.owner)
        #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path) == [])
        #expect(ends(next) == [0, 0])
    }

    @Test func oneOfAnotherStartOfTheMachineIsGone() throws {
        let folder = TemporaryFolder()
        #expect(ends(try open(folder), set: 7) == [7, 7])
        let path = "\(folder.path)/\(Self.name)"
        let file = try #require(FileHandle(forUpdatingAtPath: path))
        try file.seek(toOffset: 16)
        try file.write(contentsOf: Data("xyz".utf8))
        try file.close()
        let next = try open(folder)
        #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path) == [])
        #expect(ends(next) == [0, 0])
    }

    @Test func oneOfAnotherSizeBeginsAnew() throws {
        let folder = TemporaryFolder()
        #expect(ends(try open(folder), set: 7) == [7, 7])
        #expect(ends(try open(folder), bytes: 32 << 10) == [0, 0])
    }

    @Test func whatCannotBeMadeIsDoneWithout() throws {
        let folder = TemporaryFolder()
        let files = try open(folder)
        try FileManager.default.createDirectory(
            atPath: "\(folder.path)/\(Self.name)", withIntermediateDirectories: false)
        #expect(ends(files) == nil)
    }
}
