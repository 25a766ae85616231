import CURing
import Glibc

/// Sockets by plain system calls; all are close-on-exec and blocking, as a ring wants them.
public enum Sockets {
    /// A listening stream socket. For TCP with `SO_REUSEADDR`, and `SO_REUSEPORT` where asked for. `[::]` takes IPv4 as
    /// well (RFC 3493 §5.3), unless another address of `beside` does on that port; other addresses of IPv6 have none of it.
    /// The file of a Unix socket must not be there yet.
    public static func listen(
        _ address: SocketAddress, beside: [SocketAddress] = [], backlog: Int32 = 1024, reusePort: Bool = false
    ) throws(ReactorError) -> FileDescriptor {
        let socket = try stream(family: address.family)
        if address.family != AF_UNIX {
            try set(socket.raw, SOL_SOCKET, SO_REUSEADDR, 1)
            if reusePort { try set(socket.raw, SOL_SOCKET, SO_REUSEPORT, 1) }
            if address.family == AF_INET6 {
                let isAlone = address.takesIPv4(beside: beside)
                try set(socket.raw, Int32(IPPROTO_IPV6), IPV6_V6ONLY, isAlone ? 0 : 1)
            }
        }
        let fd = socket.raw
        let bound = unsafe address.withAddress { unsafe bind(fd, $0, $1) }
        _ = try checked("bind \(address)", bound)
        _ = try checked("listen \(address)", Glibc.listen(socket.raw, backlog))
        return socket
    }

    /// Whether the kernel has IPv6.
    public static var hasIPv6: Bool { (try? stream(family: AF_INET6)) != nil }

    /// A stream socket that is not connected.
    public static func stream(family: Int32) throws(ReactorError) -> FileDescriptor {
        let type = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
        return FileDescriptor(owning: try checked("socket", socket(family, type, 0)))
    }

    /// Connects and waits for it. Not for a reactor's thread.
    public static func connect(_ address: SocketAddress) throws(ReactorError) -> FileDescriptor {
        let socket = try stream(family: address.family)
        let fd = socket.raw
        _ = try checked("connect \(address)", unsafe address.withAddress { unsafe Glibc.connect(fd, $0, $1) })
        return socket
    }

    /// Sends one datagram to a Unix socket. Waits a second at most for a receiver that has its most.
    public static func send(_ bytes: [UInt8], toDatagram address: SocketAddress) throws(ReactorError) {
        let type = Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
        let socket = FileDescriptor(owning: try checked("socket", socket(address.family, type, 0)))
        let fd = socket.raw
        let flags = Int32(MSG_NOSIGNAL)
        var patience = timeval(tv_sec: 1, tv_usec: 0)
        _ = unsafe setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
        let sent = unsafe address.withAddress { unsafe sendto(fd, bytes, bytes.count, flags, $0, $1) }
        _ = try checked("sendto \(address)", Int32(truncatingIfNeeded: sent))
    }

    /// Two connected Unix stream sockets, as raw descriptors that the caller owns.
    public static func pair() throws(ReactorError) -> (Int32, Int32) {
        var ends: [Int32] = [-1, -1]
        let type = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
        _ = try unsafe checked("socketpair", socketpair(AF_UNIX, type, 0, &ends))
        return (ends[0], ends[1])
    }

    /// The address that the socket is bound to.
    public static func localAddress(fd: Int32) throws(ReactorError) -> SocketAddress {
        try unsafe address("getsockname", fd) { unsafe getsockname($0, $1, $2) }
    }

    /// The address of the socket's peer.
    public static func peerAddress(fd: Int32) throws(ReactorError) -> SocketAddress {
        try unsafe address("getpeername", fd) { unsafe getpeername($0, $1, $2) }
    }

    /// Sends small segments at once (`TCP_NODELAY`); ignored for sockets that are not TCP.
    public static func setNoDelay(fd: Int32) {
        var on: Int32 = 1
        _ = unsafe setsockopt(fd, Int32(IPPROTO_TCP), TCP_NODELAY, &on, socklen_t(MemoryLayout<Int32>.size))
    }

