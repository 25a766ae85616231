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

/// What the users of an open volume must know.
public struct VolumeGeometry: Sendable, Hashable {
    /// Its size in bytes.
    public var size: UInt64
    /// Offsets and lengths of requests are multiples of this, in bytes; a power of two.
    public var blockSize: UInt32
    /// The longest read or write in bytes; other operations may cover any range.
    public var maximumTransfer: UInt32

    /// A geometry.
    public init(size: UInt64, blockSize: UInt32, maximumTransfer: UInt32) {
        precondition(blockSize.nonzeroBitCount == 1, "a block size is a power of two")
        self.size = size
        self.blockSize = blockSize
        self.maximumTransfer = maximumTransfer
    }

    /// Judges a request as it came out of a ring: `ok` means that its opcode is known, that it lies within
    /// the volume and, where it has a buffer, that this lies within an arena of `arenaBytes`. Nothing
    /// needs checking after that.
    public func check(_ request: DriverRequest, arenaBytes: Int) -> Status {
        guard let opcode = request.opcode else { return .unknownOpcode }
        if opcode == .flush { return .ok }
        if request.length == 0 { return .badLength }
        let (end, overflow) = request.offset.addingReportingOverflow(request.length)
        if overflow || end > size { return .outOfRange }
        if (request.offset | request.length) & UInt64(blockSize - 1) != 0 { return .unaligned }
        if opcode == .read || opcode == .write || opcode == .blockStatus {
            let isMap = opcode == .blockStatus
            if !isMap, request.length > UInt64(maximumTransfer) { return .tooLarge }
            let bufferBytes = isMap ? UInt64(Limits.blockStatusBytesMax) : request.length
            let (bufferEnd, bufferOverflow) = request.buffer.addingReportingOverflow(bufferBytes)
            if bufferOverflow || bufferEnd > UInt64(arenaBytes) { return .badRequest }
            if request.buffer % UInt64(Limits.arenaGranule) != 0 { return .badRequest }
        }
        return .ok
    }
}

/// The control side of a pool: one instance for each pool. Its methods may block and are never called on a
/// reactor's thread, apart from `makeQueue`; one call at a time.
public protocol Driver: AnyObject, Sendable {
    /// What an operator should know about how this pool runs, in plain sentences.
    var notes: [String] { get }

    /// Makes a volume that reads as zeroes; durable when it returns. Making it again with the same size
    /// changes nothing.
    func createVolume(_ id: Identifier, size: UInt64) throws(StatusError)

    /// Does a part of what a volume that was made still needs before it can be opened, or before it can grow to `size`,
    /// such as zeroing a device: as much as takes about a second. Called again and again, also after a loss or a
    /// restart, until nothing is left; other calls may come in between.
    ///
    /// - Returns: how many bytes are left; 0 when it is ready.
    func prepareVolume(_ id: Identifier, to size: UInt64) throws(StatusError) -> UInt64

    /// Grows a volume; durable when it returns. What is added reads as zeroes.
    func resizeVolume(_ id: Identifier, to size: UInt64) throws(StatusError)

    /// Deletes a volume; durable when it returns. Deleting what is not there changes nothing.
    func deleteVolume(_ id: Identifier) throws(StatusError)

    /// The volumes of the pool and their sizes in bytes.
    func volumes() throws(StatusError) -> [Identifier: UInt64]

    /// How full the pool is.
    ///
    /// - Throws: `driverFailed` when its device is gone.
    func capacity() throws(StatusError) -> PoolCapacity

    /// What the volumes take of the pool's space, in bytes.
    func usage() throws(StatusError) -> [Identifier: UInt64]

    /// Opens a volume for requests that name it by `index`, below `Limits.openVolumesPerPoolMax`. Opening it
    /// anew under its index forgets a failed flush.
    func openVolume(_ id: Identifier, index: UInt32) throws(StatusError) -> VolumeGeometry

    /// Ends the use of an index. Requests that are running complete.
    func closeVolume(_ index: UInt32)

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

extension Driver {
    /// Nothing to know.
    public var notes: [String] { [] }

    /// Nothing is left to do.
    public func prepareVolume(_ id: Identifier, to size: UInt64) throws(StatusError) -> UInt64 { 0 }

    /// Not known.
    public func usage() throws(StatusError) -> [Identifier: UInt64] { [:] }
}

/// A driver that pools can name.
public protocol PoolDriver: Driver {
    /// The name that pools say, such as `file`.
    static var name: String { get }

    /// What the sandbox of a driver host must leave to this driver, beside the pool's folder.
    ///
    /// - Throws: when the settings are not valid.
    static func needs(settings: [String: String]) throws(StatusError) -> DriverNeeds

    /// Opens the pool.
    init(_ environment: DriverEnvironment) throws(StatusError)

    /// Takes over settings that can be changed while the pool runs.
    ///
    /// - Throws: `notSupported` when a setting that differs needs a restart, `badRequest` when it is not valid.
    func configure(settings: [String: String]) throws(StatusError)
}

extension PoolDriver {
    /// Nothing beside the folder.
    public static func needs(settings: [String: String]) throws(StatusError) -> DriverNeeds { DriverNeeds() }

    /// No setting can be changed while the pool runs.
    public func configure(settings: [String: String]) throws(StatusError) {
        throw StatusError(.notSupported, "the settings of this driver cannot be changed while the pool runs")
    }
}

/// What a driver is opened with.
public struct DriverEnvironment: Sendable {
    /// The pool's settings.
    public var settings: [String: String]
    /// The pool's own folder, for messages and for opening it at start; it exists.
    public var folder: String
    /// Descriptors that outlive the driver's process.
    public var store: any DescriptorStore
    /// Whether the process is the driver's own or the server itself.
    public var isolation: DriverIsolation

    /// An environment; without a store, nothing outlives the process.
    public init(
        settings: [String: String], folder: String, store: any DescriptorStore = NoDescriptorStore(),
        isolation: DriverIsolation = .inline
    ) {
        self.settings = settings
        self.folder = folder
        self.store = store
        self.isolation = isolation
    }
}

/// What a sandboxed driver needs beside its pool's folder.
public struct DriverNeeds: Sendable, Hashable {
    /// Devices and files that it opens when it starts, absolute paths.
    public var paths: [String] = []
    /// The folder that it works in, in place of the pool's own; nil: the pool's own. It exists once the driver is open.
    public var folder: String?
    /// Whether it talks to the network.
    public var network = false
    /// Whether it keeps volumes in shared memory that it makes.
    public var sharedMemory = false

    /// Nothing.
    public init() {}
}

/// The request side of a driver on one reactor; confined to its thread.
///
/// A queue takes no more requests than the completion ring has room to answer: it never loses a completion,
/// and what it leaves in the submission ring it takes later by itself or at the next `process()`.
public protocol DriverQueue: AnyObject {
    /// Starts what is in the submission ring.
    func process()

    /// Tells that the driver has opened, resized or closed the volume of this index.
    func volumeChanged(_ index: UInt32)

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
