// swift-tools-version: 6.2
import PackageDescription

/// Every target is held to the same rules: Swift 6 concurrency checking, strict memory safety, no warnings.
///
/// `bcopts` removes bounds checks that are needed in Swift 6.3 (swiftlang/swift#90669), so release builds
/// leave that pass out; `Tests/CoreTests/BoundsCheckTests.swift` keeps the case.
let settings: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .strictMemorySafety(),
    .treatAllWarnings(as: .error),
    .unsafeFlags(["-Xllvm", "-sil-disable-pass=bcopts"], .when(configuration: .release)),
    // Checking at run time that accesses to stored properties do not overlap takes a tenth of the server's CPU. The
    // compiler's own check stays, and so does the one at run time in debug builds, which the tests are.
    .unsafeFlags(["-enforce-exclusivity=unchecked"], .when(configuration: .release)),
]

/// What the simulators run is optimised in debug builds, too, as thousands of seeds of it are; every assertion stays.
let simulated =
    settings + [.unsafeFlags(["-O", "-assert-config", "Debug"], .when(configuration: .debug))]

// Of swift-collections only the modules that are used: all of them take minutes to compile.
let deque = Target.Dependency.product(name: "DequeModule", package: "swift-collections")
let heap = Target.Dependency.product(name: "HeapModule", package: "swift-collections")
let atomics = Target.Dependency.product(name: "Atomics", package: "swift-atomics")
let arguments = Target.Dependency.product(name: "ArgumentParser", package: "swift-argument-parser")
let logging = Target.Dependency.product(name: "Logging", package: "swift-log")
let httpTypes = Target.Dependency.product(name: "HTTPTypes", package: "swift-http-types")
let sqlite = Target.Dependency.product(name: "GRDB", package: "GRDB.swift")
let yaml = Target.Dependency.product(name: "Yams", package: "Yams")
let histogram = Target.Dependency.product(name: "Histogram", package: "hdrhistogram-swift")

/// intel-ipsec-mb exists for x86-64 only; elsewhere OpenSSL protects the records.
#if arch(x86_64)
let recordLibraries = [
    Target.systemLibrary(name: "CIPSecMB", providers: [.apt(["libipsec-mb-dev"])])
]
#else
let recordLibraries: [Target] = []
#endif
let recordDependencies = recordLibraries.map { Target.Dependency.target(name: $0.name) }

