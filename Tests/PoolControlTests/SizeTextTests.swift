import PoolControl
import Testing

@Suite struct SizeTextTests {
    static let sizes: [(String, UInt64)] = [
        ("0", 0), ("1", 1), ("4096", 4096), ("1K", 1 << 10), ("1k", 1 << 10), ("8M", 8 << 20),
        ("8G", 8 << 30), ("8GiB", 8 << 30), ("3T", 3 << 40), ("007", 7),
        ("9223372036854775807", UInt64(Int64.max)), ("8388607T", 8_388_607 << 40),
    ]

    @Test(arguments: sizes)
    func reads(_ text: String, _ bytes: UInt64) throws {
        #expect(try SizeText.parse(text) == bytes)
    }

    static let malformed: [(String, SizeText.ParseError)] = [
        ("", .empty), ("G", .notANumber("G")), ("-1", .notANumber("-1")),
        ("+1", .notANumber("+1")), (" 1", .notANumber(" 1")), ("1.5G", .notANumber("1.5G")),
        ("0x10", .unknownUnit("x10")), ("1GB", .unknownUnit("GB")), ("1X", .unknownUnit("X")),
        ("1 G", .unknownUnit(" G")), ("1iB", .unknownUnit("iB")), ("1P", .unknownUnit("P")),
        ("9223372036854775808", .tooLarge("9223372036854775808")),
        ("8388608T", .tooLarge("8388608T")),
        ("99999999999999999999", .tooLarge("99999999999999999999")),
        ("18014398509481984K", .tooLarge("18014398509481984K")), ("٣", .notANumber("٣")),
    ]

    @Test(arguments: malformed)
    func refuses(_ text: String, _ error: SizeText.ParseError) {
        #expect(throws: error) { try SizeText.parse(text) }
    }

    static let texts: [(UInt64, String)] = [
        (0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (8 << 30, "8 GiB"),
        ((8 << 30) - 1, "7.9 GiB"), (1 << 40, "1 TiB"), (1023 << 20, "1023 MiB"),
        (UInt64.max, "16777215 TiB"), (100 << 30 | 1 << 29, "100 GiB"),
    ]

    @Test(arguments: texts)
    func writes(_ bytes: UInt64, _ text: String) {
        #expect(SizeText.format(bytes) == text)
    }

    static let exactTexts: [(UInt64, String)] = [
        (0, "0"), (512, "512"), (1024, "1K"), (2049 << 20, "2049M"), (2 << 30, "2G"),
        ((2 << 30) + 1, "2147483649"), (5 << 40, "5T"),
    ]

    @Test(arguments: exactTexts)
    func exactTextReadsBack(_ bytes: UInt64, _ text: String) throws {
        #expect(SizeText.exact(bytes) == text)
        #expect(try SizeText.parse(text) == bytes)
    }

    static let durations: [(String, UInt32?)] = [
        ("0", 0), ("300", 300), ("90s", 90), ("5m", 300), ("2h", 7200), ("4294967295", .max),
        ("", nil), ("m", nil), ("-1", nil), ("5 m", nil), ("5d", nil), ("1.5h", nil), ("5mm", nil),
        ("5M", nil), ("4294967296", nil), ("1193047h", nil), ("٣", nil),
    ]

    @Test(arguments: durations)
    func durationsAreTyped(_ text: String, _ seconds: UInt32?) {
        #expect(DurationText.parse(text) == seconds)
    }

    @Test(arguments: [(UInt32(0), "0s"), (59, "59s"), (90, "90s"), (300, "5m"), (7200, "2h")])
    func aDurationReadsBack(_ seconds: UInt32, _ text: String) {
        #expect(DurationText.exact(seconds) == text)
        #expect(DurationText.parse(text) == seconds)
    }
}
