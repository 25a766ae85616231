import Core
import DriverKit
import Reactor
import Synchronization

/// Volumes in the memory of the driver's process: the smallest driver that passes the conformance suite.
final class SmallestDriver: InstalledVolumeDriver {
    static let name = "smallest"
    static let poolBytes: UInt64 = 256 << 20

    private struct State {
        var volumes: [Identifier: SmallestVolume] = [:]
        var open: [UInt32: Identifier] = [:]
    }

    // The pool's thread changes it, and queues look volumes up on their reactors.
    private let state = Mutex(State())

    init(_ environment: DriverEnvironment) throws(StatusError) {
        guard environment.settings.isEmpty else {
            throw StatusError(.badRequest, "the driver \(Self.name) has no settings")
        }
    }

    static func isVolatile(settings: [String: String]) -> Bool { true }

    func capacity() throws(StatusError) -> PoolCapacity {
        let used = try volumes().values.reduce(0, +)
        return PoolCapacity(
            total: Self.poolBytes, used: used, free: Self.poolBytes - min(used, Self.poolBytes))
    }

    func createVolume(_ id: Identifier, size: UInt64) throws(StatusError) {
        try check(size)
        let known = state.withLock { state in
            let known = state.volumes[id]
            if known == nil { state.volumes[id] = SmallestVolume(size: size) }
            return known
        }
        if let known, known.size != size {
            throw StatusError(.alreadyExists, "the volume \(id) exists with \(known.size) bytes")
        }
    }

    func resizeVolume(_ id: Identifier, to size: UInt64) throws(StatusError) {
        try check(size)
        let volume = try volume(id)
        if size < volume.size { throw StatusError(.notSupported, "a volume cannot shrink") }
        volume.grow(to: size)
    }

    func deleteVolume(_ id: Identifier) throws(StatusError) {
        _ = state.withLock { $0.volumes.removeValue(forKey: id) }
    }

    func volumes() throws(StatusError) -> [Identifier: UInt64] {
        state.withLock { $0.volumes.mapValues(\.size) }
    }

    func openVolume(_ id: Identifier, index: UInt32) throws(StatusError) -> VolumeGeometry {
        let volume = try volume(id)
        state.withLock { $0.open[index] = id }
        return volume.geometry
    }

    func closeVolume(_ index: UInt32) {
        _ = state.withLock { $0.open.removeValue(forKey: index) }
    }

    func makeQueue(
        reactor: Reactor, arena: Arena, submissions: SubmissionRing, completions: CompletionRing,
        onCompletions: @escaping () -> Void
    ) throws(StatusError) -> any DriverQueue {
        SmallestQueue(
            driver: self,
            queue: CheckedQueue(arena: arena, submissions: submissions, completions: completions),
            onCompletions: onCompletions)
    }

    /// The volume that is open under an index. Any thread.
    func volume(at index: UInt32) -> SmallestVolume? {
        state.withLock { state in state.open[index].flatMap { state.volumes[$0] } }
    }

    private func volume(_ id: Identifier) throws(StatusError) -> SmallestVolume {
        guard let volume = state.withLock({ $0.volumes[id] }) else {
            throw StatusError(.notFound, "there is no volume \(id) in the pool")
        }
        return volume
    }

    private func check(_ size: UInt64) throws(StatusError) {
        guard size > 0, size % Limits.volumeSizeGranule == 0, size <= Self.poolBytes else {
            throw StatusError(.badRequest, "a volume has whole pages, at most \(Self.poolBytes) bytes")
        }
    }
}

/// The bytes of one volume. Any thread.
final class SmallestVolume: Sendable {
    private let bytes: Mutex<[UInt8]>

    init(size: UInt64) { bytes = Mutex([UInt8](repeating: 0, count: Int(size))) }

    var size: UInt64 { bytes.withLock { UInt64($0.count) } }
    var geometry: VolumeGeometry { VolumeGeometry(size: size, blockSize: 512, maximumTransfer: 1 << 20) }

    func grow(to size: UInt64) {
        bytes.withLock { $0 += [UInt8](repeating: 0, count: Int(size) - $0.count) }
    }

    /// Does a request whose place is within the volume; `buffer` is where its bytes are in the arena.
    func perform(_ opcode: DriverOpcode, _ request: DriverRequest, buffer: UnsafeMutableRawPointer) {
        let range = Int(request.offset)..<Int(request.offset) + Int(request.length)
        bytes.withLock { bytes in
            unsafe bytes.withUnsafeMutableBytes { all in
                let part = unsafe UnsafeMutableRawBufferPointer(rebasing: all[range])
                let lent = unsafe UnsafeMutableRawBufferPointer(start: buffer, count: part.count)
                switch opcode {
                case .read: unsafe lent.copyMemory(from: UnsafeRawBufferPointer(part))
                case .write: unsafe part.copyMemory(from: UnsafeRawBufferPointer(lent))
                case .writeZeroes, .discard: _ = unsafe part.initializeMemory(as: UInt8.self, repeating: 0)
                case .flush, .blockStatus: break
                }
            }
        }
    }
}

/// The requests of one reactor. Its thread only.
final class SmallestQueue: DriverQueue {
    private let driver: SmallestDriver
    private let queue: CheckedQueue
    private let onCompletions: () -> Void
    private var open = OpenIndices<(SmallestVolume, VolumeGeometry)>()

    init(driver: SmallestDriver, queue: CheckedQueue, onCompletions: @escaping () -> Void) {
        self.driver = driver
        self.queue = queue
        self.onCompletions = onCompletions
    }

    func indexChanged(_ index: UInt32) {
        open.set(index, driver.volume(at: index).map { ($0, $0.geometry) })
    }

    func process() {
        var isAnswered = false
        // No more than can be answered: what is left waits in the ring for the next call.
        while queue.room > 0, let next = queue.next({ open[$0] }) {
            switch next {
            case .valid(let request, let opcode, let volume): perform(request, opcode, volume)
            case .refused(let tag, let status): queue.complete(tag, status, 0)
            }
            isAnswered = true
        }
        if isAnswered { onCompletions() }
    }

    private func perform(_ request: DriverRequest, _ opcode: DriverOpcode, _ volume: SmallestVolume) {
        let buffer = unsafe queue.arena.base + (opcode.hasBuffer ? Int(request.buffer) : 0)
        switch opcode {
        // Nothing here outlives the process, and nothing of it waits to be written.
        case .flush: break
        case .blockStatus:
            // All of it counts as data.
            var map = unsafe BlockMapWriter(buffer: buffer, length: request.length)
            unsafe map.append(request.length, .allocated)
            return unsafe queue.complete(request.tag, .ok, map.covered, mapBytes: UInt32(map.bytes))
        case .read, .write, .writeZeroes, .discard:
            unsafe volume.perform(opcode, request, buffer: buffer)
        }
        queue.complete(request.tag, .ok, request.length)
    }

    func stop() { open.removeAll() }
}

extension DriverOpcode {
    /// Whether the check vouches for a buffer of the request.
    fileprivate var hasBuffer: Bool { self == .read || self == .write || self == .blockStatus }
}
