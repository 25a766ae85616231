import Core
import DriverKit
import Reactor
import Services
import Synchronization
import Testing

/// A driver whose resources are no volumes.
private final class TreeDriver: PoolDriver {
    /// Has nothing to do.
    private final class Queue: DriverQueue {
        private let ended: @Sendable () -> Void

        init(ended: @escaping @Sendable () -> Void) { self.ended = ended }
        func process() {}
        func indexChanged(_ index: UInt32) {}
        func stop() { ended() }
    }

    let kind = ResourceKind.fileset
    /// Queues that were made, and that were stopped.
    let queues = Mutex((made: 0, stopped: 0))

    func capacity() throws(StatusError) -> PoolCapacity { PoolCapacity(total: 4096, used: 1024, free: 3072) }

    func makeQueue(
        reactor: Reactor, arena: Arena, submissions: SubmissionRing, completions: CompletionRing,
        onCompletions: @escaping () -> Void
    ) throws(StatusError) -> any DriverQueue {
        queues.withLock { $0.made += 1 }
        return Queue { [self] in queues.withLock { $0.stopped += 1 } }
    }
}

@Suite struct OtherKindTests {
    @Test func aPoolOfAnotherKindHasQueuesAndSpaceAndTakesNoVolume() async throws {
        let trees = TreeDriver()
        let configure: (inout IOServices.Configuration) -> Void = { configuration in
            let others = configuration.driverFactory
            configuration.driverFactory = { pool throws(StatusError) in
                pool.name == "trees" ? trees : try others(pool)
            }
        }
        try await withServer(configure: configure) { server async throws in
            let services = server.services
            try await services.perform(
                .addPool(PoolDescriptor(name: "trees", driver: "tree", settings: [:], folder: "")))
            #expect(trees.queues.withLock { $0.made } > 0)
            let space = try await services.perform(.poolSpace("trees"))
            #expect(space.capacity.free == 3072 && space.used.isEmpty)
            let volume = VolumeDescriptor(
                id: Identifier(high: 1, low: 2), name: "v", pool: "trees", size: 4096,
                accessMode: .singleWriter, epoch: 1)
            let refusal = await #expect(throws: StatusError.self) {
                try await services.perform(.createVolume(volume))
            }
            #expect(refusal?.status == .badRequest)
            await #expect(throws: StatusError.self) {
                try await services.perform(.volumesOnDevice("trees"))
            }
            // Nothing of the refused volume keeps the pool.
            try await services.perform(.removePool("trees"))
            #expect(trees.queues.withLock { $0.made == $0.stopped })
        }
    }
}
