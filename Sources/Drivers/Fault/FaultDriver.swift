import Core
import DriverKit
import Reactor
import Synchronization

/// Another driver with faults on a schedule: errors, delays, hangs, crashes, torn and lost writes, bit flips.
///
/// Settings: `driver` (`file` or `memory`, with its own settings as `inner.…`), `rules` and `seed` (both can be
/// changed while the pool runs), `record` (the name of a log of what reaches the device, in the pool's
/// folder). `README.md` beside this file has the grammar of the rules and the format of the log.
public final class FaultDriver: InstalledVolumeDriver {
    /// `fault`.
    public static let name = "fault"
    /// What it can wrap.
    static let wrapped: [any InstalledVolumeDriver.Type] = [FileDriver.self, MemoryDriver.self]

    /// What a queue must know about an open volume.
    struct OpenVolume {
        let id: Identifier
        var geometry: VolumeGeometry
        /// How many power cuts there had been when it was opened: after another one it is lost.
        let openedAtCut: UInt64
    }

    /// The settings in a form that cannot be wrong.
    private struct Configuration {
        let driver: any InstalledVolumeDriver.Type
        let inner: [String: String]
        let rules: FaultRules
        let seed: UInt64
        let record: String?
    }

    private struct WeakQueue {
        weak var queue: FaultQueue?
        let remote: ReactorRemote
    }

    let inner: any InstalledVolumeDriver
    let log: RequestLog?
    let unflushed: UnflushedWrites
    private let isolation: DriverIsolation
    private let settings: Mutex<[String: String]>
    private let schedule: Mutex<FaultSchedule>
    private let open = Mutex<[UInt32: OpenVolume]>([:])
    private let queues = Mutex<[WeakQueue]>([])
    private let cutCount = Atomic<UInt64>(0)
    /// How far devices were prepared in pieces, by volume, in bytes.
    private let prepared = Mutex<[Identifier: UInt64]>([:])

    /// Opens the inner driver's pool.
    ///
    /// - Throws: also when rules would end the server, because the driver runs inline.
    public init(_ environment: DriverEnvironment) throws(StatusError) {
        let configuration = try FaultDriver.parse(environment.settings)
        isolation = environment.isolation
        try FaultDriver.check(configuration.rules, isolation)
        var inside = environment
        inside.settings = configuration.inner
        inner = try configuration.driver.init(inside)
        if let name = configuration.record {
            log = try RequestLog(folder: environment.folder, name: name)
        } else {
            log = nil
        }
        unflushed = try UnflushedWrites()
        unflushed.arm(configuration.rules.cutsPower)
        settings = Mutex(environment.settings)
        schedule = Mutex(FaultSchedule(seed: configuration.seed, rules: configuration.rules))
    }

    /// Whether what the wrapped driver holds is gone with the server.
    public static func isVolatile(settings: [String: String]) -> Bool {
        let (own, inside) = split(settings)
        return wrapped.first { $0.name == own["driver"] }?.isVolatile(settings: inside) ?? false
    }

    /// The settings of this driver and those of the wrapped one.
    private static func split(_ settings: [String: String]) -> (
        own: [String: String], inside: [String: String]
    ) {
        let prefix = "inner."
        var inside: [String: String] = [:]
        var own: [String: String] = [:]
        for (key, value) in settings {
            if key.hasPrefix(prefix) {
                inside[String(key.dropFirst(prefix.count))] = value
            } else {
                own[key] = value
            }
        }
        return (own, inside)
    }

    private static func parse(_ settings: [String: String]) throws(StatusError) -> Configuration {
        let (own, inside) = split(settings)
        let known = ["driver", "record", "rules", "seed"]
        if let stranger = own.keys.sorted().first(where: { !known.contains($0) }) {
            throw StatusError(
                .badRequest,
                "the driver fault has no setting \"\(stranger)\"; it has \(known.joined(separator: ", ")), "
                    + "the wrapped driver's with inner. before their names, and as every driver "
                    + PoolSettings.quarantineKey)
        }
        let names = wrapped.map { $0.name }
        guard let name = own["driver"], let type = wrapped.first(where: { $0.name == name }) else {
            let said = own["driver"].map { "is \"\($0)\"" } ?? "is missing"
            throw StatusError(
                .badRequest,
                "the setting driver \(said); name the driver to wrap: \(names.joined(separator: " or "))")
        }
        var seed: UInt64 = 1
        if let text = own["seed"] {
            guard let value = UInt64(text) else {
                throw StatusError(
                    .badRequest, "the setting seed is \"\(text)\"; write a whole number below 2^64")
            }
            seed = value
        }
        return Configuration(
            driver: type, inner: inside, rules: try FaultRules(text: own["rules"] ?? ""), seed: seed,
            record: own["record"])
    }

    private static func check(_ rules: FaultRules, _ isolation: DriverIsolation) throws(StatusError) {
        if isolation == .inline && rules.endsProcess {
            throw StatusError(
                .notSupported,
                "a rule crashes the driver, which runs inline, in the server itself; "
                    + "make the pool with isolation=isolated")
        }
    }

    /// What the wrapped driver needs.
    public static func needs(settings: [String: String]) throws(StatusError) -> DriverNeeds {
        let configuration = try parse(settings)
        return try configuration.driver.needs(settings: configuration.inner)
    }

