import Core
import Reactor
import Synchronization
import TLS
import TestSupport
import Testing
import Wire

@testable import SluiceClient

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
