import Core
import DriverKit
import Glibc
import Reactor
import Synchronization

/// Volumes in memory, whose requests a test can hold back and let go.
final class TestDriver: VolumeDriver {
    struct Volume {
        var bytes: [UInt8]
        var flushes = 0
    }

    struct State {
        var volumes: [Identifier: Volume] = [:]
        var indices: [UInt32: Identifier] = [:]
        /// Opcodes whose requests are held.
        var held: Set<DriverOpcode> = []
        /// Whether queues leave requests where they are.
        var isStalled = false
        /// Answers every request with this instead of executing it.
        var failure: Status?
        var queues: [TestQueueLink] = []
        /// Whether it serves no further reactor.
        var refusesQueues = false
        var executed: [DriverOpcode] = []
        /// Whether it knows what its blocks are like.
        var isMapped = false
        /// What is wrong with its next answer about that.
        var lie: MapLie?
    }

    /// Answers to a block status that no right driver gives.
    enum MapLie: CaseIterable {
        case nothing, tooMuch, lessThanSaid, moreThanSaid, unknownFlag, emptyExtent, halfAnExtent, tooLong
    }

    /// A queue as other threads know it.
    struct TestQueueLink: @unchecked Sendable {
        // SAFETY: `queue` is used only by work posted to its reactor.
        let remote: ReactorRemote
        let queue: TestQueue
    }

    let state = Mutex(State())

    init() {}

    func createVolume(_ id: Identifier, size: UInt64) throws(StatusError) {
        state.withLock { state in
            if state.volumes[id] == nil {
                state.volumes[id] = Volume(bytes: Array(repeating: 0, count: Int(size)))
            }
        }
    }

    func resizeVolume(_ id: Identifier, to size: UInt64) throws(StatusError) {
        state.withLock { state in
            let missing = Int(size) - (state.volumes[id]?.bytes.count ?? 0)
            state.volumes[id]?.bytes.append(contentsOf: Array(repeating: 0, count: max(missing, 0)))
        }
    }

    func deleteVolume(_ id: Identifier) throws(StatusError) {
        state.withLock { state in state.volumes[id] = nil }
    }

    func volumes() throws(StatusError) -> [Identifier: UInt64] {
        state.withLock { $0.volumes.mapValues { UInt64($0.bytes.count) } }
    }

    func capacity() throws(StatusError) -> PoolCapacity {
        PoolCapacity(total: 1 << 30, used: 0, free: 1 << 30)
    }

    func openVolume(_ id: Identifier, index: UInt32) throws(StatusError) -> VolumeGeometry {
        let size: Int? = state.withLock { state in
            state.indices[index] = id
            return state.volumes[id]?.bytes.count
        }
        guard let size else { throw StatusError(.notFound, "there is no such volume") }
        return VolumeGeometry(size: UInt64(size), blockSize: 512, maximumTransfer: 1 << 20)
    }

    func closeVolume(_ index: UInt32) {
        state.withLock { state in state.indices[index] = nil }
    }

    func makeQueue(
        reactor: Reactor, arena: Arena, submissions: SubmissionRing, completions: CompletionRing,
        onCompletions: @escaping () -> Void
    ) throws(StatusError) -> any DriverQueue {
        if state.withLock({ $0.refusesQueues }) { throw StatusError(.busy, "no room for another reactor") }
        let queue = TestQueue(
            driver: self, arena: arena, submissions: submissions, completions: completions,
            onCompletions: onCompletions)
        state.withLock { $0.queues.append(TestQueueLink(remote: reactor.remote, queue: queue)) }
        return queue
    }

    // MARK: For tests

    func hold(_ opcodes: Set<DriverOpcode>) {
        state.withLock { $0.held = opcodes }
    }

    /// Has queues leave what is submitted in the ring, or take it again.
    func stall(_ isStalled: Bool) {
        let queues = state.withLock { state in
            state.isStalled = isStalled
            return state.queues
        }
        if !isStalled { for link in queues { link.remote.post { link.queue.process() } } }
    }

    /// Has block statuses answered, or refused.
    func map(_ isMapped: Bool) { state.withLock { $0.isMapped = isMapped } }

    /// Has every block status answered wrongly.
    func lie(_ lie: MapLie) {
        state.withLock {
            $0.isMapped = true
            $0.lie = lie
        }
    }

    /// Executes what is held, on every reactor, and holds nothing more.
    func letGo() {
        let queues = state.withLock { state in
            state.held = []
            return state.queues
        }
        for link in queues { link.remote.post { link.queue.executeHeld() } }
    }

    /// Returns when `count` requests or more are held, on all reactors together, and how many.
    @discardableResult
    func waitUntilHeld(_ count: Int) async -> Int {
        while true {
            let queues = state.withLock { $0.queues }
            var held = 0
            for link in queues {
                held += await withCheckedContinuation { continuation in
                    let isPosted = link.remote.post {
                        continuation.resume(returning: link.queue.held.count)
                    }
                    if !isPosted { continuation.resume(returning: 0) }
                }
            }
            if held >= count { return held }
            await Task.yield()
        }
    }

