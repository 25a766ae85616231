import CSandbox
import Core
import Glibc
import Reactor

/// One end of the control socket between the server and a driver host: packets with descriptors
/// (`unix(7)`, SOCK_SEQPACKET, SCM_RIGHTS).
///
/// One thread receives; any may send, a packet is sent whole.
final class ControlSocket: Sendable {
    /// Why a packet could not be sent or received.
    enum Failure: Error, Equatable {
        /// The other side is gone.
        case closed
        /// The other side takes nothing.
        case full
        /// A packet that is too long, or with other descriptors than it should have.
        case malformed
        /// The kernel's errno.
        case system(Int32)
    }

    /// What arrived.
    struct Packet: ~Copyable {
        var bytes: [UInt8]
        var descriptors: Descriptors
    }

    /// Descriptors of a packet, in order.
    struct Descriptors: ~Copyable {
        private var raw: [Int32]
        private var taken = 0

        fileprivate init(_ raw: [Int32]) { self.raw = raw }

        deinit { for fd in raw[taken...] { Glibc.close(fd) } }

        var count: Int { raw.count - taken }

        /// The next one; the packet has been checked to have it.
        mutating func take() -> FileDescriptor {
            precondition(taken < raw.count, "the packet has no further descriptor")
            taken += 1
            return FileDescriptor(owning: raw[taken - 1])
        }
    }

    let descriptor: FileDescriptor

    init(_ descriptor: consuming FileDescriptor) { self.descriptor = descriptor }

    /// Both ends.
    struct Pair: ~Copyable {
        let server: ControlSocket
        let host: FileDescriptor
    }

    /// A socket of which no child inherits an end by itself.
    static func pair() throws(ReactorError) -> Pair {
        var ends: [Int32] = [-1, -1]
        let kind = Int32(SOCK_SEQPACKET.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
        if unsafe socketpair(AF_UNIX, kind, 0, &ends) != 0 {
            throw .system(call: "socketpair", errno: errno)
        }
        let server = ControlSocket(FileDescriptor(owning: ends[0]))
        let host = FileDescriptor(owning: ends[1])
        var patience = timeval(tv_sec: Limits.controlSendSecondsMax, tv_usec: 0)
        for fd in ends {
            _ = unsafe setsockopt(
                fd, SOL_SOCKET, SO_SNDTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
        }
        return Pair(server: server, host: host)
    }

    /// Sends a packet with descriptors, which stay the caller's. Blocks for a bounded time.
    func send(_ bytes: [UInt8], descriptors: [Int32] = []) throws(Failure) {
        precondition(bytes.count <= Limits.controlPacketBytesMax, "a packet beyond the limit")
        let result = unsafe sluice_control_send(
            descriptor.raw, bytes, bytes.count, descriptors, Int32(descriptors.count))
        switch result {
        case 0...: return
        case -EPIPE, -ECONNRESET: throw .closed
        case -EAGAIN, -ETOOMANYREFS: throw .full
        default: throw .system(-result)
        }
    }

    /// Receives a packet. Blocks unless `waits` is false and nothing is there, when it answers nil.
    func receive(waits: Bool) throws(Failure) -> Packet? {
        var bytes = [UInt8](repeating: 0, count: Limits.controlPacketBytesMax)
        var descriptors = [Int32](repeating: -1, count: Int(SLUICE_CONTROL_DESCRIPTORS_MAX))
        var count: Int32 = 0
        let result = unsafe sluice_control_receive(
            descriptor.raw, &bytes, bytes.count, &descriptors, &count, waits ? 1 : 0)
        let received = Descriptors(Array(descriptors.prefix(Int(count))))
        switch result {
        case 0, -ECONNRESET: throw .closed
        case 1...:
            bytes.removeLast(bytes.count - Int(result))
            return Packet(bytes: bytes, descriptors: received)
        case -EAGAIN: return nil
        case -EMSGSIZE: throw .malformed
        default: throw .system(-result)
        }
    }
}
