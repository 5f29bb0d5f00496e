import PoolEngine
import Testing

@testable import PoolNBD

@Suite struct RequestHeaderTests {
    private static let size: UInt64 = 64 << 20
    private static let mib: UInt32 = 1 << 20

    @Test func parsesEveryField() throws {
        let bytes: [UInt8] = [
            0x25, 0x60, 0x95, 0x13, 0x01, 0x02, 0x03, 0x04, 1, 2, 3, 4, 5, 6, 7, 8,
            0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0xa1, 0xa2, 0xa3, 0xa4,
        ]
        let parsed = RequestHeader(bytes.span)
        let header = try #require(parsed)
        #expect(
            header
                == RequestHeader(
                    flags: 0x0102, type: 0x0304, cookie: 0x0102_0304_0506_0708,
                    offsetBytes: 0x1112_1314_1516_1718, lengthBytes: 0xa1a2_a3a4))
        for index in 0..<4 {
            var wrong = bytes
            wrong[index] ^= 0x80
            let refused = RequestHeader(wrong.span)
            #expect(refused == nil)
        }
    }

    struct Case: Sendable {
        var type: UInt16
        var flags: UInt16 = 0
        var offset: UInt64 = 0
        var length: UInt32 = 4096
        var isReadOnly = false
        /// Structured replies and block status were agreed on.
        var isStructured = false
        var verdict: RequestVerdict
    }

    @Test(arguments: [
        Case(type: 0, verdict: .proceed(.read, [])),
        Case(type: 0, flags: 1, verdict: .proceed(.read, [])),
        Case(type: 0, isReadOnly: true, verdict: .proceed(.read, [])),
        Case(type: 0, offset: size - 512, length: 512, verdict: .proceed(.read, [])),
        Case(type: 0, offset: size - 512, length: 1024, verdict: .refuse(.invalid)),
        Case(type: 0, offset: size, length: 512, verdict: .refuse(.invalid)),
        Case(type: 0, offset: size, length: 0, verdict: .succeed),
        Case(type: 0, offset: .max - 511, length: 512, verdict: .refuse(.invalid)),
        Case(type: 0, offset: 1, verdict: .refuse(.invalid)),
        Case(type: 0, length: 511, verdict: .refuse(.invalid)),
        Case(type: 0, length: 32 * mib, verdict: .proceed(.read, [])),
        Case(type: 0, length: 32 * mib + 512, verdict: .refuse(.invalid)),
        Case(type: 0, flags: 2, verdict: .refuse(.invalid)),
        Case(type: 0, flags: 4, verdict: .refuse(.invalid)),
        Case(type: 1, verdict: .proceed(.write, [])),
        Case(type: 1, flags: 1, verdict: .proceed(.write, .fua)),
        Case(type: 1, flags: 2, verdict: .refuse(.invalid)),
        Case(type: 1, isReadOnly: true, verdict: .refuse(.notPermitted)),
        Case(type: 1, offset: size, verdict: .refuse(.noSpace)),
        Case(type: 1, offset: .max - 4095, verdict: .refuse(.noSpace)),
        Case(type: 1, length: 0, verdict: .succeed),
        Case(type: 1, length: 0xffff_fe00, verdict: .refuse(.noSpace)),
        Case(type: 1, length: 33 * mib, verdict: .refuse(.invalid)),
        Case(type: 2, verdict: .disconnect),
        Case(type: 3, length: 0, verdict: .proceed(.flush, [])),
        Case(type: 3, flags: 1, length: 0, verdict: .proceed(.flush, [])),
        Case(type: 3, length: 0, isReadOnly: true, verdict: .proceed(.flush, [])),
        Case(type: 3, length: 512, verdict: .refuse(.invalid)),
        Case(type: 3, offset: 512, length: 0, verdict: .refuse(.invalid)),
        Case(type: 4, verdict: .proceed(.trim, [])),
        Case(type: 4, flags: 1, verdict: .proceed(.trim, .fua)),
        Case(type: 4, length: 64 * mib, verdict: .proceed(.trim, [])),
        Case(type: 4, length: 0xffff_fe00, verdict: .refuse(.invalid)),
        Case(type: 4, isReadOnly: true, verdict: .refuse(.notPermitted)),
        Case(type: 6, verdict: .proceed(.writeZeroes, [])),
        Case(type: 6, flags: 3, verdict: .proceed(.writeZeroes, [.fua, .noHole])),
        Case(type: 6, flags: 16, verdict: .proceed(.writeZeroes, [])),
        Case(type: 6, flags: 0x13, verdict: .proceed(.writeZeroes, [.fua, .noHole])),
        Case(type: 6, flags: 4, verdict: .refuse(.invalid)),
        Case(type: 6, flags: 8, verdict: .refuse(.invalid)),
        Case(type: 6, flags: 32, verdict: .refuse(.invalid)),
        Case(type: 0, flags: 4, isStructured: true, verdict: .proceed(.read, [])),
        Case(type: 0, flags: 4, length: mib, isStructured: true, verdict: .proceed(.read, [])),
        Case(
            type: 0, flags: 4, length: mib + 512, isStructured: true, verdict: .refuse(.overflow)),
        Case(type: 0, flags: 8, isStructured: true, verdict: .refuse(.invalid)),
        Case(type: 1, flags: 4, isStructured: true, verdict: .refuse(.invalid)),
        Case(type: 1, flags: 16, isStructured: true, verdict: .refuse(.invalid)),
        Case(type: 1, flags: 32, isStructured: true, verdict: .refuse(.invalid)),
        Case(type: 6, offset: size, verdict: .refuse(.noSpace)),
        Case(type: 6, length: 0, isReadOnly: true, verdict: .refuse(.notPermitted)),
        Case(type: 5, verdict: .proceed(.cache, [])),
        Case(type: 5, flags: 1, isReadOnly: true, verdict: .proceed(.cache, [])),
        Case(type: 5, flags: 2, verdict: .refuse(.invalid)),
        Case(type: 5, length: 64 * mib, verdict: .proceed(.cache, [])),
        Case(type: 5, length: 0, verdict: .succeed),
        Case(type: 5, offset: size, verdict: .refuse(.invalid)),
        Case(type: 5, offset: 256, verdict: .refuse(.invalid)),
        Case(type: 7, verdict: .refuse(.invalid)),
        Case(type: 7, isStructured: true, verdict: .proceed(.blockStatus, [])),
        Case(
            type: 7, flags: 9, isReadOnly: true, isStructured: true,
            verdict: .proceed(.blockStatus, [])),
        Case(type: 7, flags: 4, isStructured: true, verdict: .refuse(.invalid)),
        Case(type: 7, length: 0, isStructured: true, verdict: .refuse(.invalid)),
        Case(type: 7, length: 100, isStructured: true, verdict: .refuse(.invalid)),
        Case(
            type: 7, offset: size - 512, length: 1024, isStructured: true,
            verdict: .refuse(.invalid)),
        Case(type: 8, isStructured: true, verdict: .refuse(.invalid)),
        Case(type: 0xffff, verdict: .refuse(.invalid)),
    ])
    func verdict(_ test: Case) {
        let header = RequestHeader(
            flags: test.flags, type: test.type, cookie: 1, offsetBytes: test.offset,
            lengthBytes: test.length)
        let terms = SessionTerms(
            usesStructuredReplies: test.isStructured, hasAllocationContext: test.isStructured)
        let verdict = header.verdict(
            sizeBytes: Self.size, isReadOnly: test.isReadOnly, terms: terms)
        #expect(verdict == test.verdict)
        #expect(header.payloadBytes == (test.type == 1 ? test.length : 0))
    }

    @Test func longestTrimOfALargeSpaceProceeds() {
        let header = RequestHeader(
            type: 4, cookie: 1, offsetBytes: 512, lengthBytes: 0xffff_fe00)
        let verdict = header.verdict(
            sizeBytes: 1 << 50, isReadOnly: false, terms: SessionTerms())
        #expect(verdict == .proceed(.trim, []))
    }

    @Test func whateverProceedsLiesInside() {
        var random = SplitMix(seed: 7)
        var proceeded = 0
        for _ in 0..<20_000 {
            let offset = UInt64(random.next(1 << 18)) * [1, 512, 1 << 45][random.next(3)]
            let header = RequestHeader(
                flags: UInt16(random.next(4)), type: UInt16(random.next(8)), cookie: 0,
                offsetBytes: offset, lengthBytes: UInt32(random.next(1 << 17)) * 512)
            let verdict = header.verdict(
                sizeBytes: Self.size, isReadOnly: false,
                terms: SessionTerms(usesStructuredReplies: true, hasAllocationContext: true))
            guard case .proceed(let kind, _) = verdict else { continue }
            proceeded += 1
            #expect(header.offsetBytes + UInt64(header.lengthBytes) <= Self.size)
            #expect(header.offsetBytes % 512 == 0 && header.lengthBytes % 512 == 0)
            #expect(kind == .flush || header.lengthBytes > 0)
        }
        #expect(proceeded > 400)
    }
}

