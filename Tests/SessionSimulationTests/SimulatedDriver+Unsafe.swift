import Core
import DriverKit
import Reactor
import Simulation

// SAFETY: it is used on the simulation's only thread.
/// A pool's driver: it does what it is given in any order and a block at a time, when the simulation says so.
final class SimulatedDriver: VolumeDriver, @unchecked Sendable {
    private unowned let world: SessionSimulator
    private(set) var queues: [SimulatedQueue] = []
    private let geometry = VolumeGeometry(
        size: 4096, blockSize: UInt32(SimulatedDisk.blockBytes), maximumTransfer: 1024)
    /// Set when the server's process is dead: nothing reaches the disk any more.
    var isDead = false

    init(world: SessionSimulator) { self.world = world }

    func createVolume(_ id: Identifier, size: UInt64) throws(StatusError) {}
    func resizeVolume(_ id: Identifier, to size: UInt64) throws(StatusError) {}
    func deleteVolume(_ id: Identifier) throws(StatusError) {}
    func volumes() throws(StatusError) -> [Identifier: UInt64] { [:] }
    func capacity() throws(StatusError) -> PoolCapacity { PoolCapacity(total: 4096, used: 4096, free: 0) }
    func openVolume(_ id: Identifier, index: UInt32) throws(StatusError) -> VolumeGeometry { geometry }
    func closeVolume(_ index: UInt32) {}

    func makeQueue(
        reactor: Reactor, arena: Arena, submissions: SubmissionRing, completions: CompletionRing,
        onCompletions: @escaping () -> Void
    ) throws(StatusError) -> any DriverQueue {
        let queue = SimulatedQueue(
            driver: self, world: world, arena: arena, submissions: submissions, completions: completions,
            onCompletions: onCompletions)
        queues.append(queue)
        return queue
    }

    /// Requests that are neither done nor dropped.
    var inFlight: Int { queues.reduce(0) { $0 + $1.operations.count } }
}

// SAFETY: `arena` lives as long as the queue, and the buffers of its requests are its own until they complete.
/// A driver's end of one reactor's rings.
@safe
final class SimulatedQueue: DriverQueue {
    /// A request that the driver has.
    struct Operation {
        var request: DriverRequest
        /// A bit for each block that is still to be done.
        var left: UInt8
        /// A flush, or what makes a write durable, is still to be done.
        var mustSync: Bool
        var status = Status.ok
        var hasBegun = false
        /// With a planted bug: nobody waits for it any more.
        var isAnswered = false
        /// What a write writes.
        var name: UInt64 = 0

        var first: Int { Int(request.offset) / SimulatedDisk.blockBytes }
        var count: Int { Int(request.length) / SimulatedDisk.blockBytes }
    }

    private unowned let driver: SimulatedDriver
    private unowned let world: SessionSimulator
    private let arena: Arena
    private let submissions: SubmissionRing
    private let completions: CompletionRing
    private let onCompletions: () -> Void
    private(set) var operations: [Operation] = []
    /// Blocks that were written through this queue.
    private var written: Set<Int> = []

    init(
        driver: SimulatedDriver, world: SessionSimulator, arena: Arena, submissions: SubmissionRing,
        completions: CompletionRing, onCompletions: @escaping () -> Void
    ) {
        self.driver = driver
        self.world = world
        self.arena = arena
        self.submissions = submissions
        self.completions = completions
        self.onCompletions = onCompletions
    }

    func process() {
        while operations.count < completions.room, let request = submissions.pop() {
            var operation = Operation(request: request, left: 0, mustSync: request.flags.contains(.fua))
            switch request.opcode {
            case .read, .write:
                operation.left = UInt8(truncatingIfNeeded: (1 << operation.count) - 1)
            case .flush: operation.mustSync = true
            case .blockStatus: operation.status = .notSupported
            default: preconditionFailure("nobody asks for that")
            }
            if request.opcode == .write {
                operation.name = word(request, 0)
                for block in 0..<operation.count where word(request, block) != operation.name {
                    world.fail("the bytes of write \(operation.name) are not its own")
                }
                world.writeReachesDriver(operation.name)
            }
            operations.append(operation)
        }
    }

