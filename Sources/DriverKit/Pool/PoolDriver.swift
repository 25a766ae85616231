import Core
import Reactor

/// How much a pool holds, in bytes.
public struct PoolCapacity: Sendable, Hashable {
    /// What the device has.
    public var total: UInt64
    /// What the pool's volumes take.
    public var used: UInt64
    /// What can still be written.
    public var free: UInt64

    /// A capacity.
    public init(total: UInt64, used: UInt64, free: UInt64) {
        self.total = total
        self.used = used
        self.free = free
    }
}

/// A pool's driver, of whatever kind its resources are: one instance for each pool. What only drivers of one kind
/// can do is in a protocol of that kind, such as `VolumeDriver`. The methods may block and are never called on a
/// reactor's thread, apart from `makeQueue`; one call at a time.
public protocol PoolDriver: AnyObject, Sendable {
    /// What its resources are. Never blocks.
    var kind: ResourceKind { get }

    /// What an operator should know about how this pool runs, in plain sentences.
    var notes: [String] { get }

    /// How full the pool is.
    ///
    /// - Throws: `driverFailed` when its device is gone.
    func capacity() throws(StatusError) -> PoolCapacity

    /// Takes over settings that can be changed while the pool runs.
    ///
    /// - Throws: `notSupported` when a setting that differs needs a restart, `badRequest` when it is not valid.
    func configure(settings: [String: String]) throws(StatusError)

    /// The request side for one reactor; called on that reactor's thread. All buffers of the requests lie in
    /// `arena`.
    ///
    /// - Parameter onCompletions: called on the reactor's thread, at most once a wake-up, when completions
    /// were pushed.
    func makeQueue(
        reactor: Reactor, arena: Arena, submissions: SubmissionRing, completions: CompletionRing,
        onCompletions: @escaping () -> Void
    ) throws(StatusError) -> any DriverQueue
}

extension PoolDriver {
    /// Nothing to know.
    public var notes: [String] { [] }

    /// No setting can be changed while the pool runs.
    public func configure(settings: [String: String]) throws(StatusError) {
        throw StatusError(
            .notSupported,
            "the settings of this driver cannot be changed while the pool runs: make another pool")
    }
}

/// The request side of a driver on one reactor, of whatever kind its resources are; confined to its thread.
///
/// Requests name by an index what is open in the driver: a volume, or a file of a tree.
///
/// A queue takes no more requests than the completion ring has room to answer: it never loses a completion,
/// and what it leaves in the submission ring it takes later by itself or at the next `process()`.
public protocol DriverQueue: AnyObject {
    /// Starts what is in the submission ring.
    func process()

    /// Tells that the driver has opened, resized or closed what requests name by this index.
    func indexChanged(_ index: UInt32)

    /// Leaves these requests, which it has taken, out of whatever is repeated when a driver is lost, because who
    /// asked was cut off: each ends soon, with what became of it, or with `status` when it surely will not run.
    func withdraw(_ tags: Set<UInt64>, status: Status)

    /// Ends the queue; call it when nothing is in flight.
    func stop()
}

extension DriverQueue {
    /// Nothing: what was taken is being done, and is not repeated.
    public func withdraw(_ tags: Set<UInt64>, status: Status) {}
}
