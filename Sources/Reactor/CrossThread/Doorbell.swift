import CURing
import Glibc

/// An eventfd that one process rings and another's reactor polls for edges, so that it need not be read
/// (`eventfd(2)`). Any thread may ring.
public struct Doorbell: ~Copyable, Sendable {
    /// What the other side polls.
    public let descriptor: FileDescriptor

    /// A new one.
    public init() throws(ReactorError) {
        descriptor = FileDescriptor(
            owning: try checked("eventfd", eventfd(0, Int32(EFD_CLOEXEC | EFD_NONBLOCK))))
    }

    /// One that another process made.
    public init(_ descriptor: consuming FileDescriptor) { self.descriptor = descriptor }

    /// Wakes the other side. A full counter has rung already.
    public func ring() { _ = eventfd_write(descriptor.raw, 1) }
}
