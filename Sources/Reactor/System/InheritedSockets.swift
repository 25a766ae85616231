import CURing
import Glibc

/// Listening sockets that a service manager made before this process began (`sd_listen_fds(3)`): who connects while the
/// process is replaced waits in their queue.
public struct InheritedSockets: Sendable {
    /// Why what was handed over cannot be used.
    public struct Failure: Error, Sendable, CustomStringConvertible {
        /// One sentence for the operator.
        public let description: String
    }

    /// The descriptors by name, in the order in which they came; the holder's to close.
    public let named: [String: [Int32]]

    private static let socketsMax = 64

    /// Takes over what `environment` says is for process `process`; nothing where it is for nobody, or another.
    ///
    /// - Parameters:
    ///   - names: what sockets may be called; one of another name is a failure.
    ///   - first: the first descriptor that is handed over.
    public init(
        environment: [String: String], process: Int32, names: Set<String>, first: Int32 = 3
    ) throws(Failure) {
        guard let owner = environment["LISTEN_PID"], owner == "\(process)",
            let text = environment["LISTEN_FDS"]
        else {
            named = [:]
            return
        }
        guard let count = Int32(text), (0...Int32(Self.socketsMax)).contains(count) else {
            throw Failure(
                description: "LISTEN_FDS is \(text): a number up to \(Self.socketsMax) would be right")
        }
        let given = (environment["LISTEN_FDNAMES"] ?? "").split(
            separator: ":", omittingEmptySubsequences: false)
        guard given.count == count || count == 0 else {
            throw Failure(description: "LISTEN_FDNAMES has \(given.count) names for \(count) descriptors")
        }
        var named: [String: [Int32]] = [:]
        for (index, name) in given.map(String.init).prefix(Int(count)).enumerated() {
            guard names.contains(name) else {
                let right = names.sorted().joined(separator: " and ")
                throw Failure(
                    description: "a socket is called '\(name)': \(right) would be right (FileDescriptorName=)"
                )
            }
            let descriptor = first + Int32(index)
            try Self.check(descriptor, name)
            named[name, default: []].append(descriptor)
        }
        self.named = named
    }

    /// Whether it is a TCP socket that listens; makes it one for a ring, and for this process alone.
    private static func check(_ fd: Int32, _ name: String) throws(Failure) {
        guard option(fd, SO_TYPE) == Int32(SOCK_STREAM.rawValue), option(fd, SO_ACCEPTCONN) == 1,
            let family = option(fd, SO_DOMAIN), family == AF_INET || family == AF_INET6
        else {
            throw Failure(
                description: "descriptor \(fd), the socket '\(name)', is no TCP socket that listens")
        }
        let flags = fcntl(fd, F_GETFL)
        guard flags >= 0, fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) == 0, fcntl(fd, F_SETFD, FD_CLOEXEC) == 0
        else {
            throw Failure(
                description: "descriptor \(fd), the socket '\(name)': \(ReactorError.text(errno: errno))")
        }
    }

    private static func option(_ fd: Int32, _ name: Int32) -> Int32? {
        var value: Int32 = 0
        var length = socklen_t(MemoryLayout<Int32>.size)
        guard unsafe getsockopt(fd, SOL_SOCKET, name, &value, &length) == 0 else { return nil }
        return value
    }
}
