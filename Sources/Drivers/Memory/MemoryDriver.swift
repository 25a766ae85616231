import Core
import DriverKit
import Reactor
import Synchronization

/// Volumes in memory, sparse, gone with the server: for measuring, for tests and for scratch data.
///
/// With a store that keeps descriptors, they are in shared memory and outlive the driver's process.
///
/// Setting `size`: how much all volumes together may hold, such as `4GiB`; it is taken in chunks of 2 MiB.
public final class MemoryDriver: InstalledVolumeDriver {
    /// `memory`.
    public static let name = "memory"

    private struct State {
        var volumes: [Identifier: MemoryVolume] = [:]
        var open: [UInt32: Identifier] = [:]
    }

    private let budget: MemoryBudget
    private let kept: KeptMemory?
    private let state = Mutex(State())

    /// A pool with the volumes that the store keeps. The folder is not used.
    public init(_ environment: DriverEnvironment) throws(StatusError) {
        let settings = try DriverSettings(environment.settings, driver: MemoryDriver.name, known: ["size"])
        budget = MemoryBudget(bytes: try settings.bytes("size", default: Limits.memoryPoolBytesDefault))
        if budget.chunksMax == 0 {
            throw StatusError(.badRequest, "a memory pool has at least \(Limits.memoryChunkBytes) bytes")
        }
        kept = environment.store is NoDescriptorStore ? nil : KeptMemory(environment.store)
        if let kept {
            let found = try kept.volumes(budget: budget)
            state.withLock { $0.volumes = found }
        }
    }

    /// Shared memory.
    public static func needs(settings: [String: String]) throws(StatusError) -> DriverNeeds {
        var needs = DriverNeeds()
        needs.sharedMemory = true
        return needs
    }

    /// It is gone.
    public static func isVolatile(settings: [String: String]) -> Bool { true }

    /// Takes nothing while it runs; a setting that does not exist is said to be none.
    public func configure(settings: [String: String]) throws(StatusError) {
        _ = try DriverSettings(settings, driver: MemoryDriver.name, known: ["size"])
        throw StatusError(
            .notSupported,
            "its size cannot be changed while the pool runs: make another pool")
    }

    /// What is in memory does not outlive the server.
    public var notes: [String] { ["The volumes of a memory pool are gone when the server stops."] }

    /// Makes a volume; takes no memory yet.
    public func createVolume(_ id: Identifier, size: UInt64) throws(StatusError) {
        try check(size)
        if let existing = state.withLock({ $0.volumes[id] }) {
            if existing.size == size { return }
            throw StatusError(.alreadyExists, "the volume \(id) exists with \(existing.size) bytes")
        }
        let volume =
            if let kept { try kept.make(id, size: size, budget: budget) } else {
                try MemoryVolume.make(size: size, budget: budget)
            }
        state.withLock { $0.volumes[id] = volume }
    }

    /// Grows a volume.
    public func resizeVolume(_ id: Identifier, to size: UInt64) throws(StatusError) {
        try check(size)
        let volume = try volume(id)
        if size < volume.size {
            throw StatusError(.notSupported, "a volume cannot shrink: it has \(volume.size) bytes")
        }
        let larger =
            if let kept { try kept.grow(volume, id, to: size, budget: budget) } else {
                try volume.grown(to: size, budget: budget)
            }
        state.withLock { $0.volumes[id] = larger }
    }

    /// Deletes a volume; its memory is free when no reactor has it open.
    public func deleteVolume(_ id: Identifier) throws(StatusError) {
        kept?.delete(id)
        _ = state.withLock { $0.volumes.removeValue(forKey: id) }
    }

    /// The volumes and their sizes.
    public func volumes() throws(StatusError) -> [Identifier: UInt64] {
        state.withLock { $0.volumes.mapValues(\.size) }
    }

    /// How full the pool is.
    public func capacity() throws(StatusError) -> PoolCapacity {
        let chunk = UInt64(Limits.memoryChunkBytes)
        let total = UInt64(budget.chunksMax) * chunk
        let used = min(total, UInt64(max(0, budget.chunksTaken)) * chunk)
        return PoolCapacity(total: total, used: used, free: total - used)
    }

    /// What the volumes' chunks take.
    public func usage() throws(StatusError) -> [Identifier: UInt64] {
        state.withLock { $0.volumes }.mapValues { volume in
            let chunks = volume.segments.reduce(0) { $0 + $1.chunksPresent }
            return UInt64(chunks * Limits.memoryChunkBytes)
        }
    }

    /// Opens a volume under an index.
    public func openVolume(_ id: Identifier, index: UInt32) throws(StatusError) -> VolumeGeometry {
        guard index < Limits.openVolumesPerPoolMax else {
            throw StatusError(.busy, "too many open volumes in the pool")
        }
        let volume = try volume(id)
        // By now, no other process works on the volume.
        for segment in volume.segments { segment.recover() }
        state.withLock { $0.open[index] = id }
        return volume.geometry
    }

    /// Ends the use of an index.
    public func closeVolume(_ index: UInt32) {
        _ = state.withLock { $0.open.removeValue(forKey: index) }
    }

    /// The request side for one reactor; completes within `process()`.
    public func makeQueue(
        reactor: Reactor, arena: Arena, submissions: SubmissionRing, completions: CompletionRing,
        onCompletions: @escaping () -> Void
    ) throws(StatusError) -> any DriverQueue {
        MemoryQueue(
            driver: self, arena: arena, submissions: submissions, completions: completions,
            onCompletions: onCompletions)
    }

    /// The volume that is open under an index.
    func openVolume(_ index: UInt32) -> MemoryVolume? {
        state.withLock { state in state.open[index].flatMap { state.volumes[$0] } }
    }

    private func volume(_ id: Identifier) throws(StatusError) -> MemoryVolume {
        guard let volume = state.withLock({ $0.volumes[id] }) else {
            throw StatusError(
                .notFound, "there is no volume \(id) in the pool; what is in memory ends with the server")
        }
        return volume
    }

    private func check(_ size: UInt64) throws(StatusError) {
        if size == 0 || size % Limits.volumeSizeGranule != 0 {
            throw StatusError(
                .badRequest, "a volume's size is a multiple of \(Limits.volumeSizeGranule) bytes")
        }
        if size > Limits.memoryVolumeBytesMax {
            throw StatusError(.tooLarge, "a memory volume has at most \(Limits.memoryVolumeBytesMax) bytes")
        }
    }
}
