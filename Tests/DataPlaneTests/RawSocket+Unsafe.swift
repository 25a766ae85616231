import Core
import Glibc
import Reactor

/// A connection without TLS.
final class RawSocket {
    let fd: Int32

    init(_ address: SocketAddress) throws {
        fd = try Sockets.connect(address).take()
        var timeout = timeval(tv_sec: 20, tv_usec: 0)
        _ = unsafe setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
    }

    deinit {
        _ = Glibc.close(fd)
    }

    func send(_ bytes: [UInt8]) {
        _ = unsafe bytes.withUnsafeBytes {
            unsafe Glibc.send(fd, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
        }
    }

    func finishSending() {
        _ = Glibc.shutdown(fd, Int32(SHUT_WR))
    }

    /// Whether the peer closes, after at most what it had to say.
    func isClosedByPeer() -> Bool {
        var buffer = [UInt8](repeating: 0, count: 4096)
        while true {
            let count = unsafe recv(fd, &buffer, buffer.count, 0)
            if count == 0 { return true }
            if count < 0, errno != EINTR { return errno != EAGAIN }
        }
    }
}
