import Capability
import Core
import Simulation
import Wire

@testable import SluiceClient

/// One channel of a client: the real protocol core, and the connection that it has now.
final class SimulatedChannel {
    enum State {
        /// No connection.
        case lost
        /// HELLO is not answered.
        case greeting
        /// OPEN is not answered.
        case opening
        case ready
    }

    var core = ChannelCore()
    var connection: SimulatedConnection?
    var state = State.lost
    var handle: UInt32 = 0
}

// SAFETY: `memory` is the client's own from init to deinit, a piece for each request that the application can have.
/// A compute node: channels of one session, an application that reads, writes and flushes, and what it was told.
@safe
final class SimulatedClient {
    enum Phase {
        /// The application does not use the volume.
        case detached
        case attaching
        case attached
        /// No new requests: it detaches when all have ended.
        case leaving
    }

    /// A request of the application.
    struct Request {
        var opcode = Opcode.read
        var first = 0
        var count = 0
        /// What it writes.
        var name: UInt64 = 0
        var start: UInt64 = 0
        /// The machine's life in which it began.
        var life = 0
        var isForced = false
        /// Of a flush: what was acknowledged before, by block.
        var needs: [UInt64] = []
        var isOpen = false
    }

    static let requestsMax = 6
    static let blocksMax = 2

    let number: Int
    let node: Identifier
    let thumbprint: Digest32
    var nodeEpoch: UInt64 = 1
    private unowned let world: SessionSimulator
    private(set) var phase = Phase.detached
    private(set) var channels: [SimulatedChannel] = []
    private(set) var session: Identifier?
    private var secret: [UInt8] = []
    private(set) var grant = 0
    private var capability: [UInt8] = []
    private(set) var requests = [Request](repeating: Request(), count: requestsMax)
    private let memory: UnsafeMutableRawPointer
    /// Of each block, the newest write that was acknowledged and not given up as lost: its place on the disk.
    private var acknowledged = [UInt64](repeating: 0, count: SimulatedDisk.blocks)
    /// Something happened to it that excuses errors.
    var isExcused = false
    private(set) var attachments = 0
    private(set) var completed = 0
    private(set) var failed = 0

    init(number: Int, world: SessionSimulator) {
        self.number = number
        self.world = world
        node = Identifier(high: 0xA0DE, low: UInt64(number))
        thumbprint = Digest32(first: Identifier(high: 0xCE7, low: UInt64(number)), second: .zero)
        unsafe memory = .allocate(
            byteCount: SimulatedClient.requestsMax * SimulatedClient.blocksMax * SimulatedDisk.blockBytes,
            alignment: 64)
    }

    deinit { unsafe memory.deallocate() }

    var openRequests: Int { requests.reduce(0) { $0 + ($1.isOpen ? 1 : 0) } }

    // MARK: Life

    /// Connects, reconnects, attaches and detaches; false when there is nothing of that to do.
    func housekeep(isCalm: Bool) -> Bool {
        switch phase {
        case .detached:
            guard !isCalm else { return false }
            attach()
        case .attaching, .attached:
            if !isCalm, phase == .attached, world.random.once(in: 30) {
                world.note("leaves", number)
                phase = .leaving
                return true
            }
            return connectMore()
        case .leaving:
            guard openRequests == 0 else { return connectMore() }
            detach(inOrder: true)
        }
        return true
    }

    private func attach() {
        world.note("attaches", number)
        phase = .attaching
        isExcused = false
        attachments += 1
        (grant, capability) = world.issue(to: self)
        channels = (0..<2).map { _ in SimulatedChannel() }
        connect(channels[0])
    }

    private func connectMore() -> Bool {
        guard phase != .attaching, let channel = channels.first(where: { $0.state == .lost }) else {
            return false
        }
        connect(channel)
        return true
    }

    private func connect(_ channel: SimulatedChannel) {
        guard let connection = world.connect(self) else { return }
        channel.connection = connection
        channel.state = .greeting
        var hello = Hello(slots: 4)
        if let session {
            hello.session = session
            hello.secret = secret
        }
        let body = hello.bytes
        connection.send(RequestHeader(length: UInt32(body.count), opcode: Opcode.hello.rawValue).bytes + body)
    }

    /// Gives the session up: what is unanswered has failed.
    func detach(inOrder: Bool) {
        world.note(inOrder ? "detaches" : "loses its session", number)
        for channel in channels {
            channel.connection?.closeClient(inOrder: inOrder)
            channel.connection = nil
            channel.state = .lost
            channel.core.abandon(.ioError)
            complete(channel)
        }
        channels = []
        session = nil
        phase = .detached
    }

    // MARK: The application

