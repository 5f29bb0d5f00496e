import PoolControl
import PoolFormat
import Testing

@testable import PoolDaemon
@testable import PoolEngine

/// What is said of disks and spaces in every state, and that it follows from where things lie.
@Suite struct JudgeTests {
    private typealias Place = Pool.Explanation.Place

    private static func disk(_ number: UInt16, _ state: DiskState) -> Pool.DiskStatus {
        Pool.DiskStatus(
            number: DiskNumber(number), uuid: PoolUUID(high: 1, low: UInt64(number)),
            pathHint: "/d\(number)", mediaClass: .hdd, enclosure: "", node: "", rack: "",
            state: state, sizeBytes: 1 << 30, allocatedBytes: 0, errors: DiskErrorCounters(),
            device: nil, failure: state == .failed ? "during a write" : "")
    }

    private static func space(
        _ resiliency: ResiliencyKind, lost: [UInt16] = [], reason: String = "", isOpen: Bool = true
    ) -> Pool.SpaceStatus {
        Pool.SpaceStatus(
            lineage: Lineage(1), name: "vm", sizeBytes: 1 << 30, resiliency: resiliency, columns: 0,
            interleaveBytes: 256 << 10, flags: [], whenFull: .wait, allocatedBytes: 0,
            mappedBytes: 0, waitingWrites: 0, epoch: 1,
            handle: isOpen ? SpaceHandle(index: 0, serial: 0) : nil, shard: 0,
            lostDisks: lost.map { DiskNumber($0) }, reason: reason)
    }

    private static func group(_ id: UInt32, copies: Int, _ disks: [UInt16]) -> GroupRecord {
        GroupRecord(
            id: id, layout: .mirror2, mediaClass: .hdd, copies: UInt8(copies),
            columns: UInt16(disks.count / copies), unitBytes: 256 << 10, rotation: 0,
            parityGenerator: 0, birth: 1,
            slabs: disks.map {
                GroupSlab(address: SlabAddress(disk: DiskNumber($0), slab: id), generation: 1)
            })
    }

    private static func explanation(
        _ disks: [Pool.DiskStatus], copies: Int, _ groups: [[UInt16]], metadata: [[UInt16]]
    ) -> Pool.Explanation {
        Pool.Explanation(
            places: disks.map { disk in
                let serves: Bool =
                    switch disk.state {
                    case .online, .retired: true
                    case .offline, .missing, .failed, .rebuilding: false
                    }
                return Place(number: disk.number, domain: .disk(disk.number), serves: serves)
            },
            groups: groups.enumerated().map {
                group(UInt32($0.offset), copies: copies, $0.element)
            },
            metadata: metadata.map { $0.map { DiskNumber($0) } })
    }

    private static func judge(_ disks: [Pool.DiskStatus], _ jobs: [JobStatus] = []) -> PoolJudge {
        PoolJudge(pool: "data", disks: disks, jobs: jobs, repairDelaySeconds: 300)
    }

    /// A space of `copies` copies on the first of five disks, with the given ones away.
    private static func health(
        _ resiliency: ResiliencyKind, away: [UInt16: DiskState], groups: [[UInt16]],
        metadata: [[UInt16]]
    ) -> Health {
        let disks = (1...5).map { disk($0, away[$0] ?? .online) }
        let absent = Set(disks.filter { $0.state == .missing }.map(\.number.rawValue))
        // The tables of a disk that is not here are not known, nor what metadata they name.
        return judge(disks).judge(
            space(resiliency),
            explanation(
                disks, copies: resiliency.copies, groups,
                metadata: metadata.map { $0.filter { !absent.contains($0) } })
        ).health
    }

    // MARK: - spaces

    static let healths: [(ResiliencyKind, [UInt16: DiskState], Health)] = [
        (.simple, [:], .healthy), (.mirror2, [:], .healthy), (.mirror3, [:], .healthy),
        // What it does not lie on makes no difference.
        (.simple, [5: .missing], .healthy), (.mirror2, [5: .failed], .healthy),
        (.mirror3, [5: .offline], .healthy),
        // One of those it lies on.
        (.simple, [1: .missing], .incomplete), (.mirror2, [1: .missing], .noRedundancy),
        (.mirror2, [2: .failed], .noRedundancy), (.mirror2, [1: .offline], .noRedundancy),
        (.mirror2, [1: .rebuilding], .noRedundancy), (.mirror2, [1: .retired], .healthy),
        (.mirror3, [1: .missing], .degraded), (.mirror3, [3: .rebuilding], .degraded),
        // Two.
        (.mirror2, [1: .missing, 2: .offline], .incomplete),
        (.mirror2, [1: .missing, 5: .missing], .noRedundancy),
        (.mirror3, [1: .missing, 2: .failed], .noRedundancy),
        (.mirror3, [1: .missing, 5: .failed], .degraded),
        (.mirror3, [1: .missing, 2: .failed, 3: .offline], .incomplete),
    ]

