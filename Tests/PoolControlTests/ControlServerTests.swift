import Foundation
import Logging
import NIOPosix
import PoolControl
import Testing

@testable import PoolDaemon
@testable import poolctl

/// The two ends of the control protocol against each other, and against bytes nobody sane sends.
@Suite struct ControlServerTests {
    /// Answers with what it was asked.
    struct Echo: ControlService {
        func answer(_ route: ControlProtocol.Route, _ body: Data) throws(ControlFailure) -> Data {
            guard route != .poolExport("missing") else {
                throw ControlFailure(.notFound, "no pool missing", hint: "try another")
            }
            let text = "\(route.method) \(route.path) \(body.count)"
            do {
                return try ControlJSON.encode(Outcome(done: text))
            } catch {
                throw ControlFailure(.failed, "\(error)", hint: "")
            }
        }
    }

    private func withServer(_ body: (String) throws -> Void) throws {
        let folder = TemporaryFolder()
        let directory = try DaemonDirectory(path: folder.path)
        let changes = NIOThreadPool(numberOfThreads: 1)
        changes.start()
        let server = try ControlServer(
            path: directory.controlSocket, service: Echo(), changes: changes,
            logger: Logger(label: "test"))
        defer {
            server.stop(within: 5)
            try? changes.syncShutdownGracefully()
        }
        try body(folder.path)
    }

    @Test func requestsAndFailuresArrive() throws {
        try withServer { directory in
            let client = ControlClient(directory: directory)
            let outcome = try client.send(.poolExport("tank"), expecting: Outcome.self)
            #expect(outcome.done == "POST /v1/pools/tank/export 0")
            let created = try client.send(
                .poolCreate, PoolImportRequest(disks: [], force: false), expecting: Outcome.self)
            #expect(created.done == "POST /v1/pools 38")
            let failure = #expect(throws: ControlFailure.self) {
                try client.send(.poolExport("missing"), expecting: Outcome.self)
            }
            #expect(failure == ControlFailure(.notFound, "no pool missing", hint: "try another"))
        }
    }

    @Test func theSocketIsForRootTheUserAndTheGroup() throws {
        try withServer { directory in
            var status = stat()
            #expect(unsafe stat(directory + "/control.sock", &status) == 0)
            #expect(status.st_mode & 0o777 == 0o660)
            #expect(unsafe stat(directory, &status) == 0)
            #expect(status.st_mode & 0o777 == 0o750)
        }
    }

    @Test(arguments: [
        ("GET /v2/pools HTTP/1.1\r\nHost: x\r\n\r\n", "400"),
        ("GET /v1/nothing HTTP/1.1\r\nHost: x\r\n\r\n", "404"),
        ("POST /v1/pools HTTP/1.1\r\nHost: x\r\nContent-Length: 1048577\r\n\r\n", "413"),
        ("GET /v1/pools HTTP/1.1\r\nHost: x\r\n\r\nGET /v1/pools HTTP/1.1\r\n\r\n", "200"),
        ("\u{0}\u{1}\u{2}\r\n\r\n", "400"),
        ("GET /" + String(repeating: "a", count: 200_000), ""),
    ])
    func strangeBytesAreAnsweredOrCutOff(_ sent: String, _ status: String) throws {
        try withServer { directory in
            let answer = try RawClient.exchange(directory + "/control.sock", Array(sent.utf8))
            #expect(answer.contains("HTTP/1.1 \(status)") || status.isEmpty, "\(answer)")
            // Whatever came before, the next one is served.
            let outcome = try ControlClient(directory: directory)
                .send(.poolList, expecting: Outcome.self)
            #expect(outcome.done == "GET /v1/pools 0")
        }
    }
}

/// Sends bytes, ends its side, and takes what comes until the other side ends.
enum RawClient {
    struct Failure: Error { var code: Int32 }

    static func exchange(_ path: String, _ bytes: [UInt8]) throws -> String {
        let file = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        guard file >= 0 else { throw Failure(code: errno) }
        defer { close(file) }
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        unsafe withUnsafeMutableBytes(of: &address.sun_path) {
            unsafe $0.copyBytes(from: Array(path.utf8))
        }
        let connected = unsafe withUnsafePointer(to: &address) {
            unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe connect(file, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        guard connected == 0 else { throw Failure(code: errno) }
        // Guards against a hang, on however busy a machine.
        var patience = timeval(tv_sec: 60, tv_usec: 0)
        let length = socklen_t(MemoryLayout<timeval>.size)
        _ = unsafe setsockopt(file, SOL_SOCKET, SO_RCVTIMEO, &patience, length)
        _ = unsafe send(file, bytes, bytes.count, Int32(MSG_NOSIGNAL))
        var received: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 4096)
        while true {
            let count = unsafe recv(file, &chunk, chunk.count, 0)
            guard count > 0 else { break }
            received += chunk[..<count]
        }
        return String(decoding: received, as: UTF8.self)
    }
}
