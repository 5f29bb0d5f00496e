import PoolControl
import Testing

@Suite struct RouteTests {
    static let routes: [ControlProtocol.Route] = [
        .daemonInfo, .poolList, .poolCreate, .poolImport, .poolStatus("tank"),
        .poolDestroy("tank"), .poolExport("tank"), .diskList("tank"), .poolAdd("tank"), .spaceList,
        .spaceCreate(pool: "tank"), .settingList("tank"), .poolSet("tank"), .diskSet("tank"),
        .diskOffline("tank"), .diskOnline("tank"), .diskRetire("tank"), .diskReplace("tank"),
        .jobList("tank"), .poolScrub("tank"), .poolRepair("tank"), .poolRebalance("tank"),
    ]

    @Test(arguments: routes) func aRouteReadsBack(_ route: ControlProtocol.Route) throws {
        #expect(try ControlProtocol.Route(method: route.method, path: route.path) == route)
    }

    @Test func spaceRoutesReadBack() throws {
        let path = try SpacePath("tank/vm1")
        for (route, rest) in [
            (ControlProtocol.Route.spaceStatus(path), ""), (.spaceDestroy(path), ""),
            (.spaceSet(path), "/settings"), (.spaceResize(path), "/size"),
            (.spaceExplain(path), "/explanation"),
        ] {
            #expect(route.path == "/v1/pools/tank/spaces/vm1" + rest)
            #expect(try ControlProtocol.Route(method: route.method, path: route.path) == route)
        }
    }

    @Test(arguments: [
        ("GET", "/v2/pools", ControlFailure.Kind.invalid), ("GET", "/", .invalid),
        ("GET", "", .invalid), ("GET", "/v1", .notFound), ("PUT", "/v1/pools", .notFound),
        ("GET", "/v1/pools/tank/export", .notFound), ("POST", "/v1/pools/tank/exports", .notFound),
        ("GET", "/v1/pools/..", .invalid), ("GET", "/v1/pools/a%2Fb", .invalid),
        ("DELETE", "/v1/pools/tank/spaces/-x", .invalid),
        ("GET", "/v1/pools/tank/spaces/a/b", .notFound),
        ("POST", "/v1/pools/tank/spaces/a", .notFound),
        ("GET", "/v1/pools/tank/spaces/a/size", .notFound),
        ("POST", "/v1/pools/tank/spaces/-a/size", .invalid),
        ("POST", "/v1/pools/tank/spaces/a/size/b", .notFound),
        ("POST", "/v1/pools/tank/disks/disk1", .notFound),
        ("GET", "/v1/pools/tank/scrub", .notFound), ("POST", "/v1/pools/tank/jobs", .notFound),
        ("POST", "/v1/pools/-x/repair", .invalid), ("POST", "/v1/pools/tank/repair/x", .notFound),
        ("GET", "/v1/pools/tank/disks/retire", .notFound),
        ("POST", "/v1/pools/tank/disks/retire/x", .notFound),
        ("GET", "/v1/pools/tank/disks/settings", .notFound), ("GET", "/v1/pools?x=1", .notFound),
    ])
    func anythingElseIsRefused(_ method: String, _ path: String, _ kind: ControlFailure.Kind) {
        let failure = #expect(throws: ControlFailure.self) {
            try ControlProtocol.Route(method: method, path: path)
        }
        #expect(failure?.kind == kind)
        #expect(failure?.hint.isEmpty == false)
    }
}
