import DriverKit
import Synchronization

/// A pool with its driver, shared by all shards.
final class Pool: Sendable {
    let descriptor: PoolDescriptor
    /// The pool's number, by which shards know their port to it.
    let number: UInt8
    let driver: any PoolDriver
    let worker: PoolWorker
    private let writesWait: Atomic<Bool>
    private let refusalCount = Atomic<UInt64>(0)
    private let refusedAt = Atomic<UInt64>(0)

    init(descriptor: PoolDescriptor, number: UInt8, driver: any PoolDriver, worker: PoolWorker) {
        self.descriptor = descriptor
        self.number = number
        self.driver = driver
        self.worker = worker
        writesWait = Atomic(descriptor.whenFull == .wait)
    }

    /// What becomes of writes for which there is no space, from now on.
    func set(_ policy: FullPolicy) { writesWait.store(policy == .wait, ordering: .relaxed) }

    /// Notes a write for which there was no space, at `now` in Unix seconds; whether its client is to wait.
    func refused(now: UInt64) -> Bool {
        refusalCount.add(1, ordering: .relaxed)
        refusedAt.store(now, ordering: .relaxed)
        return writesWait.load(ordering: .relaxed)
    }

    /// How many writes found no space, and when the last one did, in Unix seconds.
    var refusals: (count: UInt64, last: UInt64?) {
        let last = refusedAt.load(ordering: .relaxed)
        return (refusalCount.load(ordering: .relaxed), last == 0 ? nil : last)
    }
}
