import Core
import Reactor
import Synchronization
import TLS
import Testing
import Wire

@testable import SluiceClient

/// What a delegate heard.
enum Heard: Sendable {
    case ready
    case completed(ChannelCompletion)
    case event(ChannelEvent)
    case closed(ChannelError)
    case opened(Result<UInt32, ChannelError>)
    case renewed(Result<UInt64, ChannelError>)

    /// The text of the end, where it was the end.
    var ending: String? {
        if case .closed(let error) = self { error.description } else { nil }
    }
}

/// A channel on a reactor of its own, and what it says, in order.
final class ChannelHarness: DataChannelDelegate, @unchecked Sendable {
    // SAFETY: `channel` and `memory` are touched on the reactor's thread only, by `on` and the delegate's
    // calls.

    let thread: ReactorThread
    private var channel: SecureChannel?
    private let yield: AsyncStream<Heard>.Continuation
    private let heard: AsyncStream<Heard>

    init() throws {
        let (stream, continuation) = AsyncStream<Heard>.makeStream()
        yield = continuation
        heard = stream
        thread = try Reactor.start { _ in }
    }

    /// Connects to the peer.
    func connect(
        to address: SocketAddress, _ context: TLSContext, serverName: String = "127.0.0.1",
        options: ChannelOptions = ChannelOptions()
    ) {
        thread.remote.postWithReactor { [self] reactor in
            do throws(ChannelError) {
                let channel = try SecureChannel(
                    reactor: reactor, address: address, serverName: serverName, tls: context,
                    options: options,
                    delegate: self)
                self.channel = channel
                channel.connect()
            } catch {
                yield.yield(.closed(error))
            }
        }
    }

    /// Runs work with the channel on its thread.
    func on(_ work: @escaping @Sendable (SecureChannel) -> Void) {
        thread.remote.post { [self] in
            if let channel { work(channel) }
        }
    }

    func open(rights: Rights = []) {
        on { [self] channel in
            channel.open(capability: [1, 2, 3], rights: rights) {
                self.yield.yield(.opened($0.map(\.handle)))
            }
        }
    }

    /// Sends RENEW that many times, in one wake-up.
    func renew(times: Int = 1) {
        on { [self] channel in
            for _ in 0..<times {
                channel.renew(handle: 7, capability: [4]) { self.yield.yield(.renewed($0.map(\.expiry))) }
            }
        }
    }

    /// The next thing that the channel says; nil never comes before the end.
    func next() async -> Heard? {
        var iterator = heard.makeAsyncIterator()
        return await iterator.next()
    }

    /// Everything up to the end of the channel, the end included.
    func allToTheEnd() async -> [Heard] {
        var all: [Heard] = []
        while let one = await next() {
            all.append(one)
            if one.ending != nil { break }
        }
        return all
    }

    /// Ends the reactor; the harness is of no use afterwards.
    func stop() {
        thread.remote.post { [self] in channel = nil }
        thread.remote.stop()
        thread.join()
    }

    func channelReady(_ channel: SecureChannel) { yield.yield(.ready) }

    func channelCompleted(_ channel: SecureChannel, _ completions: Span<ChannelCompletion>) {
        for index in completions.indices { yield.yield(.completed(completions[index])) }
    }

    func channelEvent(_ channel: SecureChannel, _ event: ChannelEvent) { yield.yield(.event(event)) }

    func channelClosed(_ channel: SecureChannel, _ error: ChannelError) { yield.yield(.closed(error)) }
}

/// Memory for requests; freed with the last reference.
@safe
final class TestMemory: @unchecked Sendable {
    // SAFETY: tests touch the bytes before the request is submitted and after it has completed.
    let base: UnsafeMutableRawPointer
    let count: Int

    init(_ count: Int) {
        self.count = count
        unsafe base = .allocate(byteCount: count, alignment: 4096)
        unsafe base.initializeMemory(as: UInt8.self, repeating: 0, count: count)
    }

    deinit {
        unsafe base.deallocate()
    }

    var bytes: [UInt8] { unsafe Array(UnsafeRawBufferPointer(start: base, count: count)) }

    func fill(_ bytes: [UInt8]) {
        unsafe UnsafeMutableRawBufferPointer(start: base, count: count).copyBytes(from: bytes)
    }
}

/// A channel that has opened handle 7 on a peer, which then goes on with `script`.
func withOpenChannel(
    options: ChannelOptions = ChannelOptions(), slots: UInt16 = 9,
    peer script: @escaping ScriptedPeer.Script, test: (ChannelHarness) async throws -> Void
) async throws {
    let identities = try ScriptedPeer.Identities()
    let peer = try ScriptedPeer(identities) { connection in
        try connection.greet(slots: slots)
        try connection.answerOpen()
        try script(connection)
    }
    let harness = try ChannelHarness()
    defer { harness.stop() }
    harness.connect(to: peer.address, try identities.clientContext(), options: options)
    guard case .ready? = await harness.next() else {
        Issue.record("the channel does not become ready")
        return
    }
    harness.open()
    guard case .opened(.success(7))? = await harness.next() else {
        Issue.record("the channel does not open")
        return
    }
    try await test(harness)
}

/// The text that a channel ends with when the peer does what `script` says.
func ending(
    alpn: [String] = ["sluice/1"], handshakes: Bool = true, serverName: String = "127.0.0.1",
    options: ChannelOptions = ChannelOptions(), peer script: @escaping ScriptedPeer.Script
) async throws -> String {
    let identities = try ScriptedPeer.Identities()
    let peer = try ScriptedPeer(identities, alpn: alpn, handshakes: handshakes, script: script)
    let harness = try ChannelHarness()
    defer { harness.stop() }
    harness.connect(
        to: peer.address, try identities.clientContext(), serverName: serverName, options: options)
    return await harness.allToTheEnd().last?.ending ?? "no end"
}
