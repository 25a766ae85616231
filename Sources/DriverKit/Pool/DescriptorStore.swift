import Core
import Reactor

/// Descriptors that a driver gives into the server's keeping, so that its next process has them again.
///
/// What is in memory (a memfd), a lock, and the chance to hear of a failed write-back outlive the driver's
/// process only in a descriptor that someone else holds. Any thread; calls may block.
public protocol DescriptorStore: AnyObject, Sendable {
    /// The names of what is kept.
    var names: [String] { get }

    /// A duplicate of what is kept under the name; nil when there is nothing.
    func descriptor(_ name: String) throws(StatusError) -> FileDescriptor?

    /// Keeps a duplicate under the name, in place of what was there. When it returns, it outlives this
    /// process.
    func keep(_ descriptor: borrowing FileDescriptor, as name: String) throws(StatusError)

    /// Lets go of what is kept under the name.
    func forget(_ name: String)
}

/// What the names of kept descriptors say.
public enum DescriptorStoreName {
    /// Whether it locks the pool's folder or device: names without a slash do. A lock outlives the process that
    /// holds it by what that process still had in the kernel.
    public static func isLock(_ name: String) -> Bool { !name.contains("/") }
}

/// For a driver that runs in the server itself: its descriptors live as long as it does.
public final class NoDescriptorStore: DescriptorStore {
    /// A store that keeps nothing.
    public init() {}
    /// None.
    public let names: [String] = []
    /// Nil.
    public func descriptor(_ name: String) throws(StatusError) -> FileDescriptor? { nil }
    /// Does nothing.
    public func keep(_ descriptor: borrowing FileDescriptor, as name: String) throws(StatusError) {}
    /// Does nothing.
    public func forget(_ name: String) {}
}
