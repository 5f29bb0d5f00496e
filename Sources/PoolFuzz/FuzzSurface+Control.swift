import Foundation
import PoolControl

/// What a control client sends.
extension FuzzSurface {
    /// Input: a byte that chooses the message, then its JSON.
    func runMessage(_ reader: inout InputReader) throws(FuzzFinding) -> Bool {
        let choice = reader.u8()
        let json = Data(reader.rest())
        switch choice % 12 {
        case 0: return try readBack(PoolCreateRequest.self, json)
        case 1: return try readBack(PoolAddRequest.self, json)
        case 2: return try readBack(PoolImportRequest.self, json)
        case 3: return try readBack(SpaceCreateRequest.self, json)
        case 4: return try readBack(FailureMessage.self, json)
        case 5: return try readBack(PoolStatus.self, json)
        case 6: return try readBack(SpaceStatus.self, json)
        case 7: return try readBack(DaemonInfo.self, json)
        case 8: return try readBack(DiskOfflineRequest.self, json)
        case 9: return try readBack(DiskReplaceRequest.self, json)
        case 10: return try readBack(ScrubRequest.self, json)
        default: return try readBack(JobList.self, json)
        }
    }

    private func readBack<M: ControlMessage & Equatable>(
        _ type: M.Type, _ json: Data
    ) throws(FuzzFinding) -> Bool {
        let message: M
        do throws(ControlFailure) {
            message = try ControlJSON.decode(type, from: json)
        } catch {
            return try refused(error)
        }
        guard let again = try? ControlJSON.encode(message) else {
            throw FuzzFinding("a \(type) can be read and not be written")
        }
        try promise(
            (try? ControlJSON.decode(type, from: again)) == message,
            "a \(type) reads back as another")
        return true
    }

    /// Input: a byte that chooses, then the text.
    func runWords(_ reader: inout InputReader) throws(FuzzFinding) -> Bool {
        let choice = reader.u8()
        let text = reader.restText()
        switch choice % 5 {
        case 0: return try runRoute(text)
        case 1: return try runSize(text)
        case 2: return try runSpacePath(text)
        case 3:
            do throws(ControlFailure) { try NameRules.check(text, "pool") } catch {
                return try refused(error)
            }
            try promise(text.utf8.count <= NameRules.maximumBytes, "a long name is accepted")
        default:
            _ = Nearest.match(text, among: ["tank", "vm1", text])
            try checkText(NameRules.printable(text))
        }
        return true
    }

    private func runRoute(_ text: String) throws(FuzzFinding) -> Bool {
        let words = text.split(separator: " ", maxSplits: 1).map(String.init)
        let route: ControlProtocol.Route
        let again: ControlProtocol.Route
        do throws(ControlFailure) {
            route = try ControlProtocol.Route(
                method: words.first ?? "", path: words.count > 1 ? words[1] : "")
        } catch {
            return try refused(error)
        }
        do throws(ControlFailure) {
            again = try ControlProtocol.Route(method: route.method, path: route.path)
        } catch {
            throw FuzzFinding("\(route) cannot be read back: \(error.what)")
        }
        try promise(again == route, "\(route) reads back as \(again)")
        return true
    }

    private func runSize(_ text: String) throws(FuzzFinding) -> Bool {
        guard let bytes = try? SizeText.parse(text) else { return false }
        let again = try? SizeText.parse(SizeText.exact(bytes))
        try promise(again == bytes, "\(bytes) bytes read back as another size")
        try checkText(SizeText.format(bytes))
        return true
    }

    private func runSpacePath(_ text: String) throws(FuzzFinding) -> Bool {
        let path: SpacePath
        do throws(ControlFailure) { path = try SpacePath(text) } catch {
            return try refused(error)
        }
        try promise((try? SpacePath(path.description)) == path, "'\(path)' reads back as another")
        return true
    }

    private func refused(_ failure: ControlFailure) throws(FuzzFinding) -> Bool {
        try checkText(failure.what)
        try checkText(failure.hint)
        return false
    }

    /// What is told to people stays on its line, and is not as long as somebody wishes.
    private func checkText(_ text: String) throws(FuzzFinding) {
        try promise(text.utf8.count <= 16 << 10, "a message of \(text.utf8.count) bytes")
        let clean = text.unicodeScalars.allSatisfy { $0.value >= 32 && $0.value != 127 }
        try promise(clean, "a message with control characters")
    }
}
