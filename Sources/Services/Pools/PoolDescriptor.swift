import Core
import DriverKit

/// What becomes of writes for which a pool has no space.
public enum FullPolicy: String, Sendable, Codable, CaseIterable {
    /// The client is told to wait (`noSpaceYet`), and goes on when there is space.
    case wait
    /// They fail (`noSpace`).
    case fail
}

/// How full a pool is, and what there is to know about it.
public struct PoolSpace: Sendable, Hashable {
    /// As its driver tells it.
    public var capacity: PoolCapacity
    /// What each volume takes, in bytes; not every driver knows.
    public var used: [Identifier: UInt64]
    /// What its driver wants an operator to know, in sentences.
    public var notes: [String]
    /// Writes that found no space since the pool's start.
    public var refusals: UInt64
    /// When the last of them was, in Unix seconds.
    public var lastRefusal: UInt64?

    /// A pool's space.
    public init(
        capacity: PoolCapacity, used: [Identifier: UInt64] = [:], notes: [String] = [], refusals: UInt64 = 0,
        lastRefusal: UInt64? = nil
    ) {
        self.capacity = capacity
        self.used = used
        self.notes = notes
        self.refusals = refusals
        self.lastRefusal = lastRefusal
    }
}

/// A configured driver instance.
public struct PoolDescriptor: Sendable, Hashable {
    /// The pool's name, unique on the server.
    public let name: String
    /// The driver's name, such as `file`.
    public let driver: String
    /// The driver's settings.
    public let settings: [String: String]
    /// The folder that the driver may use.
    public let folder: String
    /// Where its driver runs.
    public let isolation: DriverIsolation
    /// What becomes of writes for which there is no space.
    public let whenFull: FullPolicy

    /// A pool.
    public init(
        name: String, driver: String, settings: [String: String], folder: String,
        isolation: DriverIsolation = .isolated, whenFull: FullPolicy = .wait
    ) {
        self.whenFull = whenFull
        self.name = name
        self.driver = driver
        self.settings = settings
        self.folder = folder
        self.isolation = isolation
    }
}
