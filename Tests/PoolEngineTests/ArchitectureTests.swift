import Foundation
import Testing

/// The architecture article is what a newcomer reads first: what it names has to be there.
struct ArchitectureTests {
    private static let root = URL(filePath: #filePath)
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()

    @Test func everyFileItNamesExists() throws {
        let article = Self.root.appending(
            path: "Sources/PoolEngine/PoolEngine.docc/Architecture.md")
        let text = try String(contentsOf: article, encoding: .utf8)
        let named = text.split(separator: "`").map(String.init).filter { word in
            !word.contains(" ") && !word.contains("\n")
                && (word.hasSuffix(".swift") || word.hasPrefix("Sources/")
                    || word.hasPrefix("Tests/"))
        }
        #expect(named.count > 15)
        for name in named {
            let inRoot = Self.root.appending(path: name).path
            let inEngine = Self.root.appending(path: "Sources/PoolEngine/\(name)").path
            #expect(
                FileManager.default.fileExists(atPath: inRoot)
                    || FileManager.default.fileExists(atPath: inEngine),
                "\(name) is named and does not exist")
        }
    }
}
