import Core
import Reactor
import Wire

@testable import SluiceClient

/// The network of one process of a client: its links, and its looks at places.
final class SimulatedTransport: SessionTransport {
    unowned let node: SimulatedNode
    private(set) var links: [SimulatedLink] = []
    private(set) var dials: [SimulatedDial] = []
    private var count = 0

    init(node: SimulatedNode) { self.node = node }

    func makeLink(to address: SocketAddress, on reactor: Reactor) throws(ChannelError) -> SimulatedLink {
        count += 1
        let link = SimulatedLink(number: count, address: address, reactor: reactor, transport: self)
        links.append(link)
        return link
    }

    func dial(
        _ address: SocketAddress, on reactor: Reactor, _ answer: @escaping (_ isThere: Bool) -> Void
    ) -> SimulatedDial? {
        let dial = SimulatedDial(address, answer)
        dials.append(dial)
        return dial
    }

    /// What the network does of its own accord; false when it has nothing to do. In a wake-up of the client.
    func work() -> Bool {
        let all = links
        let first = node.world.random.below(max(all.count, 1))
        for offset in 0..<all.count {
            let moved = all[(first + offset) % all.count].work()
            links.removeAll { $0.phase == .ended }
            if moved { return true }
        }
        guard let dial = dials.first else { return false }
        if dial.isStopped {
            dials.removeFirst()
            return true
        }
        switch node.world.whoIs(at: dial.address, for: node) {
        case .nobody: return false
        case .refusal: dials.removeFirst().answer(false)
        case .server, .stranger: dials.removeFirst().answer(true)
        }
        return true
    }

    /// The process is gone: nothing more goes out, and what is under way may be lost.
    func die() {
        for link in links { link.vanish() }
        links.removeAll()
        dials.removeAll()
    }
}

/// One look at a place.
final class SimulatedDial: PlaceDial {
    let address: SocketAddress
    private var told: ((Bool) -> Void)?

    init(_ address: SocketAddress, _ told: @escaping (Bool) -> Void) {
        self.address = address
        self.told = told
    }

    var isStopped: Bool { told == nil }

    func answer(_ isThere: Bool) {
        let told = told
        self.told = nil
        told?(isThere)
    }

    func stop() { told = nil }
}

/// The client's end of a connection without TLS.
final class SimulatedLink: ChannelLink, BatchTarget {
    enum Phase {
        case idle
        /// Nobody has answered.
        case dialling
        /// Somebody has taken the connection.
        case connected
        case secured
        case ended
    }

    let number: Int
    let address: SocketAddress
    private(set) var phase = Phase.idle
    private(set) var connection: SimulatedConnection?
    /// Who answers knows no session.
    private var isStranger = false
    private unowned let transport: SimulatedTransport
    private let reactor: Reactor
    private var channel: DataChannel<SimulatedLink>?
    private var written: [UInt8] = []
    private(set) var isSending = false
    /// What has arrived and the channel has not read.
    private var arrived: [UInt8] = []
    private var taken = 0
    private var requests = FrameStream()
    private var replies = FrameStream()
    /// A stranger's answer, which waits.
    private var strange: [UInt8] = []

    /// The channel of its session that it is for, as soon as HELLO has said that.
    var channelNumber: UInt16?
    /// When the capability was sent that is being opened or renewed with, its end, and its place among all.
    var sentAt: UInt64 = 0
    var sentExpiry: UInt64 = 0
    var sentIndex = 0

    private var node: SimulatedNode { transport.node }
    private var world: SessionSimulator { transport.node.world }

    init(number: Int, address: SocketAddress, reactor: Reactor, transport: SimulatedTransport) {
        self.number = number
        self.address = address
        self.reactor = reactor
        self.transport = transport
    }

    // MARK: For the channel

    var serverNames: ServerNames { ServerNames(certificate: nil, connected: address) }
    var pendingBytes: Int { written.count }

    func connect(for channel: DataChannel<SimulatedLink>) throws(ChannelError) {
        self.channel = channel
        phase = .dialling
    }

    func askForBatchEnd() { reactor.atBatchEnd(self) }

    func batchEnded() { channel?.batchEnded() }

    func write(_ bytes: UnsafeRawBufferPointer) throws(ChannelError) {
        unsafe written.append(contentsOf: bytes)
    }

    func send() {
        guard phase == .secured, !isSending, !written.isEmpty else { return }
        isSending = true
        let bytes = written
        written.removeAll(keepingCapacity: true)
        requests.append(bytes)
        while let frame = requests.next({ RequestHeader(bytes: $0)?.length }) {
            guard let header = RequestHeader(bytes: frame.header) else { break }
            node.says(self, header, frame.payload)
            if isStranger { answerAsStranger(header) }
        }
        connection?.send(bytes)
    }

