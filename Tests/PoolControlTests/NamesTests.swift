import PoolControl
import Testing

@Suite struct NamesTests {
    @Test(arguments: ["a", "tank", "Tank_1.b-c", "_x", "9", String(repeating: "n", count: 64)])
    func takes(_ name: String) {
        #expect(NameRules.isValid(name))
    }

    @Test(arguments: [
        "", "-x", ".x", "..", "a/b", "a b", "ä", "a\n", "a\0", "a%20", "é",
        String(repeating: "n", count: 65),
    ])
    func refuses(_ name: String) {
        #expect(!NameRules.isValid(name))
        #expect(throws: ControlFailure.self) { try NameRules.check(name, "pool") }
    }

    @Test func aSpacePathIsTwoNames() throws {
        let path = try SpacePath("tank/vm1")
        #expect(path.pool == "tank" && path.space == "vm1" && path.description == "tank/vm1")
    }

    @Test(arguments: ["tank", "tank/", "/vm1", "tank/a/b", "/", "", "tank//a", "-t/a", "tank/.a"])
    func aSpacePathIsNothingElse(_ text: String) {
        #expect(throws: ControlFailure.self) { try SpacePath(text) }
    }

    @Test(arguments: [
        ("tnak", "tank"), ("tan", "tank"), ("TANK", "tank"), ("tankk", "tank"),
        ("bakcup", "backup"),
    ])
    func theNearestNameIsFound(_ typed: String, _ meant: String) {
        #expect(Nearest.match(typed, among: ["backup", "tank", "media"]) == meant)
    }

    @Test(arguments: ["zebra", "", "xxtankxx", String(repeating: "t", count: 5000)])
    func nothingNearIsNothing(_ typed: String) {
        #expect(Nearest.match(typed, among: ["backup", "tank", "media"]) == nil)
    }

    @Test func textFromOutsideCannotSteerATerminal() {
        #expect(NameRules.printable("a\u{1B}[2Jb\n\u{202E}") == "a?[2Jb??")
        #expect(NameRules.printable(String(repeating: "x", count: 100)).count == 83)
    }
}
