import Core
import Services
import Simulation
import Wire

@testable import Reactor
@testable import Services

/// A client of the test's own, which knows only bytes: what it sends, and what was answered.
final class ScenePeer {
    let connection: SimulatedConnection
    /// It leaves in the pipe what the server sends.
    var reads = true
    private var received: [UInt8] = []
    private var sequences: [UInt16: UInt32] = [:]
    private(set) var replies: [(header: ReplyHeader, payload: [UInt8])] = []

    init(_ connection: SimulatedConnection) {
        self.connection = connection
    }

    func send(
        _ opcode: Opcode, slot: UInt16 = 0, handle: UInt32 = 0, offset: UInt64 = 0, count: UInt32 = 0,
        payload: [UInt8] = [], only part: Int = .max
    ) {
        let isHello = opcode == .hello
        let sequence = isHello ? 0 : RequestHeader.successor(of: sequences[slot, default: 0])
        sequences[slot] = sequence
        let header = RequestHeader(
            length: UInt32(payload.count), opcode: opcode.rawValue, slot: slot, sequence: sequence,
            handle: handle, count: count, offset: offset)
        connection.send(header.bytes + payload.prefix(part))
    }

    /// Takes in what has arrived.
    func hear() {
        guard reads, connection.toClient.count > 0 else { return }
        received += connection.toClient.take(connection.toClient.count)
        connection.windowOpened()
        while let header = ReplyHeader(bytes: Array(received.prefix(32))),
            received.count >= 32 + Int(header.length)
        {
            let payload = Array(received[32..<32 + Int(header.length)])
            received.removeFirst(32 + Int(header.length))
            if !header.isEvent { replies.append((header, payload)) }
        }
    }

    func reply(to opcode: Opcode) -> (header: ReplyHeader, payload: [UInt8])? {
        replies.last { $0.header.opcode == opcode.rawValue }
    }
}

/// The server of the session simulator, with what it waits for in the test's hands.
final class WaitScene {
    let world: SessionSimulator
    let isResumable: Bool
    private(set) var peers: [ScenePeer] = []
    private(set) var session = Identifier.zero
    private var secret: [UInt8] = []
    var capability: SimulatedCapability
    /// What goes on by itself.
    var driverWorks = true
    var storeWorks = true
    var poolWorks = true
    var secondReactorTurns = true

    var server: SimulatedServer {
        guard let server = world.server else { preconditionFailure("a scene has a server") }
        return server
    }
    private var client: SimulatedNode { world.clients[0] }

    init(isResumable: Bool, bug: PlantedBug? = nil) {
        // A seed in which one session may write.
        world = SessionSimulator(seed: (1...64).first { !WaitScene.isShared($0) } ?? 1, bug: bug)
        self.isResumable = isResumable
        capability = world.issue(to: world.clients[0])
        _ = world.grant(to: world.clients[0], by: capability)
    }

    private static func isShared(_ seed: UInt64) -> Bool {
        var random = SplitMix(seed: seed)
        return Scenario(&random, seed: seed).isShared
    }

    // MARK: What happens

    /// Lets everything go on that may, until nothing more happens.
    func settle() {
        for _ in 0..<40 {
            world.now += 50_000
            world.serverClock.life.monotonic = world.now
            if world.bug != nil { server.tamper() }
            for peer in peers {
                while peer.connection.receive() {}
                peer.hear()
            }
            while server.jobs.runNext() {}
            if poolWorks { while server.work.runNext() {} }
            if storeWorks { while world.store.sync(8) {} }
            for (index, reactor) in server.reactors.enumerated() where index == 0 || secondReactorTurns {
                reactor.step(now: world.now)
            }
            if driverWorks { for queue in server.driver.queues { while queue.work(faults: false) {} } }
        }
    }

    /// Lets all go on, and so much time pass as the server gives to clients that are to go.
    func release() {
        (driverWorks, storeWorks, poolWorks, secondReactorTurns) = (true, true, true, true)
        settle()
        world.now += 3_000_000_000
        settle()
    }

    /// More than anything lasts.
    func wait() {
        for _ in 0..<12 {
            world.now += 20_000_000_000
            settle()
        }
        // What a writer is kept by courtesy ends at last, too.
        world.now += (Limits.courtesySeconds + 60) * 1_000_000_000
        settle()
    }

    func perform<Answer>(_ action: ServiceAction<Answer>) {
        server.perform(action) { _ in }
        while server.jobs.runNext() {}
    }

    // MARK: Clients

    /// A connection that has said HELLO, and is answered if nothing holds that up.
    func connect(reactor: Int = 0, resuming channel: UInt16? = nil) -> ScenePeer {
        let peer = ScenePeer(
            SimulatedConnection(
                number: peers.count + 1, client: 0, server: server, reactor: reactor,
                thumbprint: client.thumbprint))
        peers.append(peer)
        var hello = Hello(features: isResumable ? .resume : [], slots: 4, instance: .zero)
        if session != .zero {
            hello.session = session
            hello.secret = secret
            hello.resumes = channel
        }
        peer.send(.hello, payload: hello.bytes)
        settle()
        if session == .zero, let reply = peer.reply(to: .hello),
            let hello = try? HelloReply(bytes: reply.payload)
        {
            session = hello.session
            secret = hello.secret
        }
        return peer
    }

    /// Opens the volume, on the last slot; returns its handle once that is answered.
    @discardableResult
    func open(_ peer: ScenePeer, rights: Rights = []) -> UInt32 {
        let body = OpenRequest(kind: .volume, rights: rights, takesOver: false, capability: capability.bytes)
        peer.send(.open, slot: 3, payload: body.bytes)
        settle()
        return peer.reply(to: .open).map { UInt32(truncatingIfNeeded: $0.header.value) } ?? 0
    }

    /// Another client takes the volume for writing, and leaves.
    func visit() {
        let visitor = world.clients[1]
        let peer = ScenePeer(
            SimulatedConnection(
                number: peers.count + 1, client: 1, server: server, reactor: 0, thumbprint: visitor.thumbprint
            ))
        peers.append(peer)
        peer.send(.hello, payload: Hello(features: [], slots: 4, instance: .zero).bytes)
        settle()
        let body = OpenRequest(
            kind: .volume, rights: [], takesOver: false, capability: world.issue(to: visitor).bytes)
        peer.send(.open, slot: 3, payload: body.bytes)
        settle()
        precondition(peer.reply(to: .open)?.header.knownStatus == .ok, "the volume is free to be taken")
        peer.connection.closeClient(inOrder: true)
        settle()
    }
}