    func sendEarly() { send() }

    func read(into room: UnsafeMutableRawBufferPointer) throws(ChannelError) -> Int? {
        let count = min(room.count, arrived.count - taken)
        guard count > 0 else { return nil }
        unsafe room.copyBytes(from: arrived[taken..<taken + count])
        taken += count
        return count
    }

    func isUnheard(milliseconds: UInt32) -> Bool { connection?.isFrozen ?? false }

    func end(inOrder: Bool) {
        guard phase != .ended else { return }
        if inOrder, phase == .secured { connection?.send(written) }
        phase = .ended
        connection?.closeClient(inOrder: inOrder)
        channel = nil
    }

    // MARK: The network

    /// Whether nothing will happen on it by itself.
    var isStuck: Bool {
        switch phase {
        case .dialling: true
        case .connected, .secured: connection?.isFrozen ?? false
        case .idle, .ended: false
        }
    }

    /// One thing happens on the connection; false when there is none.
    func work() -> Bool {
        switch phase {
        case .idle, .ended: return false
        case .dialling: return answerDial()
        case .connected:
            guard connection?.isFrozen != true else { return false }
            phase = .secured
            channel?.linkSecured()
            return true
        case .secured: return hear()
        }
    }

    private func answerDial() -> Bool {
        switch world.whoIs(at: address, for: node) {
        case .nobody: return false
        case .refusal:
            channel?.end(.unreachable(address: address.description, reason: "nobody listens"))
            return true
        case .server(let server):
            connection = world.connect(node, to: server)
            world.note("connects", node.number, connection?.number ?? 0)
        case .stranger:
            isStranger = true
            world.note("connects to a stranger", node.number)
        }
        phase = .connected
        channel?.linkConnected()
        return true
    }

    private func hear() -> Bool {
        guard connection?.isFrozen != true, let channel else { return false }
        var moved = false
        if isSending {
            isSending = false
            moved = true
            channel.linkHasSent()
            guard phase == .secured else { return true }
        }
        if isStranger { return hearStranger() || moved }
        guard let connection else { return moved }
        let count = min(
            connection.toClient.count, world.random.once(in: 3) ? 1 + world.random.below(100) : .max)
        guard count > 0 else {
            guard connection.isServerClosed else { return moved }
            lose("the server closed it")
            return true
        }
        take(connection.toClient.take(count))
        connection.windowOpened()
        return true
    }

    private func take(_ bytes: [UInt8]) {
        guard let channel else { return }
        replies.append(bytes)
        while let frame = replies.next({ ReplyHeader(bytes: $0)?.length }) {
            if let header = ReplyHeader(bytes: frame.header) { node.hears(self, header, frame.payload) }
        }
        channel.linkHeard()
        (arrived, taken) = (bytes, 0)
        let failure = channel.linkHasInput()
        arrived = []
        channel.linkHasNoMore(failure)
    }

    private func hearStranger() -> Bool {
        guard !strange.isEmpty else { return false }
        let bytes = strange
        strange = []
        take(bytes)
        return true
    }

    private func answerAsStranger(_ header: RequestHeader) {
        strange += ReplyHeader(to: header, status: .notFound).bytes
    }

    /// The connection breaks at this end.
    func lose(_ why: String) {
        world.note("loses a connection", node.number, connection?.number ?? 0)
        channel?.end(.lost(why))
    }

    /// The process is gone: its kernel sends what it has, or the machine is gone too.
    func vanish() {
        phase = .ended
        connection?.closeClient(inOrder: false, losesSome: world.random.once(in: 2))
        channel = nil
    }
}

/// Frames in a stream that arrives in pieces.
struct FrameStream {
    private var pipe = BytePipe()
    private var header: [UInt8] = []

    mutating func append(_ bytes: [UInt8]) { pipe.append(bytes) }

    /// The next whole frame; `length` tells how long a header's payload is.
    mutating func next(_ length: ([UInt8]) -> UInt32?) -> (header: [UInt8], payload: [UInt8])? {
        if header.isEmpty {
            guard pipe.count >= Limits.headerBytes else { return nil }
            header = pipe.take(Limits.headerBytes)
        }
        let count = Int(length(header) ?? 0)
        guard pipe.count >= count else { return nil }
        defer { header = [] }
        return (header, pipe.take(count))
    }
}
