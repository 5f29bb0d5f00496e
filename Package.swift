// swift-tools-version: 6.2
import Foundation
import PackageDescription

// Warnings are errors in our own test runs only, so that a newer compiler never breaks a user's build.
let warningsAreErrors = ProcessInfo.processInfo.environment["POOLD_WARNINGS_AS_ERRORS"] == "1"
// One extra build carries the engine's mutants: deliberate faults that the simulator has to find.
let withMutants = ProcessInfo.processInfo.environment["POOLD_MUTANTS"] == "1"

var settings: [SwiftSetting] = [.swiftLanguageMode(.v6), .strictMemorySafety()]
if warningsAreErrors { settings.append(.treatAllWarnings(as: .error)) }
if withMutants { settings.append(.define("MUTANTS")) }

let argumentParser: Target.Dependency = .product(name: "ArgumentParser", package: "swift-argument-parser")
let logging: Target.Dependency = .product(name: "Logging", package: "swift-log")

let package = Package(
    name: "poold",
    products: [
        .executable(name: "poold", targets: ["poold"]),
        .executable(name: "poolctl", targets: ["poolctl"]),
        .executable(name: "poolsim", targets: ["poolsim"]),
        .library(name: "PoolFormat", targets: ["PoolFormat"]),
        .library(name: "PoolEngine", targets: ["PoolEngine"]),
        .library(name: "PoolSimulator", targets: ["PoolSimulator"]),
        .library(name: "PoolFuzz", targets: ["PoolFuzz"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", exact: "1.8.2"),
        .package(url: "https://github.com/apple/swift-log", exact: "1.16.2"),
        .package(url: "https://github.com/apple/swift-nio", exact: "2.101.2"),
    ],
    targets: [
        .systemLibrary(name: "CLiburing", pkgConfig: "liburing", providers: [.apt(["liburing-dev"])]),
        .systemLibrary(name: "CISAL", pkgConfig: "libisal", providers: [.apt(["libisal-dev"])]),
        .systemLibrary(name: "CLinuxAIO"),

        // What is on the disks: every durable structure, its bytes and its invariants.
        .target(name: "PoolFormat", dependencies: ["CISAL"], swiftSettings: settings),
        // What happens to it: no clock, socket, file, randomness or global inside.
        .target(name: "PoolEngine", dependencies: ["CISAL", "PoolFormat"], swiftSettings: settings),
        // A model of disks, time and clients around the same engine.
        .target(name: "PoolSimulator", dependencies: ["PoolEngine", "PoolFormat"], swiftSettings: settings),
        // The engine's seam over real disks and sockets: io_uring, or Linux AIO and epoll.
        .target(
            name: "PoolDevices", dependencies: ["CLiburing", "CLinuxAIO", "PoolEngine", "PoolFormat"],
            swiftSettings: settings),
        // The NBD face: protocol as values, connections on the shard's ring.
        .target(name: "PoolNBD", dependencies: ["PoolDevices", "PoolEngine"], swiftSettings: settings),
        // The control protocol: the messages that daemon and CLI share.
        .target(name: "PoolControl", swiftSettings: settings),
        // Every parser of foreign bytes behind one call: for the package in Fuzz, and for Tests/Corpus.
        .target(
            name: "PoolFuzz", dependencies: ["PoolControl", "PoolEngine", "PoolFormat", "PoolNBD"],
            swiftSettings: settings),
        // The daemon as a library: shard thread, witness, disk discovery, control server.
        .target(
            name: "PoolDaemon",
            dependencies: [
                "PoolControl", "PoolDevices", "PoolEngine", "PoolFormat", "PoolNBD", logging,
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
                .product(name: "NIOHTTP1", package: "swift-nio"),
            ],
            swiftSettings: settings),

        .executableTarget(name: "poold", dependencies: ["PoolDaemon", argumentParser, logging], swiftSettings: settings),
        .executableTarget(
            name: "poolctl",
            dependencies: [
                "PoolControl", argumentParser,
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
                .product(name: "NIOHTTP1", package: "swift-nio"),
            ],
            swiftSettings: settings),
        .executableTarget(name: "poolsim", dependencies: ["PoolSimulator", argumentParser], swiftSettings: settings),

        .testTarget(name: "PoolFormatTests", dependencies: ["PoolFormat", "PoolFuzz"], swiftSettings: settings),
        .testTarget(name: "PoolEngineTests", dependencies: ["PoolEngine", "PoolFormat"], swiftSettings: settings),
        .testTarget(
            name: "PoolSimulatorTests", dependencies: ["PoolFormat", "PoolSimulator"],
            swiftSettings: settings),
        .testTarget(name: "PoolDevicesTests", dependencies: ["PoolDevices"], swiftSettings: settings),
        .testTarget(name: "PoolNBDTests", dependencies: ["PoolFuzz", "PoolNBD"], swiftSettings: settings),
        .testTarget(
            name: "PoolControlTests",
            dependencies: [
                "PoolControl", "PoolDaemon", "PoolEngine", "PoolFormat", "poolctl", argumentParser,
                logging,
                .product(name: "NIOPosix", package: "swift-nio"),
            ],
            swiftSettings: settings),
        .testTarget(name: "EndToEndTests", dependencies: ["PoolControl"], swiftSettings: settings),
    ]
)