    /// Sends what the socket takes without waiting, and returns how many bytes that are; 0 also when it failed, which the
    /// next send through the ring then reports.
    public static func sendNow(fd: Int32, _ bytes: UnsafeRawBufferPointer) -> Int {
        let count = unsafe Glibc.send(fd, bytes.baseAddress, bytes.count, Int32(MSG_NOSIGNAL | MSG_DONTWAIT))
        return max(0, count)
    }

    /// Notices a dead peer after `idleSeconds` of silence and three probes; ignored for sockets that are not
    /// TCP.
    public static func setKeepAlive(fd: Int32, idleSeconds: Int32, intervalSeconds: Int32) {
        let options = [
            (SOL_SOCKET, SO_KEEPALIVE, Int32(1)), (Int32(IPPROTO_TCP), TCP_KEEPIDLE, idleSeconds),
            (Int32(IPPROTO_TCP), TCP_KEEPINTVL, intervalSeconds), (Int32(IPPROTO_TCP), TCP_KEEPCNT, Int32(3)),
        ]
        for (level, name, value) in options {
            var value = value
            _ = unsafe setsockopt(fd, level, name, &value, socklen_t(MemoryLayout<Int32>.size))
        }
    }

    /// Whether nobody at the other end of a TCP connection acknowledges what is sent again and again, or anything else
    /// for so long. A peer that only does not read acknowledges. What never left this machine, because a link is down, an
    /// address gone or a filter in the way, is not on its way (`unacked`), nor sent again: the kernel counts it as probes
    /// without an answer, and those of a peer that does not read are answered.
    public static func isUnheard(fd: Int32, milliseconds: UInt32) -> Bool {
        var info = tcp_info()
        var length = socklen_t(MemoryLayout<tcp_info>.size)
        guard unsafe getsockopt(fd, Int32(IPPROTO_TCP), TCP_INFO, &info, &length) == 0 else { return false }
        let isSentInVain = info.tcpi_unacked > 0 && info.tcpi_retransmits >= 2 || info.tcpi_probes >= 2
        return isSentInVain && info.tcpi_last_ack_recv >= milliseconds
    }

    /// Whether nothing was sent on a TCP connection for so long: with something that waits to be sent, its peer takes none
    /// of it. One that is slow is sent a little now and then.
    public static func isUntaken(fd: Int32, milliseconds: UInt32) -> Bool {
        var info = tcp_info()
        var length = socklen_t(MemoryLayout<tcp_info>.size)
        guard unsafe getsockopt(fd, Int32(IPPROTO_TCP), TCP_INFO, &info, &length) == 0 else { return false }
        return info.tcpi_last_data_sent >= milliseconds
    }

    /// Ends both directions of a connection, so that operations on it complete.
    public static func shutdown(fd: Int32) {
        _ = Glibc.shutdown(fd, Int32(SHUT_RDWR))
    }

    private static func set(_ fd: Int32, _ level: Int32, _ name: Int32, _ value: Int32) throws(ReactorError) {
        var value = value
        _ = try unsafe checked(
            "setsockopt", setsockopt(fd, level, name, &value, socklen_t(MemoryLayout<Int32>.size)))
    }

    private static func address(
        _ call: String, _ fd: Int32,
        _ get: (Int32, UnsafeMutablePointer<sockaddr>, UnsafeMutablePointer<socklen_t>) -> Int32
    ) throws(ReactorError) -> SocketAddress {
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        let result = unsafe withUnsafeMutablePointer(to: &storage) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { unsafe get(fd, $0, &length) }
        }
        _ = try checked(call, result)
        guard let address = SocketAddress(storage: storage, length: length) else {
            throw .system(call: call, errno: EAFNOSUPPORT)
        }
        return address
    }
}
