// swift-tools-version: 6.2
import PackageDescription

// A package of its own: only libFuzzer's builds can link it. tools/fuzz passes the flags and runs it.
let package = Package(
    name: "Fuzz",
    dependencies: [.package(name: "poold", path: "..")],
    targets: [
        .target(name: "CFuzzer"),
        .executableTarget(
            name: "poolfuzz",
            dependencies: ["CFuzzer", .product(name: "PoolFuzz", package: "poold")],
            swiftSettings: [.swiftLanguageMode(.v6), .strictMemorySafety()]),
    ]
)
