import Foundation
import Testing

/// A pool `demo` whose disks come to harm, seen from outside.
extension Machine {
    func disk(_ name: String) throws -> JSON {
        let disks = try json("disk", "ls", "demo")["disks"]?.elements ?? []
        return try #require(disks.first { $0["name"] == .text(name) }, "no \(name) in \(disks)")
    }

    func errors(_ kind: String, of name: String) throws -> Int64 {
        try #require(try disk(name)["errors"]?[kind]?.asInteger)
    }

    func waitUntil(
        _ name: String, is state: String, within seconds: Double = 60,
        sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        let isSo = try eventually(within: seconds) {
            try disk(name)["state"] == .text(state)
        }
        let said = try poolctl(["pool", "status", "demo"]).output
        try #require(
            isSo, "\(name) is not \(state)\n\(said)\n\(log.suffix(2000))",
            sourceLocation: sourceLocation)
    }

    func disks(of kind: Redundancy) throws -> [JSON] { try kind.disks.map { try disk($0) } }

    /// Wherever it is, it is online again in the end; it may have come back by itself.
    func comesBack(_ name: String, sourceLocation: SourceLocation = #_sourceLocation) throws {
        try control("disk", "online", "demo", name, sourceLocation: sourceLocation)
        try waitUntil(name, is: "online", sourceLocation: sourceLocation)
    }

    /// Every disk counts, and every space is as redundant as it can be.
    func waitUntilHealthy(
        within seconds: Double = 60, sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        let isSo = try eventually(within: seconds) {
            let pool = try json("pool", "status", "demo")
            let disks = pool["disks"]?.elements ?? []
            return pool["health"] == .text("healthy")
                && disks.allSatisfy { $0["state"] == .text("online") }
        }
        let said = try poolctl(["pool", "status", "demo"]).output
        try #require(
            isSo, "not healthy\n\(said)\n\(log.suffix(2000))", sourceLocation: sourceLocation)
    }

    /// Takes away as many disks as may go, each once or more, and has `load` read everything.
    ///
    /// - Parameter restarting: the daemon is killed in between, so that the metadata, too, comes
    ///   from there.
    func pullAllThatMayGo(
        _ kind: Redundancy, _ load: Load, restarting: Bool = false,
        sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        try waitUntilHealthy(sourceLocation: sourceLocation)
        for index in kind.disks.indices {
            let pulled = (1...kind.tolerance).map { kind.disks[(index + $0) % kind.diskCount] }
            for disk in pulled { try control("disk", "offline", "demo", disk) }
            if restarting {
                try load.say("pause", sourceLocation: sourceLocation)
                kill9()
                try start()
            }
            try load.say("check", sourceLocation: sourceLocation)
            for disk in pulled { try control("disk", "online", "demo", disk) }
            try waitUntilHealthy(sourceLocation: sourceLocation)
        }
        try load.say("check", sourceLocation: sourceLocation)
    }

    /// What every look at the pool prints; none of its lines is too long for a terminal.
    @discardableResult
    func looks(
        at space: String = "demo/files", sourceLocation: SourceLocation = #_sourceLocation
    ) throws -> String {
        var everything = ""
        for verb in ["pool status demo", "disk ls demo", "space status \(space)", "explain \(space)"] {
            let said = try poolctl(verb.split(separator: " ").map(String.init))
            #expect(said.status == 0, "\(verb): \(said.everything)", sourceLocation: sourceLocation)
            for line in said.output.split(separator: "\n") where line.count > 80 {
                Issue.record("\(verb): \(line.count) columns: \(line)", sourceLocation: sourceLocation)
            }
            everything += said.output
        }
        return everything
    }

    /// That what is said of a space agrees, wherever it is said: its health, why, and what to do.
    func expectHealth(
        _ health: String, because reason: String, action: String, of space: String = "demo/files",
        sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        let status = try json("space", "status", space)
        let explained = try json("explain", space)
        let pool = try json("pool", "status", "demo")
        for said in [status, explained] {
            #expect(said["health"] == .text(health), "\(said)", sourceLocation: sourceLocation)
            #expect(
                said["reason"]?.asText?.contains(reason) == true, "\(said)",
                sourceLocation: sourceLocation)
            #expect(
                said["action"]?.asText?.contains(action) == true, "\(said)",
                sourceLocation: sourceLocation)
        }
        #expect(pool["health"] == .text(health), "\(pool)", sourceLocation: sourceLocation)
        #expect(
            pool["reason"]?.asText?.contains(reason) == true, "\(pool)",
            sourceLocation: sourceLocation)
    }
}
