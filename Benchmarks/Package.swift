// swift-tools-version: 6.2
import PackageDescription

// A package of its own, so that nobody who builds poold builds the benchmark harness:
//
//     cd Benchmarks && swift package benchmark
let package = Package(
    name: "Benchmarks",
    dependencies: [
        .package(name: "poold", path: ".."),
        // Without its traits: no allocator and no runtime is put in the place of the real ones.
        .package(url: "https://github.com/ordo-one/benchmark", exact: "1.38.1", traits: []),
    ],
    targets: [
        .executableTarget(
            name: "PoolFormatBenchmarks",
            dependencies: [
                .product(name: "Benchmark", package: "benchmark"),
                .product(name: "PoolFormat", package: "poold"),
            ],
            path: "Benchmarks/PoolFormatBenchmarks",
            swiftSettings: [.swiftLanguageMode(.v6), .strictMemorySafety()],
            plugins: [.plugin(name: "BenchmarkPlugin", package: "benchmark")])
    ]
)
