import PoolControl
import Testing

@testable import poolctl

/// What people read: 80 columns, whatever is in it.
@Suite struct ReportTests {
    @Test func aPoolFitsAnEightyColumnTerminal() {
        #expect(
            Reports.pool(MessageSnapshotTests.pool) == """
                pool:     tank
                health:   degraded
                reason:   r
                action:   a
                room:     4 B free of 9 B, 5 B allocated, 71 % full (notice); at this rate it is
                          full in 2 hours

                DISK   STATE   MEDIA  SIZE  ALLOCATED  ERRORS  ENCLOSURE  PATH
                disk1  online  hdd     8 B        4 B       6  e1         /dev/sdb

                disk1: dr; da

                SPACE     HEALTH         RESILIENCY  SIZE  MAPPED  ALLOCATED  CLIENTS
                tank/vm1  no-redundancy  mirror2     16 B     4 B        8 B        3

                JOB     SUBJECT  STATE    DONE  RATE  LEFT
                repair  disk1    blocked  50 %     -     -
                repair: jr; ja
                """)
    }

    @Test func aSpaceTellsWhatItIs() {
        #expect(
            Reports.space(MessageSnapshotTests.space) == """
                space:    tank/vm1
                health:   no-redundancy
                reason:   r
                action:   a
                layout:   mirror2, 2 columns, interleave 256 KiB, checksums
                size:     16 B, thin
                room:     4 B mapped, 8 B allocated with copies and metadata
                on hdd:   8 B allocated
                if full:  writes wait for room, after 60 s they fail with ENOSPC
                clients:  3, writes that wait: 2
                owner:    local, epoch 7
                """)
    }

    @Test func settingsTellTheirDefaults() {
        let settings = [
            Setting(key: "thresholds", value: "1,2,3", default: "70,85,95", meaning: "percent"),
            Setting(key: "repair_delay", value: "5m", default: "5m", meaning: "waits"),
        ]
        #expect(
            Reports.settings(SettingList(pool: "tank", settings: settings)) == """
                thresholds:   1,2,3 (default: 70,85,95)
                              percent
                repair_delay: 5m (default)
                              waits
                """)
    }

    @Test func anExplanationIsFolded() {
        #expect(
            Reports.explanation(MessageSnapshotTests.explanation) == """
                space:    tank/vm1
                health:   healthy
                lies on:  2 slab groups, mirror2, metadata on disk1, disk2
                may fail: any one disk

                DISK   STATE   GROUPS  DOMAIN   IF IT IS PULLED NOW
                disk1  online       2  rack r1  safe

                DOMAIN   DISKS  IF ALL OF THEM ARE LOST NOW
                rack r1  disk1  lost

                GROUPS  COUNT  DISKS
                7-8         2  disk1+disk2
                """)
    }

    @Test func disksOfSeveralKindsOfDomainsSayWhich() {
        var racked = MessageSnapshotTests.disk
        racked.rack = "r1"
        var plain = MessageSnapshotTests.disk
        plain.enclosure = ""
        let text = Reports.disks([MessageSnapshotTests.disk, racked, plain])
        #expect(text.contains("DOMAIN        PATH"))
        #expect(text.contains("enclosure e1  /dev/sdb") && text.contains("rack r1       /dev/sdb"))
        #expect(text.contains("-             /dev/sdb"))
    }

    @Test func whatIsTheSameOfSeveralDisksIsSaidOnce() {
        var disks = (1...3).map { number in
            var disk = MessageSnapshotTests.disk
            disk.name = "disk\(number)"
            disk.state = .offline
            return disk
        }
        disks[1].reason = "other"
        disks[1].action = ""
        let text = Reports.disks(disks)
        #expect(text.hasSuffix("\n\ndisk1, disk3: dr; da\ndisk2: other"), "\(text)")
    }

    // MARK: - extremes

    private static let long = String(repeating: "n", count: 64)
    private static let path = "/dev/disk/by-id/" + String(repeating: "wwn-0x5000c500a1b2c3d4", count: 9)

    private func expectNarrow(
        _ text: String, sourceLocation: SourceLocation = #_sourceLocation
    ) {
        for line in text.split(separator: "\n", omittingEmptySubsequences: false) {
            #expect(
                Terminal.width(String(line)) <= 80, "\(line)", sourceLocation: sourceLocation)
        }
    }

    /// The widest there can be of everything, in every state.
    private func widest(
        _ health: Health, _ condition: DiskCondition, _ fill: FillState, tags: Bool
    ) -> PoolStatus {
        let reason = "disk65535 failed during a write of metadata on \(Self.path) just now"
        let disks = (1...3).map { _ in
            DiskStatus(
                name: "disk65535", path: Self.path, uuid: "u", media: .hdd, state: condition,
                reason: reason, action: reason, enclosure: tags ? Self.long : "",
                node: tags ? Self.long : "", rack: tags ? Self.long : "",
                sizeBytes: 1023 << 40, allocatedBytes: 1023 << 40,
                errors: DiskErrors(read: .max, write: 7, checksum: .max))
        }
        let space = SpaceStatus(
            name: "\(Self.long)/\(Self.long)", pool: Self.long, sizeBytes: 1023 << 40,
            resiliency: .mirror2, provisioning: .fixed, health: health, reason: reason,
            action: reason, allocatedBytes: 1023 << 40, mappedBytes: 1023 << 40, columns: 60,
            interleaveBytes: 1023 << 10, checksums: false, whenFull: .wait,
            tiers: Media.allCases.map {
                TierStatus(media: $0, sizeBytes: .max, allocatedBytes: .max)
            }, waitingWrites: .max, connections: 9_999_999, owner: Self.long, epoch: .max)
        return PoolStatus(
            name: Self.long, uuid: "u", health: health, reason: reason, action: reason,
            fill: fill, fillPercent: 100, secondsToFull: 89_999, capacityBytes: 1023 << 40,
            allocatedBytes: 1023 << 40, freeBytes: 1023 << 40, disks: disks, spaces: [space],
            jobs: [
                JobStatus(
                    id: .max, kind: .rebalance, subject: space.name, state: .blocked,
                    reason: reason, action: reason, progress: 1, etaSeconds: .max,
                    bytesPerSecond: .max, doneBytes: .max, totalBytes: .max, repairedBlocks: .max,
                    lostBlocks: .max)
            ])
    }

    @Test(arguments: Health.allCases) func noLineIsLonger(_ health: Health) {
        for condition in DiskCondition.allCases {
            for fill in FillState.allCases {
                for tags in [false, true] {
                    let pool = widest(health, condition, fill, tags: tags)
                    expectNarrow(Reports.pool(pool))
                    expectNarrow(Reports.pools(PoolList(pools: [pool])))
                    expectNarrow(Reports.space(pool.spaces[0]))
                }
            }
        }
    }

    @Test func noLineOfAnExplanationIsLonger() {
        let disks = (1...60).map { "disk\(65_000 + $0)" }
        let explanation = SpaceExplanation(
            name: "\(Self.long)/\(Self.long)", pool: Self.long, resiliency: .parity2,
            health: .noRedundancy, reason: Self.path, action: Self.path,
            mayFail: "one of " + disks.joined(separator: ", "), groups: [],
            groupsOmitted: 1_000_000,
            widths: (3...18).map { .init(columns: $0, parity: 2, copies: 1, count: 1_000_000) },
            placements: (0..<30).map { _ in
                .init(
                    groups: SpaceExplanation.ranges((0..<400).map { $0 * 70_000_0 }),
                    count: 1_000_000,
                    columns: stride(from: 0, to: 60, by: 2).map { [disks[$0], disks[$0 + 1]] })
            },
            metadataDisks: disks,
            disks: disks.map {
                .init(
                    name: $0, state: .rebuilding, domain: "enclosure \(Self.long)",
                    groups: 100_000, safeToPull: false,
                    reason: "does not serve: nothing more is lost")
            },
            domains: [
                .init(
                    name: "enclosure \(Self.long)", disks: disks, safeToLose: false,
                    reason: "loses data of 1000000 slab groups")
            ])
        let text = Reports.explanation(explanation)
        expectNarrow(text)
        #expect(text.contains("and 10000000 groups in 10 more ways"))
    }

    @Test func anExplanationSaysHowWideStripesAre() {
        var explanation = MessageSnapshotTests.explanation
        explanation.resiliency = .parity1
        explanation.widths = [.init(columns: 4, parity: 1, copies: 1, count: 3)]
        let alike = Reports.explanation(explanation)
        #expect(alike.contains("stripes:  4 + 1 disks: 80 % of it is data"), "\(alike)")
        explanation.widths.append(.init(columns: 2, parity: 1, copies: 1, count: 5))
        let mixed = Reports.explanation(explanation)
        #expect(
            mixed.contains("4 + 1 disks in 3 groups, 2 + 1 disks in 5 groups: 73 % of it is data"),
            "\(mixed)")
    }

    @Test(arguments: JobState.allCases) func noLineAboutAJobIsLonger(_ state: JobState) {
        let reason = "there is no room for it on \(Self.path) just now"
        for kind in JobKind.allCases {
            for known in [false, true] {
                let job = JobStatus(
                    id: 1, kind: kind, subject: Self.long, state: state, reason: reason,
                    action: reason, progress: known ? 2 : -.infinity,
                    etaSeconds: known ? .max : nil, bytesPerSecond: known ? .max : nil,
                    doneBytes: .max, totalBytes: .max, repairedBlocks: .max)
                let answer = JobAnswer(pool: Self.long, job: job, uptimeSeconds: 0)
                expectNarrow(Reports.jobs([job]))
                expectNarrow(Reports.accepted(answer))
                expectNarrow(Reports.ended(answer))
                for style in [JobProgress.Style.bar, .lines, .silent] {
                    var progress = JobProgress(style)
                    let text = progress.text(job, seconds: 0)
                    #expect((text == nil) == (style == .silent))
                    expectNarrow(
                        (text ?? "").replacing("\r", with: "").replacing("\u{1B}[K", with: ""))
                }
            }
        }
    }

    @Test func ofJobsThatEndedTheLastAreShown() {
        var jobs = (UInt64(1)...9).map { id in
            var job = MessageSnapshotTests.job
            job.id = id
            job.state = id == 2 ? .paused : .done
            return job
        }
        #expect(Reports.shown(jobs).map(\.id) == [2, 7, 8, 9])
        jobs[8].repairedBlocks = 2
        jobs[8].reason = ""
        #expect(
            Reports.jobs([jobs[8]]).hasSuffix(
                "repair: 2 blocks of 4 KiB were wrong and were put right"))
    }

    @Test func aJobThatWasAcceptedSaysWhereToLook() {
        var job = MessageSnapshotTests.job
        (job.kind, job.subject, job.state, job.reason) = (.scrub, "tank", .running, "")
        let answer = JobAnswer(pool: "tank", job: job, uptimeSeconds: 0)
        #expect(
            Reports.accepted(answer) == """
                scrub of tank: running, 50 % done
                see how far it is: poolctl pool status tank
                """)
        var last = answer
        (last.job.state, last.job.doneBytes, last.job.repairedBlocks) = (.done, 3 << 30, 1)
        #expect(
            Reports.ended(last) == """
                scrub of tank: done, 3 GiB; 1 block of 4 KiB was wrong and was put right
                """)
    }

    @Test func emptyListsSayWhatToDo() {
        expectNarrow(Reports.pools(PoolList(pools: [])))
        expectNarrow(Reports.spaces(SpaceList(spaces: [])))
        let detached = SpaceList(
            spaces: [], detachedPools: [MessageSnapshotTests.pool.name, Self.long])
        expectNarrow(Reports.spaces(detached))
        #expect(Reports.spaces(detached).hasPrefix("pool tank is detached"))
        var pool = MessageSnapshotTests.pool
        pool.spaces = []
        pool.name = Self.long
        #expect(Reports.pool(pool).contains("poolctl space create"))
    }

    @Test(arguments: [
        ("abcdefghij", 10, "abcdefghij"), ("abcdefghij", 9, "ab...ghij"), ("abcdefghij", 5, "...ij"),
        ("abcdefghij", 3, "..."), ("abcdefghij", 0, ""), ("漢字漢字漢字", 9, "漢...漢字"),
        ("e\u{301}e\u{301}", 2, "e\u{301}e\u{301}"),
    ])
    func namesGiveWayInTheMiddle(_ text: String, _ limit: Int, _ expected: String) {
        #expect(Terminal.shortened(text, to: limit) == expected)
        #expect(Terminal.width(Terminal.shortened(text, to: limit)) <= limit)
    }

    @Test func wordsWrapUnderTheirLabel() {
        let text = (0..<30).map { "word\($0)" }.joined(separator: " ")
        let lines = Terminal.wrapped(text, first: "label:    ")
        #expect(lines.count == 3 && lines[0].hasPrefix("label:    word0 "))
        #expect(lines[1].hasPrefix("          word"))
        #expect(lines.map { $0.dropFirst(10) }.joined(separator: " ") == text)
        #expect(Terminal.wrapped("", first: "x: ") == ["x: "])
    }

    @Test(arguments: [
        (UInt64(0), "0 seconds"), (1, "1 second"), (119, "119 seconds"), (120, "2 minutes"),
        (7200, "2 hours"), (172_800, "2 days"), (UInt64.max, "584542046090 years"),
    ])
    func durationsAreSaidAsPeopleDo(_ seconds: UInt64, _ text: String) {
        #expect(DurationText.format(seconds) == text)
    }

    @Test func textFromOutsideCannotSteerATerminal() {
        var disk = MessageSnapshotTests.disk
        disk.path = "/d\u{1B}[2J"
        disk.reason = "\u{1B}[2J"
        disk.rack = "\u{1B}[2J"
        var pool = MessageSnapshotTests.pool
        pool.disks = [disk]
        pool.reason = "\u{1B}[2J\n"
        #expect(!Reports.pool(pool).contains("\u{1B}"))
    }
}
