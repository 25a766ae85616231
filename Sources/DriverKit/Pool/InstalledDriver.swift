import Core

/// A driver that pools can name: a program of driver hosts has it.
public protocol InstalledDriver: PoolDriver {
    /// The name that pools say, such as `file`.
    static var name: String { get }

    /// What its resources are. A kind's protocol says it, such as `VolumeDriver`.
    static var kind: ResourceKind { get }

    /// What the sandbox of a driver host must leave to this driver, beside the pool's folder.
    ///
    /// - Throws: when the settings are not valid.
    static func needs(settings: [String: String]) throws(StatusError) -> DriverNeeds

    /// Whether what such a pool holds is gone when the server has ended. Settings that are not valid say no.
    static func isVolatile(settings: [String: String]) -> Bool

    /// Opens the pool.
    init(_ environment: DriverEnvironment) throws(StatusError)

    /// Does what a server asks of the driver in its host, in the words of the driver's kind: `VolumeCall` for
    /// volumes. A kind's protocol brings this along. On the host's main thread; may block.
    ///
    /// - Throws: `badRequest` for words of another kind.
    func perform(_ call: [UInt8]) throws(StatusError) -> CallOutcome
}

/// What came of a call in the words of a kind.
public struct CallOutcome: Sendable, Hashable {
    /// What a driver's queues have to hear of it.
    public enum Change: Sendable, Hashable {
        /// Nothing.
        case nothing
        /// This is open under the index from now on.
        case opened(UInt32, Identifier)
        /// Nothing is open under the index any more.
        case closed(UInt32)
        /// This is not as it was, under whatever indices it is open.
        case changed(Identifier)
    }

    /// The answer, in the words of the kind.
    public var answer: [UInt8]
    /// What queues have to hear.
    public var change: Change

    /// An outcome.
    public init(_ answer: [UInt8] = [], change: Change = .nothing) {
        self.answer = answer
        self.change = change
    }
}

/// A driver of volumes that pools can name.
public typealias InstalledVolumeDriver = InstalledDriver & VolumeDriver

extension InstalledDriver {
    /// Nothing beside the pool's folder.
    public static func needs(settings: [String: String]) throws(StatusError) -> DriverNeeds { DriverNeeds() }

    /// No: it stays.
    public static func isVolatile(settings: [String: String]) -> Bool { false }
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
