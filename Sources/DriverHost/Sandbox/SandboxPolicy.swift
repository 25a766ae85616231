import Core
import DriverKit

/// What a driver's process may still do once it is in its sandbox.
public struct SandboxPolicy: Sendable {
    /// The pool's folder, open: files in it may be made, read, written and removed.
    public var folder: Int32
    /// The user and group of its own; nil keeps the one that it has.
    public var user: UInt32?
    /// Devices and files to read and write, absolute paths.
    public var paths: [String] = []
    /// Whether it may have sockets and see the network.
    public var network = false
    /// Whether it may make shared memory, which no limit but the size of a file counts.
    public var sharedMemory = false
    /// The process whose end ends this one: its parent. In truth it is the end of the thread that started
    /// this one (`PR_SET_PDEATHSIG` in prctl(2)), so that thread must live as long as the server.
    public var parent: Int32
    /// The size that a file can grow to, in bytes.
    public var fileBytesMax = Limits.volumeBytesMax
    /// Private memory, in bytes; memory that is shared with the server does not count.
    public var memoryBytesMax = Limits.hostMemoryBytesMax
    /// Open descriptors.
    public var filesMax = Limits.hostFilesMax
    /// Threads of all processes of `user`; without a user of its own there is no such limit.
    public var threadsMax = Limits.hostThreadsMax

    /// A policy with the usual limits.
    public init(folder: Int32, user: UInt32?, parent: Int32) {
        self.folder = folder
        self.user = user
        self.parent = parent
    }

    /// A policy for what a driver needs.
    public init(folder: Int32, user: UInt32?, parent: Int32, needs: DriverNeeds) {
        self.init(folder: folder, user: user, parent: parent)
        paths = needs.paths
        network = needs.network
        sharedMemory = needs.sharedMemory
    }
}

/// Why a process could not go into its sandbox: it must not run a driver.
public enum SandboxError: Error, Equatable, Sendable, CustomStringConvertible {
    /// There are threads that would stay outside.
    case notAlone(threads: Int)
    /// The parent has ended.
    case orphaned
    /// A system call failed with a positive errno.
    case system(call: String, errno: Int32)

    /// What failed.
    public var description: String {
        switch self {
        case .notAlone(let threads): "the process has \(threads) threads; only one can go into a sandbox"
        case .orphaned: "the server that started this process has ended"
        case .system(let call, let errno): "\(call): errno \(errno)"
        }
    }
}
