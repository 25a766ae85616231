import Core
import Reactor
import Synchronization
import TLS
import TestSupport
import Testing
import Wire

@testable import SluiceClient

/// A volume client on a reactor of its own, and what it says.
private final class VolumeHarness: VolumeClientDelegate, @unchecked Sendable {
    // SAFETY: `volume` is touched on the reactor's thread only.
    enum Said: Sendable {
        case ready(size: UInt64, depth: Int)
        case completed(ChannelCompletion)
        case event(ChannelEvent)
        case renewed(Bool)
        case interrupted(String)
        case resumed(repeated: Int)
        case needsCapability
        case closed(String)
    }

    let thread: ReactorThread
    private var volume: VolumeClient?
    private let said: AsyncStream<Said>
    private let say: AsyncStream<Said>.Continuation

    init(_ options: VolumeClientOptions) throws {
        (said, say) = AsyncStream<Said>.makeStream()
        thread = try Reactor.start { _ in }
        thread.remote.postWithReactor { [self] reactor in
            let volume = VolumeClient(reactor: reactor, options: options, delegate: self)
            self.volume = volume
            volume.start()
        }
    }

    func on(_ work: @escaping @Sendable (VolumeClient) -> Void) {
        thread.remote.post { [self] in
            if let volume { work(volume) }
        }
    }

    func renew() {
        on { [self] volume in
            volume.renew(capability: [9]) { result in
                if case .success = result {
                    self.say.yield(.renewed(true))
                } else {
                    self.say.yield(.renewed(false))
                }
            }
        }
    }

    func next() async -> Said? {
        var iterator = said.makeAsyncIterator()
        return await iterator.next()
    }

    func stop() {
        thread.remote.post { [self] in volume = nil }
        thread.remote.stop()
        thread.join()
    }

    func volumeReady(_ volume: VolumeClient) {
        say.yield(.ready(size: volume.state?.size ?? 0, depth: volume.depth))
    }

    func volumeCompleted(_ volume: VolumeClient, _ completions: Span<ChannelCompletion>) {
        for index in completions.indices { say.yield(.completed(completions[index])) }
    }

    func volumeHasRoom(_ volume: VolumeClient) {}

    func volumeEvent(_ volume: VolumeClient, _ event: ChannelEvent) { say.yield(.event(event)) }

    func volumeInterrupted(_ volume: VolumeClient, _ reason: ChannelError) {
        say.yield(.interrupted(reason.description))
    }

    func volumeResumed(_ volume: VolumeClient, afterNanoseconds pause: UInt64, repeated: Int) {
        say.yield(.resumed(repeated: repeated))
    }

    func volumeNeedsCapability(_ volume: VolumeClient) { say.yield(.needsCapability) }

    func volumeClosed(_ volume: VolumeClient, _ error: ChannelError) { say.yield(.closed(error.description)) }
}