@Suite struct ReplyHeaderTests {
    private let cookie: UInt64 = 0x0102_0304_0506_0708
    private let cookieBytes: [UInt8] = [1, 2, 3, 4, 5, 6, 7, 8]

    @Test func simple() {
        #expect(
            ReplyHeader.simple(cookie: cookie, error: .noSpace).encoded
                == [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 28] + cookieBytes)
    }

    @Test func structuredDone() {
        #expect(
            ReplyHeader.done(cookie: cookie).encoded
                == [0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 0] + cookieBytes + [0, 0, 0, 0])
    }

    @Test func structuredError() {
        #expect(
            ReplyHeader.failed(cookie: cookie, error: .shutdown).encoded
                == [0x66, 0x8e, 0x33, 0xef, 0, 1, 0x80, 1] + cookieBytes
                + [0, 0, 0, 6, 0, 0, 0, 108, 0, 0])
    }

    @Test(arguments: [true, false])
    func structuredData(isLast: Bool) {
        let header = ReplyHeader.data(
            cookie: cookie, offsetBytes: 0xa1a2_a3a4_a5a6_a7a8, lengthBytes: 0x100200,
            isLast: isLast)
        #expect(
            header.encoded
                == [0x66, 0x8e, 0x33, 0xef, 0, isLast ? 1 : 0, 0, 1] + cookieBytes
                + [0, 0x10, 2, 8, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8])
    }

    @Test func blockStatus() {
        let header = ReplyHeader.blockStatus(cookie: cookie, extentCount: 3)
        #expect(
            header.encoded == [0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 5] + cookieBytes
                + [0, 0, 0, 28, 0, 0, 0, 1])
    }

    @Test func engineOutcomesBecomeProtocolErrors() {
        let all: [(RequestStatus, UInt32)] = [
            (.ok, 0), (.ioError, 5), (.noSpace, 28), (.readOnly, 1), (.invalid, 22),
            (.shutdown, 108),
        ]
        for (status, number) in all { #expect(NBDError(status).rawValue == number) }
    }
}