/// The layers of ARCHITECTURE.md: a target depends only on targets of the layers before its own.
/// `Tests/TidyTests` holds this table to the imports.
let package = Package(
    name: "Sluice",
    products: [
        .executable(name: "sluiced", targets: ["sluiced"]),
        .executable(name: "sluice", targets: ["sluice"]),
        .executable(name: "sluice-driver", targets: ["sluice-driver"]),
        .library(name: "SluiceClient", targets: ["SluiceClient"]),
        .library(name: "DriverKit", targets: ["DriverKit"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-atomics", from: "1.3.0"),
        .package(url: "https://github.com/apple/swift-collections", from: "1.6.0"),
        .package(url: "https://github.com/apple/swift-http-types", from: "1.8.0"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
        .package(url: "https://github.com/groue/GRDB.swift", from: "7.10.0"),
        .package(url: "https://github.com/HdrHistogram/hdrhistogram-swift", from: "0.2.0"),
        .package(url: "https://github.com/jpsim/Yams", from: "6.2.2"),
    ],
    targets: recordLibraries + [
        // Layer 0: C libraries, each imported by exactly one target.
        .systemLibrary(name: "CURing", pkgConfig: "liburing", providers: [.apt(["liburing-dev"])]),
        .systemLibrary(name: "COpenSSL", pkgConfig: "openssl", providers: [.apt(["libssl-dev"])]),
        .systemLibrary(name: "CNGHTTP2", pkgConfig: "libnghttp2", providers: [.apt(["libnghttp2-dev"])]),
        .systemLibrary(name: "CFUSE"),
        .systemLibrary(name: "CSandbox", pkgConfig: "libseccomp", providers: [.apt(["libseccomp-dev"])]),

        // Layer 1
        .target(name: "Core", swiftSettings: simulated),

        // Layer 2: codecs and decisions, no I/O.
        .target(name: "Wire", dependencies: ["Core"], swiftSettings: simulated),
        .target(name: "Capability", dependencies: ["Core"], swiftSettings: simulated),

        // Layer 3: one library each.
        .target(
            name: "Reactor", dependencies: ["Core", "CURing", atomics], swiftSettings: simulated),
        .target(
            name: "TLS", dependencies: ["Core", "Capability", "COpenSSL"] + recordDependencies,
            swiftSettings: settings),
        .target(
            name: "HTTP2", dependencies: ["Core", "CNGHTTP2", httpTypes], swiftSettings: settings
        ),

        // Layer 4
        .target(name: "Catalog", dependencies: ["Core", sqlite], swiftSettings: settings),
        .target(name: "DriverKit", dependencies: ["Core", "Reactor", atomics], swiftSettings: simulated),
        .target(name: "Logs", dependencies: ["Core", "Reactor", logging], swiftSettings: settings),
        .target(
            name: "SluiceClient",
            dependencies: [
                "Core", "Wire", "Capability", "Reactor", "TLS", "HTTP2", deque, httpTypes, histogram,
            ],
            swiftSettings: simulated),

        // Layer 5
        .target(
            name: "Drivers", dependencies: ["Core", "DriverKit", "Reactor"], exclude: ["Fault/README.md"],
            swiftSettings: settings),
        .target(
            name: "DriverHost",
            dependencies: ["Core", "DriverKit", "Reactor", "CSandbox", atomics, deque],
            swiftSettings: settings),

        // Layer 6
        .target(
            name: "Services",
            dependencies: [
                "Core", "Wire", "Capability", "Reactor", "DriverKit", atomics, deque, heap, logging,
            ],
            swiftSettings: simulated),

        // Layer 7
        .target(
            name: "ControlPlane",
            dependencies: [
                "Core", "Wire", "Capability", "Reactor", "TLS", "HTTP2", "Catalog", "DriverKit", "Logs",
                "Services",
                deque, httpTypes, logging,
            ],
            swiftSettings: settings),
        .target(
            name: "DataPlane",
            dependencies: ["Core", "Wire", "Reactor", "TLS", "Services", deque, logging],
            swiftSettings: settings),
        .target(
            name: "Attach",
            dependencies: [
                "Core", "Wire", "Capability", "Reactor", "TLS", "SluiceClient", "CFUSE", logging,
            ],
            swiftSettings: settings),

        // Layer 8: arguments and wiring.
        .executableTarget(
            name: "sluiced",
            dependencies: [
                "Core", "Reactor", "TLS", "Catalog", "DriverKit", "DriverHost", "Drivers", "Services",
                "ControlPlane", "DataPlane", "Logs", arguments, yaml, logging,
            ],
            swiftSettings: settings),
        .executableTarget(
            name: "sluice-driver", dependencies: ["DriverHost", "Drivers"],
            swiftSettings: settings),
        .executableTarget(
            name: "sluice",
            dependencies: [
                "Core", "Wire", "Capability", "Reactor", "TLS", "SluiceClient", "Attach", "Logs", arguments,
                yaml, logging, httpTypes,
            ],
            swiftSettings: settings),

        // What the tests of several targets need.
        .target(
            name: "TestSupport", dependencies: ["Reactor"], path: "Tests/TestSupport", swiftSettings: settings
        ),
        // What simulators and fuzzers share: random numbers that a seed repeats, inputs that are changed by them, and the
        // judge of what consumers saw.
        .target(name: "Simulation", path: "Tests/Simulation", swiftSettings: simulated),
        // What a sandbox must stop, as C calls.
        .target(name: "CHostile", path: "Tests/CHostile"),
        // A driver host whose drivers try to escape, lie and hang.
        .executableTarget(
            name: "HostileDriver",
            dependencies: ["CHostile", "DriverHost", "DriverKit", "Drivers", "Reactor", "Core"],
            path: "Tests/HostileDriver", swiftSettings: settings),

        .testTarget(name: "CoreTests", dependencies: ["Core"], swiftSettings: settings),
        .testTarget(name: "LogsTests", dependencies: ["Logs", "Core", logging], swiftSettings: settings),
        .testTarget(
            name: "WireTests", dependencies: ["Wire", "Core", "Simulation"], swiftSettings: settings),
        .testTarget(
            name: "CapabilityTests", dependencies: ["Capability", "Core", "TLS", "Simulation"],
            swiftSettings: settings),
        .testTarget(
            name: "ReactorTests", dependencies: ["TestSupport", "Reactor", "Core", "CURing"],
            swiftSettings: settings),
        .testTarget(
            name: "TLSTests", dependencies: ["TestSupport", "Simulation", "TLS", "Core", "Capability"],
            swiftSettings: settings),
        .testTarget(
            name: "HTTP2Tests", dependencies: ["HTTP2", "Core", httpTypes, "Simulation", "CNGHTTP2"],
            swiftSettings: settings),
        .testTarget(
            name: "DataPlaneTests",
            dependencies: [
                "TestSupport", "DataPlane", "Services", "Capability", "DriverKit", "Reactor", "Wire", "TLS",
                "Core", logging,
            ],
            swiftSettings: settings),
        .testTarget(
            name: "CatalogTests", dependencies: ["TestSupport", "Simulation", "Catalog", "Core"],
            swiftSettings: settings),
        .testTarget(
            name: "DriverKitTests", dependencies: ["DriverKit", "Core"], swiftSettings: settings),
        .testTarget(
            name: "DriversTests",
            dependencies: [
                "TestSupport", "Simulation", "DriverHost", "Drivers", "DriverKit", "Reactor", "Core",
                "sluice-driver",
            ],
            swiftSettings: settings),
        .testTarget(
            name: "DriverHostTests",
            dependencies: [
                "TestSupport", "Simulation", "DriverHost", "DriverKit", "Reactor", "Core", "HostileDriver",
                "sluice-driver",
            ],
            swiftSettings: settings),
        .testTarget(
            name: "SluiceClientTests",
            dependencies: [
                "TestSupport", "SluiceClient", "Wire", "Capability", "Reactor", "TLS", "Core", "Simulation",
            ],
            swiftSettings: settings),
        .testTarget(
            name: "ServicesTests",
            dependencies: ["Simulation", "Services", "DriverKit", "Reactor", "Wire", "Core", logging],
            swiftSettings: settings),
        .testTarget(
            name: "SessionSimulationTests",
            dependencies: [
                "TestSupport", "Simulation", "Services", "DataPlane", "SluiceClient", "Capability",
                "DriverKit", "Reactor", "Wire", "Core", logging, deque,
            ],
            swiftSettings: simulated),
        .testTarget(
            name: "ControlPlaneTests",
            dependencies: [
                "TestSupport", "Simulation", "ControlPlane", "Services", "Catalog", "DriverKit", "Drivers",
                "Reactor", "TLS", "SluiceClient", "Wire", "Core", httpTypes, yaml, logging,
            ],
            exclude: ["corpus"], swiftSettings: settings),
        .testTarget(
            name: "AttachTests",
            dependencies: [
                "TestSupport", "Attach", "SluiceClient", "Reactor", "Core", "CFUSE", "Wire", "Simulation",
            ],
            swiftSettings: settings),
        .testTarget(
            name: "SluicedTests",
            dependencies: ["Simulation", "sluiced", "ControlPlane", "Reactor", "Core", logging],
            swiftSettings: settings),
        .testTarget(
            name: "SluiceTests", dependencies: ["Simulation", "sluice", "Core", arguments],
            swiftSettings: settings),
        // It reads every source, and is optimised for that.
        .testTarget(name: "TidyTests", swiftSettings: simulated),
    ]
)