@Suite(.timeLimit(.minutes(1)), .serialized, .blocking) struct DataVolumeClientTests {
    private func options(
        _ identities: ScriptedPeer.Identities, _ peer: ScriptedPeer, channels: Int
    ) throws -> VolumeClientOptions {
        var options = VolumeClientOptions(
            addresses: [peer.address], serverName: "localhost", tls: try identities.clientContext(),
            capability: [1])
        options.channels = channels
        options.channel.depth = 4
        return options
    }

    @Test func laterChannelsJoinTheSessionAndShareTheWork() async throws {
        let identities = try ScriptedPeer.Identities()
        let joined = Mutex<[Bool]>([])
        let served = Mutex<[Int: Int]>([:])
        let peer = try ScriptedPeer(identities) { connection in
            let hello = try connection.greet()
            joined.withLock { $0.append(hello.isJoining && hello.secret == Array(1...32)) }
            try connection.answerOpen()
            while true {
                let (header, _) = try connection.nextRequest()
                served.withLock { $0[connection.index, default: 0] += 1 }
                try connection.reply(header)
            }
        }
        let harness = try VolumeHarness(try options(identities, peer, channels: 3))
        defer { harness.stop() }
        guard case .ready(size: 1 << 20, depth: 12)? = await harness.next() else {
            Issue.record("the volume does not become ready")
            return
        }
        harness.on { volume in
            for tag in 0..<12 { #expect(unsafe volume.submit(.flush, tag: UInt64(tag))) }
            #expect(unsafe !volume.submit(.flush, tag: 99))
        }
        var tags = Set<UInt64>()
        for _ in 0..<12 {
            if case .completed(let one)? = await harness.next(), one.status == .ok { tags.insert(one.tag) }
        }
        #expect(tags == Set(0..<12))
        #expect(joined.withLock { $0 } == [false, true, true])
        #expect(served.withLock { $0 } == [0: 4, 1: 4, 2: 4])
    }

    @Test func whatEveryChannelSaysIsHeardOnceAndRenewReachesAll() async throws {
        let identities = try ScriptedPeer.Identities()
        let renewed = Mutex(0)
        let peer = try ScriptedPeer(identities) { connection in
            try connection.greet()
            try connection.answerOpen()
            let (header, _) = try connection.nextRequest()
            try connection.send(ChannelEvent.resized(handle: 7, size: 2 << 20).frame(number: 1))
            try connection.send(ChannelEvent.expiring(handle: 7, expiry: 99).frame(number: 2))
            #expect(header.opcode == Opcode.renew.rawValue)
            renewed.withLock { $0 += 1 }
            try connection.reply(header, payload: PeerConnection.volume(size: 2 << 20).bytes)
            try connection.waitForEnd()
        }
        let harness = try VolumeHarness(try options(identities, peer, channels: 2))
        defer { harness.stop() }
        _ = await harness.next()
        harness.renew()
        var events: [ChannelEvent] = []
        while let one = await harness.next() {
            if case .event(let event) = one { events.append(event) }
            if case .renewed(let isSuccess) = one {
                #expect(isSuccess)
                break
            }
        }
        #expect(Set(events) == [.resized(handle: 7, size: 2 << 20), .expiring(handle: 7, expiry: 99)])
        #expect(events.count == 2)
        #expect(renewed.withLock { $0 } == 2)
        harness.on { #expect($0.state?.size == 2 << 20) }
    }

    @Test func aRefusedOpenOrALostChannelEndsTheVolumeWithItsReason() async throws {
        let identities = try ScriptedPeer.Identities()
        let refusing = try ScriptedPeer(identities) { connection in
            try connection.greet()
            let (header, _) = try connection.nextRequest()
            try connection.reply(header, .writerConflict, payload: Array("node-2 writes".utf8))
            try connection.waitForEnd()
        }
        let first = try VolumeHarness(try options(identities, refusing, channels: 2))
        defer { first.stop() }
        guard case .closed(let reason)? = await first.next() else {
            Issue.record("a refused volume does not end")
            return
        }
        #expect(reason.contains("WRITER_CONFLICT: node-2 writes"))

        let cutting = try ScriptedPeer(identities) { connection in
            try connection.greet()
            try connection.answerOpen()
            if connection.index == 1 {
                _ = try connection.nextRequest()
                try connection.cut()
            }
            try connection.waitForEnd()
        }
        let second = try VolumeHarness(try options(identities, cutting, channels: 2))
        defer { second.stop() }
        _ = await second.next()
        second.on { volume in
            for tag in 0..<2 { #expect(unsafe volume.submit(.flush, tag: UInt64(tag))) }
        }
        var ended = 0
        while let one = await second.next() {
            if case .completed(let completion) = one, completion.status == .ioError { ended += 1 }
            if case .closed(let text) = one {
                #expect(text.contains("lost"))
                break
            }
        }
        #expect(ended == 2)
    }
}
