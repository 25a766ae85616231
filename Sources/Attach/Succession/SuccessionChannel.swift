import Core
import FoundationEssentials
import Glibc
import Reactor

/// One end of the socket over which an attachment is handed from a process to its successor. Blocking.
final class SuccessionChannel: Sendable {
    private let descriptor: Int32

    /// Takes the descriptor over.
    private init(_ descriptor: Int32) {
        self.descriptor = descriptor
        Sockets.setTimeout(fd: descriptor, seconds: Int(AttachLimits.successionSeconds))
    }

    deinit { close(descriptor) }

    // MARK: Connecting

    /// Connects to the process that serves an attachment.
    static func connect(to process: Int32, in folder: String) throws(AttachError) -> SuccessionChannel {
        do {
            let socket = try withAddress(process, in: folder) { address throws(ReactorError) in
                try Sockets.connect(address)
            }
            return SuccessionChannel(socket.take())
        } catch {
            throw AttachError(.system, "process \(process) cannot be asked to hand over: \(error)")
        }
    }

    /// Listens for successors in a thread of its own, which ends with the process; each request that comes
    /// goes to `take`, on that thread, and nil when the successor sends no more.
    static func listen(
        in folder: String, take: @escaping @Sendable (SuccessionRequest?, SuccessionChannel) -> Void
    ) throws(AttachError) {
        let socket: Int32
        do {
            _ = unsafe unlink(path(getpid(), in: folder))
            let listener = try withAddress(getpid(), in: folder) { address throws(ReactorError) in
                try Sockets.listen(address, backlog: 4)
            }
            socket = listener.take()
        } catch {
            throw AttachError(.system, "cannot listen for a successor in \(folder): \(error)")
        }
        try BackgroundThread.start("successor") {
            while let client = try? Sockets.accept(fd: socket) {
                // The folder keeps others out; this does so if somebody opens it.
                guard Sockets.peerUser(fd: client.raw) == geteuid() else { continue }
                let channel = SuccessionChannel(client.take())
                while let (request, _) = try? channel.receive(SuccessionRequest.self) {
                    take(request, channel)
                }
                take(nil, channel)
            }
        }
    }

    /// The socket's file, which goes with its process.
    static func path(_ process: Int32, in folder: String) -> String { "\(folder)/\(process).sock" }

    /// A socket's address has room for about a hundred bytes; the folder's path may be longer.
    private static func withAddress(
        _ process: Int32, in folder: String,
        _ body: (SocketAddress) throws(ReactorError) -> FileDescriptor
    ) throws(ReactorError) -> FileDescriptor {
        let descriptor = unsafe open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw .system(call: "open \(folder)", errno: errno) }
        defer { close(descriptor) }
        return try body(
            try SocketAddress(text: "unix:\(path(process, in: "/proc/self/fd/\(descriptor)"))"))
    }

    // MARK: Messages

    /// Sends a message and descriptors, which stay the caller's.
    func send(_ message: some Encodable, descriptors: [Int32] = []) throws(AttachError) {
        guard let data = try? JSONEncoder().encode(message) else {
            throw AttachError(.system, "a message to the successor cannot be written as JSON")
        }
        let bytes = Array(data) + [UInt8(ascii: "\n")]
        var sent = 0
        do {
            while sent < bytes.count {
                sent += try Sockets.send(
                    fd: descriptor, bytes[sent...], descriptors: sent == 0 ? descriptors : [])
            }
        } catch {
            throw AttachError(.system, "cannot write to the other process: \(error)")
        }
    }

    /// The next message, and the descriptors that came with it, which are the caller's.
    func receive<Message: Decodable>(_ type: Message.Type) throws(AttachError) -> (Message, [Int32]) {
        var bytes: [UInt8] = []
        var descriptors: [Int32] = []
        do throws(AttachError) {
            while bytes.last != UInt8(ascii: "\n") {
                guard bytes.count < AttachLimits.recordBytesMax else {
                    throw AttachError(.system, "the other process sends too much")
                }
                try receivePiece(&bytes, &descriptors)
            }
            guard let message = try? JSONDecoder().decode(type, from: Data(bytes)) else {
                throw AttachError(.system, "the other process does not speak as this version does")
            }
            return (message, descriptors)
        } catch {
            descriptors.forEach { close($0) }
            throw error
        }
    }

    private func receivePiece(_ bytes: inout [UInt8], _ descriptors: inout [Int32]) throws(AttachError) {
        let piece: (bytes: [UInt8], descriptors: [Int32])
        do {
            piece = try Sockets.receive(fd: descriptor, count: 4096)
        } catch {
            throw AttachError(.system, "the other process did not answer: \(error)")
        }
        descriptors += piece.descriptors
        guard !piece.bytes.isEmpty else { throw AttachError(.system, "the other process has gone") }
        bytes += piece.bytes
    }
}

/// What a successor asks for.
enum SuccessionRequest: String, Codable, Sendable {
    /// Everything that it takes to open the volume beside the old process: `SuccessionAnswer`.
    case offer
    /// The device itself: `SuccessionGrant`, with /dev/fuse and the lock of the attachment.
    case handOver
    /// The same by one that knows how to go on with a ring: the old process goes on with it too.
    case handOverRing
    /// The kernel has the new process's entries. `SuccessionGrant` comes when it has none of the old one's.
    case serving
    /// The same, and the new process can give it more: a grant that says `again` asks for that.
    case servingInTurns
    /// Whoever detaches wants the record to say all that has failed until now: a `SuccessionAnswer` of nothing
    /// follows when it does.
    case report
}

/// What the old process tells the new one.
struct SuccessionOffer: Codable, Sendable {
    var record: AttachmentRecord
    /// The session, 32 hex digits, and its secret, 64.
    var session: String
    var secret: String
    /// Who began it, 32 hex digits, and the generation of the volume's writer.
    var instance: String
    var writerGeneration: UInt64
    /// Where the device's first byte is in the volume.
    var base: UInt64
    /// The kernel's first message on /dev/fuse, which older versions need.
    var greeting: [UInt8]
    /// The most that a request carries through the ring; nil when requests come through /dev/fuse.
    var ringPayloadBytes: Int?
    /// Whether `servingInTurns` is understood; nil from a version that does not.
    var knowsTurns: Bool?
}

/// The offer, or why there is none.
struct SuccessionAnswer: Codable, Sendable {
    var offer: SuccessionOffer?
    var problem: String?
}

/// Whether the new process has the device now.
struct SuccessionGrant: Codable, Sendable {
    /// Why not; the old process goes on.
    var problem: String?
    /// What has failed until now.
    var failures: AttachmentRecord.Failures?
    /// Whether the old process has done writes that may not be durable; nil from a version that does not say, nor what
    /// has failed.
    var hasUnflushed: Bool?
    /// Something has come through the old process's entries since the new one gave the kernel its last ones.
    var again: Bool?
}
