import DriverKit

/// A running pool: its driver, and the thread that makes the driver's blocking calls.
final class Pool: Sendable {
    let descriptor: PoolDescriptor
    /// The pool's number, by which shards know their port to it.
    let number: UInt8
    let driver: any Driver
    let worker: PoolWorker

    init(descriptor: PoolDescriptor, number: UInt8, driver: any Driver, worker: PoolWorker) {
        self.descriptor = descriptor
        self.number = number
        self.driver = driver
        self.worker = worker
    }
}
