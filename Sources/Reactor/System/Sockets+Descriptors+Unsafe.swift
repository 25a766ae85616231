import CURing
import Glibc

/// Unix sockets that carry descriptors from one process to another (`unix(7)`, SCM_RIGHTS). These calls block.
extension Sockets {
    /// The most descriptors of one message.
    public static let descriptorsMax = 4

    /// Sends bytes and, with the first of them, descriptors, which stay the caller's. Returns how many bytes
    /// went out; never 0 for bytes that are not empty.
    public static func send(fd: Int32, _ bytes: ArraySlice<UInt8>, descriptors: [Int32]) throws(ReactorError)
        -> Int
    {
        precondition(descriptors.count <= descriptorsMax, "one message has at most four descriptors")
        while true {
            let sent = unsafe bytes.withUnsafeBytes { bytes in
                unsafe sluice_socket_send(fd, bytes.baseAddress, bytes.count, descriptors, descriptors.count)
            }
            if sent == -EINTR { continue }
            guard sent >= 0 else { throw .system(call: "sendmsg", errno: -sent) }
            return Int(sent)
        }
    }

    /// Receives at most `count` bytes, none at the end, and the descriptors that came with them, which are the
    /// caller's.
    public static func receive(fd: Int32, count: Int) throws(ReactorError) -> (
        bytes: [UInt8], descriptors: [Int32]
    ) {
        var bytes = [UInt8](repeating: 0, count: count)
        var descriptors = [Int32](repeating: -1, count: descriptorsMax)
        var found = 0
        while true {
            let received = unsafe sluice_socket_receive(fd, &bytes, count, &descriptors, &found)
            if received == -EINTR { continue }
            guard received >= 0 else { throw .system(call: "recvmsg", errno: -received) }
            return (Array(bytes[..<Int(received)]), Array(descriptors[..<found]))
        }
    }

    /// The next connection of a listening socket; waits for one.
    public static func accept(fd: Int32) throws(ReactorError) -> FileDescriptor {
        while true {
            let client = sluice_socket_accept(fd)
            if client == -EINTR || client == -ECONNABORTED { continue }
            guard client >= 0 else { throw .system(call: "accept4", errno: -client) }
            return FileDescriptor(owning: client)
        }
    }

    /// How long one receive or send on the socket may wait.
    public static func setTimeout(fd: Int32, seconds: Int) {
        var limit = timeval(tv_sec: seconds, tv_usec: 0)
        let size = socklen_t(MemoryLayout<timeval>.size)
        _ = unsafe setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, size)
        _ = unsafe setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, size)
    }

    /// The user id of the process at the other end of a Unix socket; nil when it cannot be told.
    public static func peerUser(fd: Int32) -> UInt32? { UInt32(exactly: sluice_socket_peer_user(fd)) }
}