    func indexChanged(_ index: UInt32) {}

    func withdraw(_ tags: Set<UInt64>, status: Status) {
        for index in operations.indices.reversed() where tags.contains(operations[index].request.tag) {
            if world.bug == .withdrawnGoesOn, operations[index].name != 0, completions.room > 0 {
                answerEarly(index, status)
            } else if !operations[index].hasBegun {
                operations[index].left = 0
                operations[index].mustSync = false
                operations[index].status = status
            }
        }
    }

    func stop() {}

    /// One step of one request; false when there is none.
    func work(faults: Bool) -> Bool {
        guard !operations.isEmpty else { return false }
        let index = world.random.below(operations.count)
        let isZombie = world.zombies.contains { $0 === driver }
        if driver.isDead, !isZombie {
            operations[index].left = 0
            operations[index].mustSync = false
            operations[index].status = .driverFailed
        } else if faults, !operations[index].hasBegun, world.scenario.requestsFail, world.random.once(in: 100)
        {
            operations[index].left = 0
            operations[index].mustSync = false
            operations[index].status = .mediumError
        }
        operations[index].hasBegun = true
        if operations[index].left != 0 {
            transfer(index)
        } else if operations[index].mustSync {
            operations[index].mustSync = false
            let operation = operations[index]
            let isFlush = operation.request.opcode == .flush
            if isFlush, world.bug == .flushForgetsReactor {
                for block in written { world.disk.sync(block..<block + 1) }
                return true
            }
            world.disk.sync(
                isFlush ? 0..<SimulatedDisk.blocks : operation.first..<operation.first + operation.count)
        } else if isZombie {
            operations.remove(at: index)
        } else {
            complete(index)
        }
        return true
    }

    private func transfer(_ index: Int) {
        let left = operations[index].left
        let bit = world.random.once(in: 2) ? left.trailingZeroBitCount : 7 - left.leadingZeroBitCount
        operations[index].left &= ~(1 << UInt8(bit))
        let operation = operations[index]
        if operation.request.opcode == .write {
            world.write(operation.name, block: operation.first + bit)
            written.insert(operation.first + bit)
        } else {
            let name = world.disk.cache[operation.first + bit].name
            let target = unsafe arena.base + Int(operation.request.buffer) + bit * SimulatedDisk.blockBytes
            unsafe BlockBytes.fill(target, name)
        }
    }

    private func answerEarly(_ index: Int, _ status: Status) {
        guard !operations[index].isAnswered else { return }
        operations[index].isAnswered = true
        let tag = operations[index].request.tag
        _ = completions.push(DriverCompletion(tag: tag, status: status.rawValue, value: 0))
        onCompletions()
    }

    private func complete(_ index: Int) {
        let operation = operations.remove(at: index)
        if operation.isAnswered { return }
        if operation.request.opcode == .write { world.writeEnds(operation.name) }
        let isPushed = completions.push(
            DriverCompletion(
                tag: operation.request.tag, status: operation.status.rawValue, value: operation.request.length
            ))
        precondition(isPushed, "no more is taken than can be answered")
        onCompletions()
    }

    private func word(_ request: DriverRequest, _ block: Int) -> UInt64 {
        unsafe BlockBytes.name(arena.base + Int(request.buffer) + block * SimulatedDisk.blockBytes)
    }
}

/// A block's bytes: its value, over and over.
enum BlockBytes {
    /// What a block holds that is of two values.
    static let torn = UInt64.max

    /// - Safety: `target` points at a block's bytes.
    @unsafe
    static func fill(_ target: UnsafeMutableRawPointer, _ name: UInt64) {
        for at in stride(from: 0, to: SimulatedDisk.blockBytes, by: 8) {
            unsafe target.storeBytes(of: name, toByteOffset: at, as: UInt64.self)
        }
    }

    /// - Safety: `source` points at a block's bytes.
    @unsafe
    static func name(_ source: UnsafeRawPointer) -> UInt64 {
        let name = unsafe source.loadUnaligned(as: UInt64.self)
        let last = unsafe source.loadUnaligned(
            fromByteOffset: SimulatedDisk.blockBytes - 8, as: UInt64.self)
        return name == last ? name : torn
    }
}