    @Test(arguments: healths)
    func healthIsWhatTheLossOfDisksWouldDo(
        _ resiliency: ResiliencyKind, _ away: [UInt16: DiskState], _ health: Health
    ) {
        let columns = Array(1...UInt16(resiliency.copies))
        let metadata = Array(1...UInt16(max(2, resiliency.copies)))
        #expect(
            Self.health(resiliency, away: away, groups: [columns], metadata: [metadata]) == health)
    }

    /// Of an empty space only its metadata can be lost; and copies on other disks do not help.
    @Test func metadataCounts() {
        for (resiliency, away, metadata, health) in [
            (.simple, [1: .missing], [[1, 2]], .noRedundancy),
            (.mirror2, [1: .missing], [[1, 2]], .noRedundancy),
            (.mirror2, [1: .failed, 2: .failed], [[1, 2]], .incomplete),
            (.mirror3, [1: .missing], [[1, 2, 3]], .degraded),
            (.mirror3, [1: .missing, 2: .failed], [[1, 2, 3]], .noRedundancy),
            (.mirror2, [3: .failed], [[1, 2], [4, 5]], .healthy),
        ] as [(ResiliencyKind, [UInt16: DiskState], [[UInt16]], Health)] {
            // A simple space's own disks are known from its record.
            let disks = (1...5).map { Self.disk($0, away[$0] ?? .online) }
            let judged = Self.judge(disks).judge(
                Self.space(resiliency, lost: resiliency == .simple ? [1] : []),
                Self.explanation(disks, copies: resiliency.copies, [], metadata: metadata))
            #expect(judged.health == health, "\(resiliency) \(away)")
        }
    }

    /// A disk that failed and is still read cannot forget what was on it; that it was rebuilt
    /// elsewhere is what counts.
    @Test func whatWasRebuiltElsewhereIsWhole() {
        var disks = (1...5).map { Self.disk($0, $0 == 1 ? .failed : .online) }
        let explanation = Self.explanation(disks, copies: 2, [[2, 3]], metadata: [[2, 3]])
        let space = Self.space(.mirror2, lost: [1])
        #expect(Self.judge(disks).judge(space, explanation).health == .degraded)
        disks[0].device = DeviceIndex(0)
        #expect(Self.judge(disks).judge(space, explanation) == .healthy)
    }

    @Test func twoDisksThatShareNoGroupAreNotTwoLosses() {
        let groups: [[UInt16]] = [[1, 2], [3, 4]]
        #expect(
            Self.health(
                .mirror2, away: [1: .missing, 3: .failed], groups: groups, metadata: [[2, 5]])
                == .noRedundancy)
        #expect(
            Self.health(
                .mirror2, away: [1: .missing, 2: .failed], groups: groups, metadata: [[3, 5]])
                == .incomplete)
    }

    @Test func whyAndWhatToDo() {
        let cases: [([UInt16: DiskState], ResiliencyKind, String, String)] = [
            (
                [1: .missing], .mirror2, "disk1 is missing: one more loss is fatal",
                "it heals by itself after 5 minutes; at once: poolctl pool repair data"
            ),
            (
                [1: .failed], .mirror3, "disk1 has failed: one more loss is safe",
                "it heals by itself after 5 minutes; at once: poolctl pool repair data"
            ),
            (
                [1: .offline], .mirror2, "disk1 is offline: one more loss is fatal",
                "poolctl disk online data disk1"
            ),
            (
                [1: .rebuilding], .mirror2, "disk1 is being rebuilt: one more loss is fatal",
                "wait: it is being brought up to date; see poolctl pool status data"
            ),
            (
                [1: .offline, 2: .missing], .mirror2,
                "disk1 is offline, disk2 is missing: some of its data cannot be read",
                "bring back /d1, /d2; what can be read, copy off"
            ),
        ]
        for (away, resiliency, reason, action) in cases {
            let disks = (1...5).map { Self.disk($0, away[$0] ?? .online) }
            let judged = Self.judge(disks).judge(
                Self.space(resiliency),
                Self.explanation(
                    disks, copies: resiliency.copies, [Array(1...UInt16(resiliency.copies))],
                    metadata: [[3, 4, 5]]))
            #expect(judged.reason == reason)
            #expect(judged.action == action)
        }
    }

    /// Two disks for two copies: without one there is nowhere to heal to.
    @Test func whereTooFewDisksAreLeftItDoesNotHealByItself() {
        let disks = [Self.disk(1, .failed), Self.disk(2, .online)]
        let explanation = Self.explanation(disks, copies: 2, [[1, 2]], metadata: [[1, 2]])
        let judged = Self.judge(disks).judge(Self.space(.mirror2), explanation)
        #expect(judged.action == "bring back /d1; or add a disk: poolctl pool add data DISK")
    }

    /// Copies that were granted without a place are lacking, though every disk is there.
    @Test func copiesOnNoDiskAreLacking() {
        let disks = (1...3).map { Self.disk($0, .online) }
        let hole = DiskNumber.hole.rawValue
        let judge = { (kind: ResiliencyKind, group: [UInt16]) in
            Self.judge(disks).judge(
                Self.space(kind),
                Self.explanation(
                    disks, copies: kind.copies, [[1, 2, 3], group], metadata: [[1, 2, 3]]))
        }
        let two = judge(.mirror3, [1, hole, 3])
        #expect(two.health == .degraded)
        #expect(two.reason == "copies are lacking: one more loss is safe")
        #expect(judge(.mirror3, [hole, hole, 3]).health == .noRedundancy)
        #expect(judge(.mirror3, [1, 2, 3]) == .healthy)
    }

    @Test func aRepairThatIsUnderWayOrBlockedIsNamed() {
        let disks = (1...5).map { Self.disk($0, $0 == 1 ? .failed : .online) }
        let explanation = Self.explanation(disks, copies: 2, [[1, 2]], metadata: [[2, 3]])
        let action = { (jobs: [JobStatus]) in
            Self.judge(disks, jobs).judge(Self.space(.mirror2), explanation).action
        }
        var job = JobStatus(id: 1, kind: .repair, subject: "data", state: .running, progress: 0.456)
        #expect(action([job]) == "wait: 45 % of the repair is done; see poolctl pool status data")
        (job.subject, job.kind) = ("disk1", .replace)
        #expect(action([job]).hasPrefix("wait: 45 % of the replace"))
        (job.state, job.reason, job.action) = (.blocked, "no room", "add a disk")
        #expect(action([job]) == "the replace is blocked: no room; add a disk")
        job.subject = "disk9"
        #expect(action([job]).hasPrefix("it heals by itself"))
    }

    @Test func whatTakesNoWritesOrIsNotOpenSaysSo() {
        let disks = (1...3).map { Self.disk($0, .online) }
        let judge = Self.judge(disks)
        let readOnly = judge.judge(Self.space(.mirror2, reason: "disk1 failed"), nil)
        #expect(readOnly.health == .readOnly && readOnly.reason == "disk1 failed")
        let closed = judge.judge(Self.space(.mirror2, reason: "no journal", isOpen: false), nil)
        #expect(closed.health == .incomplete && closed.reason == "no journal")
        #expect(closed.action.contains("poolctl disk ls data"))
        #expect(judge.judge(Self.space(.mirror2), nil) == .healthy)
        // By number, where it lies is not known.
        #expect(judge.redundancy(Self.space(.mirror2, lost: [1]), nil) == .none)
        #expect(judge.redundancy(Self.space(.mirror2, lost: [1, 2]), nil) == .lost)
        #expect(judge.redundancy(Self.space(.mirror3, lost: [1]), nil) == .reduced)
        #expect(judge.redundancy(Self.space(.simple, lost: []), nil) == .full)
    }

    // MARK: - disks and jobs

    @Test(arguments: DiskState.allCases) func everyStateOfADiskHasItsAction(_ state: DiskState) {
        let (reason, action) = Self.judge([]).judge(Self.disk(3, state))
        let expected: (String, String) =
            switch state {
            case .online: (reason, action)
            case .offline: ("taken offline", "poolctl disk online data disk3")
            case .missing: ("not found", "poolctl disk online data disk3")
            case .failed: ("failed during a write", "poolctl disk replace data disk3 NEW")
            case .retired: ("takes nothing new", "poolctl disk retire data disk3")
            case .rebuilding: ("brought up to date", "wait")
            }
        #expect(reason.isEmpty == (state == .online) && action.isEmpty == (state == .online))
        guard state != .online else { return }
        #expect(reason.contains(expected.0) && action.contains(expected.1))
    }

    @Test func aDiskSaysHowFarItIs() {
        let running = { (kind: JobKind) in
            [JobStatus(id: 1, kind: kind, subject: "disk3", state: .running, progress: 0.5)]
        }
        #expect(
            Self.judge([], running(.retire)).judge(Self.disk(3, .retired)).reason
                == "it is being emptied, 50 % done")
        #expect(
            Self.judge([], running(.resync)).judge(Self.disk(3, .rebuilding)).reason
                == "it is being brought up to date, 50 % done")
        var worn = Self.disk(3, .online)
        worn.errors.read = 1
        #expect(Self.judge([]).judge(worn).reason == "1 read error since poold was started")
        #expect(Self.judge([]).judge(worn).action.contains("poolctl disk replace data disk3 NEW"))
    }

    @Test func aJobThatEndedBadlyIsNamedUntilItIsBegunAgain() {
        let job = { (id: UInt64, state: JobState, lost: UInt64) in
            JobStatus(
                id: id, kind: .scrub, subject: "data", state: state, progress: 0, lostBlocks: lost)
        }
        let seen = { (jobs: [JobStatus]) in Self.judge([], jobs).jobToSee?.id }
        #expect(seen([]) == nil && seen([job(1, .done, 0), job(2, .running, 0)]) == nil)
        #expect(seen([job(1, .failed, 0)]) == 1 && seen([job(1, .done, 7)]) == 1)
        #expect(seen([job(1, .failed, 0), job(2, .running, 0)]) == nil)
        #expect(seen([job(1, .blocked, 0), job(2, .running, 0)]) == 1)
    }

    @Test(arguments: Pool.Job.State.allCases)
    func everyStateOfAJobHasItsWords(_ state: Pool.Job.State) {
        for kind in Pool.Job.Kind.allCases {
            let cases: [(DiskNumber?, String)] = [(nil, ""), (DiskNumber(3), "no room")]
            for (disk, reason) in cases {
                let job = JobStatus(
                    Pool.Job(
                        id: 1, kind: kind, disk: disk, state: state, reason: reason, doneBytes: 1,
                        totalBytes: 3),
                    of: "data", nil)
                #expect(job.subject == (disk == nil ? "data" : "disk3"))
                #expect(job.kind.rawValue == kind.rawValue && job.state.rawValue == state.rawValue)
                #expect(job.progress == (state == .done ? 1 : 1.0 / 3) && job.etaSeconds == nil)
                let needsSomebody = state == .blocked || state == .failed
                #expect(!needsSomebody || !job.reason.isEmpty && job.action.contains("poolctl "))
                let tells = state != .running && state != .done
                #expect(reason.isEmpty || !tells || job.reason == reason)
            }
        }
    }

    @Test func whatAFlushMayHaveLostIsNamed() {
        var space = Self.space(.simple, reason: "disk1 failed flush")
        space.doubtful = [0..<8192, 1_048_576..<1_052_672]
        let judge = Self.judge([Self.disk(1, .online)], [])
        let few = judge.judge(space, nil)
        #expect(few.health == .readOnly)
        #expect(
            few.reason
                == "disk1 failed flush; written since the last good flush, and perhaps lost: "
                + "12 KiB (8 KiB at 0 B, 4 KiB at 1 MiB)")
        space.doubtful = (UInt64(0)..<10).map { (number: UInt64) -> Range<UInt64> in
            let start = number << 20
            return start..<start + 4096
        }
        #expect(judge.judge(space, nil).reason.hasSuffix("4 KiB at 7 MiB and in 2 more places)"))
    }

    @Test func whatAScrubCouldNotMendIsSaid() {
        var job = Pool.Job(
            id: 1, kind: .scrub, disk: nil, state: .running, doneBytes: 9, totalBytes: 9,
            repairedBlocks: 5, lostBlocks: 1)
        let advice =
            "reading there fails, writing there mends it: restore the files that lie there; "
            + "then poolctl pool scrub data"
        let under = JobStatus(job, of: "data", nil)
        #expect(under.reason == "no copy has 1 block of 4 KiB right" && under.action == advice)
        // As it ends.
        (job.state, job.reason) = (.failed, "1 block is wrong on every copy")
        let ended = JobStatus(job, of: "data", nil)
        #expect(ended.reason == "1 block is wrong on every copy" && ended.action == advice)
        #expect(ended.repairedBlocks == 5 && ended.progress == 1)
    }

    @Test func theLogIsToldOfEachChangeOnce() {
        var news = PoolNews()
        let told = { (news: inout PoolNews, disks: [Pool.DiskStatus], jobs: [JobStatus]) in
            news.lines(Self.judge(disks, jobs)).map { ($0.isBad ? "! " : "") + $0.text }
        }
        let online = Self.disk(1, .online)
        let missing = Self.disk(2, .missing)
        let first = told(&news, [online, missing], [])
        #expect(first.count == 1 && first[0].hasPrefix("! disk2: it was not found; "))
        let again = told(&news, [online, missing], [])
        #expect(again.isEmpty)
        var job = JobStatus(id: 1, kind: .repair, subject: "data", state: .running, progress: 0)
        let begun = told(&news, [online, Self.disk(2, .rebuilding)], [job])
        #expect(
            begun == [
                "disk2: it is being brought up to date; wait",
                "the repair of data is running",
            ])
        (job.state, job.reason, job.action) = (.failed, "r", "a")
        let ended = told(&news, [online, Self.disk(2, .online)], [job])
        #expect(ended == ["disk2 is online", "! the repair of data is failed: r; a"])
    }
}