    /// Begins a request; false when it can take none.
    func submit() -> Bool {
        guard phase == .attached, let tag = requests.firstIndex(where: { !$0.isOpen }) else { return false }
        let channel = channels[world.random.below(channels.count)]
        guard channel.state == .ready, let connection = channel.connection else { return false }
        var request = Request()
        request.isOpen = true
        request.first = world.random.below(SimulatedDisk.blocks)
        request.count = min(
            1 + world.random.below(SimulatedClient.blocksMax), SimulatedDisk.blocks - request.first)
        switch world.random.below(10) {
        case 0..<4: request.opcode = .read
        case 4..<9:
            request.opcode = .write
            request.isForced = world.random.once(in: 6)
            request.name = world.nameWrite(grant)
        default:
            request.opcode = .flush
            request.first = 0
            request.count = 0
            request.needs = acknowledged
        }
        let bytes = UInt32(request.count * SimulatedDisk.blockBytes)
        let buffer = unsafe memory + tag * SimulatedClient.blocksMax * SimulatedDisk.blockBytes
        let wire = unsafe ChannelRequest(
            request.opcode, flags: request.isForced ? .fua : [], handle: channel.handle,
            offset: UInt64(request.first * SimulatedDisk.blockBytes), count: bytes,
            buffer: request.opcode == .flush ? nil : buffer, tag: UInt64(tag))
        guard let header = unsafe channel.core.begin(wire) else { return false }
        request.start = world.moment()
        request.life = world.life
        var frame = header.bytes
        if request.opcode == .write {
            for block in 0..<request.count {
                unsafe BlockBytes.fill(buffer + block * SimulatedDisk.blockBytes, request.name)
                world.history[request.first + block].writeStarted(request.name, at: request.start)
            }
            frame += unsafe Array(UnsafeRawBufferPointer(start: buffer, count: Int(bytes)))
        }
        requests[tag] = request
        world.note("submits", number, Int(request.name & 0xFFFF_FFFF))
        connection.send(frame)
        return true
    }

    // MARK: What arrives

    /// Takes in what has arrived on a connection, or some of it; false when there is nothing to do.
    func hear(_ channel: SimulatedChannel) -> Bool {
        guard let connection = channel.connection else { return false }
        let count = min(
            connection.toClient.count, world.random.once(in: 3) ? 1 + world.random.below(100) : .max)
        guard count > 0 else {
            guard connection.isServerClosed else { return false }
            lose(channel)
            return true
        }
        let bytes = connection.toClient.take(count)
        connection.windowOpened()
        do throws(ChannelError) {
            var at = 0
            while at < bytes.count {
                let isDirect = channel.core.isRoomDirect
                let room = unsafe channel.core.room
                let piece = min(room.count, bytes.count - at)
                unsafe room.copyBytes(from: bytes[at..<at + piece])
                try channel.core.received(piece, isDirect: isDirect)
                at += piece
            }
        } catch {
            if case .refused(_, let status, _) = error {
                helloRefused(channel, status)
            } else {
                world.fail("client \(number): \(error)")
            }
            return true
        }
        complete(channel)
        let notices = channel.core.notices
        channel.core.notices = []
        for notice in notices where channel.connection === connection { take(notice, channel) }
        return true
    }

    private func take(_ notice: ChannelNotice, _ channel: SimulatedChannel) {
        switch notice {
        case .hello(let reply):
            if session == nil {
                session = reply.session
                secret = reply.secret
            }
            channel.state = .opening
            let body = OpenRequest(kind: .volume, rights: [], capability: capability).bytes
            guard let header = channel.core.beginControl(.open, handle: 0, bodyBytes: body.count) else {
                return world.fail("no slot for OPEN")
            }
            channel.connection?.send(header.bytes + body)
        case .state(let handle, _):
            channel.handle = handle
            channel.state = .ready
            if phase == .attaching { phase = .attached }
        case .done: break
        case .refused(_, let status, _):
            world.note("is refused", number, Int(status.rawValue))
            detach(inOrder: true)
        case .event: break
        }
    }

    private func helloRefused(_ channel: SimulatedChannel, _ status: Status) {
        detach(inOrder: false)
    }

    /// The connection of a channel is gone.
    func lose(_ channel: SimulatedChannel) {
        isExcused = true
        detach(inOrder: false)
    }

    private func complete(_ channel: SimulatedChannel) {
        while channel.core.takeCompletions({ completions in
            for index in completions.indices { end(completions[index]) }
        }) {}
    }

    /// A request has ended: what it says is held against all that is known.
    private func end(_ completion: ChannelCompletion) {
        let tag = Int(completion.tag)
        let request = requests[tag]
        guard request.isOpen else { return world.fail("a request of client \(number) ended twice") }
        requests[tag].isOpen = false
        let end = world.moment()
        guard completion.status == .ok else { return endFailed(request, completion.status, end) }
        completed += 1
        world.note("is answered", number, Int(request.name & 0xFFFF_FFFF))
        let buffer = unsafe memory + tag * SimulatedClient.blocksMax * SimulatedDisk.blockBytes
        for block in 0..<request.count where request.life == world.life {
            let isWrite = request.opcode == .write
            let name = unsafe BlockBytes.name(buffer + block * SimulatedDisk.blockBytes)
            world.observe(request.first + block, name, start: request.start, end: end, isWrite: isWrite)
        }
        switch request.opcode {
        case .write:
            for block in request.first..<request.first + request.count {
                let version = world.version(of: request.name, block: block)
                acknowledged[block] = max(acknowledged[block], version)
                if request.isForced, world.disk.medium[block].version < version, request.life == world.life {
                    world.fail("block \(block) of forced write \(request.name) is not durable")
                }
            }
        case .flush:
            for block in 0..<SimulatedDisk.blocks
            where world.disk.medium[block].version < request.needs[block] {
                world.fail("client \(number)'s flush was answered and block \(block) is not durable")
            }
        default: break
        }
    }

    private func endFailed(_ request: Request, _ status: Status, _ end: UInt64) {
        failed += 1
        world.note("is told of an error", number, Int(status.rawValue))
        let isDevices = status == .mediumError && world.mayFailRequests
        if !isExcused, !isDevices { world.fail("client \(number) heard \(status.name) without a reason") }
        switch request.opcode {
        case .write:
            for block in request.first..<request.first + request.count {
                world.history[block].writeFailed(request.name, decidedAt: end)
            }
        // The application knows that what it wrote may be lost.
        case .flush: acknowledged = [UInt64](repeating: 0, count: SimulatedDisk.blocks)
        default: break
        }
    }
}