    /// Takes over `rules` and `seed`, which begin anew unless both are as before; requests that hang go on.
    /// The wrapped driver is asked about its own settings.
    public func configure(settings new: [String: String]) throws(StatusError) {
        let configuration = try FaultDriver.parse(new)
        try FaultDriver.check(configuration.rules, isolation)
        let before = try FaultDriver.parse(settings.withLock { $0 })
        if before.driver.name != configuration.driver.name || before.record != configuration.record {
            throw StatusError(
                .notSupported,
                "driver and record of a fault pool cannot be changed while the pool runs: make another pool")
        }
        if before.inner != configuration.inner { try inner.configure(settings: configuration.inner) }
        settings.withLock { $0 = new }
        if before.rules == configuration.rules && before.seed == configuration.seed { return }
        schedule.withLock { $0 = FaultSchedule(seed: configuration.seed, rules: configuration.rules) }
        unflushed.arm(configuration.rules.cutsPower)
        for reference in queues.withLock({ $0 }) {
            guard let queue = reference.queue else { continue }
            reference.remote.post { queue.rulesChanged() }
        }
    }

    /// That faults are injected, how many of each kind so far, and the wrapped driver's notes.
    public var notes: [String] {
        let (rules, injected) = schedule.withLock { ($0.rules.rules.count.counted("rule"), $0.injected) }
        let counts = injected.sorted { $0.key < $1.key }.map { "\($0.key) \($0.value)" }
        let far = counts.isEmpty ? "none so far" : counts.joined(separator: ", ")
        return ["This pool injects faults by \(rules): \(far)."] + inner.notes
    }

    /// Makes a volume of the wrapped driver.
    public func createVolume(_ id: Identifier, size: UInt64) throws(StatusError) {
        try inner.createVolume(id, size: size)
    }

    /// Prepares a volume of the wrapped driver; what a rule delays is done in pieces, as on a slow device.
    public func prepareVolume(_ id: Identifier, to size: UInt64) throws(StatusError) -> UInt64 {
        switch schedule.withLock({ $0.next(.prepare) })?.fault {
        case .delay(let nanoseconds):
            _ = ThreadSemaphore().wait(milliseconds: Int64(clamping: nanoseconds / 1_000_000))
            let before = prepared.withLock { $0[id] ?? 0 }
            let end = min(size, before.addingSaturated(Limits.faultPreparationBytes))
            while try inner.prepareVolume(id, to: end) > 0 {}
            prepared.withLock { $0[id] = end }
            return size - end
        case .error(let status):
            throw StatusError(status, "the pool's rules let the preparation of its device fail")
        default: return try inner.prepareVolume(id, to: size)
        }
    }

    /// What the wrapped driver's volumes take.
    public func usage() throws(StatusError) -> [Identifier: UInt64] { try inner.usage() }

    /// Grows a volume of the wrapped driver.
    public func resizeVolume(_ id: Identifier, to size: UInt64) throws(StatusError) {
        try inner.resizeVolume(id, to: size)
        open.withLock { volumes in
            for index in volumes.keys where volumes[index]?.id == id { volumes[index]?.geometry.size = size }
        }
    }

    /// Deletes a volume of the wrapped driver.
    public func deleteVolume(_ id: Identifier) throws(StatusError) {
        _ = prepared.withLock { $0.removeValue(forKey: id) }
        try inner.deleteVolume(id)
    }

    /// The wrapped driver's volumes.
    public func volumes() throws(StatusError) -> [Identifier: UInt64] { try inner.volumes() }

    /// The wrapped driver's capacity.
    public func capacity() throws(StatusError) -> PoolCapacity { try inner.capacity() }

    /// Opens a volume; after a power cut this is what gives it its power back.
    ///
    /// - Throws: also `busy`, for the moment in which a power cut is under way.
    public func openVolume(_ id: Identifier, index: UInt32) throws(StatusError) -> VolumeGeometry {
        if unflushed.isCutUnderWay {
            throw StatusError(.busy, "a power cut is under way in the pool; try again")
        }
        let cuts = self.cuts
        unflushed.settle(index: index)
        let geometry = try inner.openVolume(id, index: index)
        open.withLock { $0[index] = OpenVolume(id: id, geometry: geometry, openedAtCut: cuts) }
        return geometry
    }

    /// Ends the use of an index.
    public func closeVolume(_ index: UInt32) {
        unflushed.settle(index: index)
        _ = open.withLock { $0.removeValue(forKey: index) }
        inner.closeVolume(index)
    }

    /// The request side for one reactor.
    public func makeQueue(
        reactor: Reactor, arena: Arena, submissions: SubmissionRing, completions: CompletionRing,
        onCompletions: @escaping () -> Void
    ) throws(StatusError) -> any DriverQueue {
        let queue = FaultQueue(
            driver: self, reactor: reactor, arena: arena, submissions: submissions, completions: completions,
            onCompletions: onCompletions)
        try queue.start()
        queues.withLock { queues in
            queues.removeAll { $0.queue == nil }
            queues.append(WeakQueue(queue: queue, remote: reactor.remote))
        }
        return queue
    }

    // MARK: For the queues

    /// How many power cuts there have been.
    var cuts: UInt64 { cutCount.load(ordering: .acquiring) }

    /// From now on every open volume is lost until it is opened anew.
    func powerFails() { cutCount.add(1, ordering: .acquiringAndReleasing) }

    /// The volume that is open under an index.
    func openVolume(_ index: UInt32) -> OpenVolume? { open.withLock { $0[index] } }

    /// The fault of the next request, if it has one.
    func decide(_ opcode: DriverOpcode) -> FaultSchedule.Decision? {
        schedule.withLock { $0.next(OperationSet(opcode)) }
    }
}