    var executed: [DriverOpcode] { state.withLock { $0.executed } }

    func contents(of id: Identifier) -> [UInt8] {
        state.withLock { $0.volumes[id]?.bytes ?? [] }
    }
}

final class TestQueue: DriverQueue {
    private let driver: TestDriver
    private let arena: Arena
    private let submissions: SubmissionRing
    private let completions: CompletionRing
    private let onCompletions: () -> Void
    private(set) var held: [DriverRequest] = []

    init(
        driver: TestDriver, arena: Arena, submissions: SubmissionRing, completions: CompletionRing,
        onCompletions: @escaping () -> Void
    ) {
        self.driver = driver
        self.arena = arena
        self.submissions = submissions
        self.completions = completions
        self.onCompletions = onCompletions
    }

    func process() {
        let (heldOpcodes, isStalled) = driver.state.withLock { ($0.held, $0.isStalled) }
        if isStalled { return }
        var hasCompletions = false
        while let request = submissions.pop() {
            if let opcode = request.opcode, heldOpcodes.contains(opcode) {
                held.append(request)
            } else {
                complete(request)
                hasCompletions = true
            }
        }
        if hasCompletions { onCompletions() }
    }

    func executeHeld() {
        let requests = held
        held = []
        for request in requests { complete(request) }
        if !requests.isEmpty { onCompletions() }
    }

    func indexChanged(_ index: UInt32) {}

    func stop() {}

    private func complete(_ request: DriverRequest) {
        var map = (covered: UInt64(0), bytes: UInt32(0))
        let status = driver.state.withLock { state -> Status in
            guard let opcode = request.opcode else { return .unknownOpcode }
            state.executed.append(opcode)
            if let failure = state.failure { return failure }
            guard let id = state.indices[request.index], let size = state.volumes[id]?.bytes.count else {
                return .notFound
            }
            let start = Int(request.offset)
            let count = Int(request.length)
            if opcode != .flush, start + count > size { return .ioError }
            let memory = unsafe arena.base + Int(request.buffer)
            switch opcode {
            case .read:
                unsafe state.volumes[id]?.bytes.withUnsafeBytes {
                    guard let base = $0.baseAddress else { return }
                    unsafe memory.copyMemory(from: base + start, byteCount: count)
                }
            case .write:
                unsafe state.volumes[id]?.bytes.withUnsafeMutableBytes {
                    guard let base = $0.baseAddress else { return }
                    unsafe (base + start).copyMemory(from: memory, byteCount: count)
                }
            case .flush:
                state.volumes[id]?.flushes += 1
            case .blockStatus:
                guard state.isMapped else { return .notSupported }
                unsafe map = self.map(
                    state.volumes[id]?.bytes ?? [], start, request, to: memory, lie: state.lie)
            default:
                for index in start..<start + count { state.volumes[id]?.bytes[index] = 0 }
            }
            return .ok
        }
        _ = completions.push(
            DriverCompletion(
                tag: request.tag, status: status.rawValue, value: map.covered, mapBytes: map.bytes))
    }

    /// Zeroes are holes, all else is data; unless it lies.
    private func map(
        _ bytes: [UInt8], _ start: Int, _ request: DriverRequest, to memory: UnsafeMutableRawPointer,
        lie: TestDriver.MapLie?
    ) -> (covered: UInt64, bytes: UInt32) {
        var writer = unsafe BlockMapWriter(buffer: memory, length: request.length)
        for block in stride(from: start, to: start + Int(request.length), by: 512) where unsafe writer.goesOn
        {
            unsafe writer.append(512, bytes[block..<block + 512].allSatisfy { $0 == 0 } ? .zero : .allocated)
        }
        let covered = unsafe writer.covered
        let count = unsafe UInt32(writer.bytes)
        switch lie {
        case nil: return (covered, count)
        case .nothing: return (covered, 0)
        case .tooMuch:
            unsafe BlockExtent(length: covered + 512, flags: .zero).store(memory)
            return (covered + 512, 16)
        case .lessThanSaid:
            unsafe BlockExtent(length: covered - 512, flags: .zero).store(memory)
            return (covered, 16)
        case .moreThanSaid:
            unsafe BlockExtent(length: covered, flags: .zero).store(memory)
            return (covered - 512, 16)
        case .unknownFlag:
            unsafe BlockExtent(length: covered, flags: [.zero, BlockFlags(rawValue: 1 << 9)]).store(memory)
            return (covered, 16)
        case .emptyExtent:
            unsafe BlockExtent(length: 0, flags: .zero).store(memory)
            unsafe BlockExtent(length: covered, flags: .zero).store(memory + 16)
            return (covered, 32)
        case .halfAnExtent:
            unsafe BlockExtent(length: covered, flags: .zero).store(memory)
            return (covered, 24)
        case .tooLong: return (covered, 4112)
        }
    }
}
