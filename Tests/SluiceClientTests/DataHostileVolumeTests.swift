import Core
import Reactor
import Synchronization
import TLS
import TestSupport
import Testing
import Wire

@testable import SluiceClient

/// What a server that was taken over says to a volume's client once the volume is open.
@Suite(.timeLimit(.minutes(1)), .serialized, .blocking) struct DataHostileVolumeTests {
    /// A client of a peer that, after its first OPEN, does what `script` says, and afterwards serves rightly.
    private func withVolume(
        reconnects: Bool = false, _ script: @escaping ScriptedPeer.Script,
        test: (VolumeHarness) async throws -> Void
    ) async throws {
        let identities = try ScriptedPeer.Identities()
        let peer = try ScriptedPeer(identities) { connection in
            try connection.greet()
            try connection.answerOpen()
            try script(connection)
            while true {
                let (header, _) = try connection.nextRequest()
                try connection.reply(header, value: UInt64(header.count))
            }
        }
        var options = VolumeClientOptions(
            addresses: [peer.address], serverName: "localhost", tls: try identities.clientContext(),
            capability: [1])
        options.reconnects = reconnects
        let harness = try VolumeHarness(options)
        defer { harness.stop() }
        guard case .ready? = await harness.next() else {
            Issue.record("the volume does not become ready")
            return
        }
        try await test(harness)
    }

    /// What the client says until flushes of it are answered, or it ends. What arrives together with an answer is told
    /// after that, so that there are two.
    private func heard(_ harness: VolumeHarness) async -> [VolumeHarness.Said] {
        var all: [VolumeHarness.Said] = []
        for tag in [76, 77] as [UInt64] {
            harness.on { _ = unsafe $0.submit(.flush, tag: tag) }
            while let one = await harness.next() {
                all.append(one)
                if case .closed = one { return all }
                if case .completed(let end) = one, end.tag == tag { break }
            }
        }
        return all
    }

    private func ending(_ said: [VolumeHarness.Said]) -> String? {
        if case .closed(let text)? = said.last { text } else { nil }
    }

    private func ignored(_ said: [VolumeHarness.Said]) -> [String] {
        said.compactMap { if case .ignored(let what) = $0 { what } else { nil } }
    }

    private func events(_ said: [VolumeHarness.Said]) -> [ChannelEvent] {
        said.compactMap { if case .event(let event) = $0 { event } else { nil } }
    }

    @Test(arguments: [0, 4096, (1 << 20) - 4096, (1 << 20) + 1, (1 << 20) + 511] as [UInt64])
    func aVolumeThatShrinksOrHasPartsOfBlocksIsNotBelieved(size: UInt64) async throws {
        try await withVolume { connection in
            for number in 1...3 {
                try connection.send(
                    ChannelEvent.resized(handle: 7, size: size).frame(number: UInt32(number)))
            }
        } test: { harness in
            let said = await heard(harness)
            #expect(
                ignored(said).count == 1 && ignored(said).first?.contains("the volume") == true, "\(said)")
            #expect(events(said).isEmpty && ending(said) == nil)
            harness.on { #expect($0.state?.size == 1 << 20) }
            _ = await heard(harness)
        }
    }

    @Test func aVolumeThatGrowsIsTold() async throws {
        try await withVolume { connection in
            try connection.send(ChannelEvent.resized(handle: 7, size: 2 << 20).frame(number: 1))
            try connection.send(ChannelEvent.resized(handle: 7, size: 2 << 20).frame(number: 2))
        } test: { harness in
            #expect(events(await heard(harness)) == [.resized(handle: 7, size: 2 << 20)])
            harness.on { #expect($0.state?.size == 2 << 20) }
        }
    }

    @Test func whatIsSaidOfAHandleThatNobodyHasIsIgnored() async throws {
        try await withVolume { connection in
            for handle in [0, 1, 8, UInt32.max] {
                for event: ChannelEvent in [
                    .revoked(handle: handle, status: .revoked, reason: ""), .resized(handle: handle, size: 0),
                    .expiring(handle: handle, expiry: 0),
                    .driverRecovering(handle: handle, isRecovering: true),
                ] {
                    try connection.send(event.frame(number: 1))
                }
            }
        } test: { harness in
            let said = await heard(harness)
            #expect(events(said).isEmpty)
            guard case .completed(let end)? = said.last else {
                Issue.record("the volume does not go on: \(said)")
                return
            }
            #expect(end.status == .ok)
        }
    }

    @Test(arguments: [UInt64(1) << 35, 1 << 63, .max, Limits.drainSecondsMax + 1])
    func aDrainOfImpossibleLengthIsAViolationAndNoTrap(seconds: UInt64) async throws {
        try await withVolume(reconnects: true) { connection in
            guard connection.index == 0 else { return }
            try connection.send(
                ChannelEvent.draining(seconds: seconds, target: "127.0.0.1:9").frame(number: 1))
            try connection.waitForEnd()
        } test: { harness in
            let said = await harness.next {
                if case .closed = $0 { true } else if case .interrupted = $0 { true } else { false }
            }
            // Without RESUME, which the peer does not grant, a channel that is lost ends the volume.
            #expect("\(String(describing: said))".contains("impossible time"))
        }
    }

    @Test func theLongestDrainIsFollowedWithoutATrap() async throws {
        try await withVolume(reconnects: true) { connection in
            let target = connection.index == 0 ? "127.0.0.1:9" : ""
            try connection.send(
                ChannelEvent.draining(seconds: Limits.drainSecondsMax, target: target).frame(number: 1))
        } test: { harness in
            let said = await heard(harness)
            #expect(events(said) == [.draining(seconds: Limits.drainSecondsMax, target: "127.0.0.1:9")])
        }
    }

    @Test func aPlaceThatTheCertificateDoesNotNameIsNotGoneTo() async throws {
        let listener = try Sockets.listen(try SocketAddress(text: "127.0.0.2:0"))
        let place = try Sockets.localAddress(fd: listener.raw).description
        try await withVolume(reconnects: true) { connection in
            for target in [place, place, "other.example:7481", "unix:/run/some.sock", "0.0.0.0:22"] {
                try connection.send(ChannelEvent.draining(seconds: 1, target: target).frame(number: 1))
            }
        } test: { harness in
            let refused = ignored(await heard(harness))
            let targets = [place, "other.example:7481", "unix:/run/some.sock", "0.0.0.0:22"]
            #expect(refused.count == targets.count)
            #expect(zip(refused, targets).allSatisfy { $0.contains("to \($1), where its certificate") })
            harness.on { #expect($0.move == nil && $0.places.count == 1) }
            _ = await heard(harness)
        }
    }

    @Test func eventsWithoutEndEndTheConnection() async throws {
        try await withVolume { connection in
            for index in 0..<100_000 {
                let event = ChannelEvent.resized(handle: 7, size: (1 << 20) + 4096 * UInt64(index))
                try connection.send(event.frame(number: UInt32(index)))
            }
        } test: { harness in
            var said: [VolumeHarness.Said] = []
            while ending(said) == nil, let one = await harness.next() { said.append(one) }
            #expect(ending(said)?.contains("events without end") == true)
            #expect(events(said).count <= EventBudget.burst + 10)
        }
    }

    /// What HELLO's answer says against what was asked for.
    @Test func moreThanWasAskedForIsNotTaken() async throws {
        func greeting(_ change: @escaping @Sendable (inout HelloReply) -> Void) async throws -> String {
            var options = ChannelOptions()
            options.depth = 7
            options.payloadBytesMax = 65536
            return try await SluiceClientTests.ending(options: options) { connection in
                let (header, body) = try connection.nextRequest()
                var reply = PeerConnection.greeting(for: try Hello(bytes: body), slots: 8, payload: 65536)
                change(&reply)
                try connection.reply(header, payload: reply.bytes)
                try connection.waitForEnd()
            }
        }
        #expect(try await greeting { $0.slots = 9 }.contains("more than was asked for"))
        #expect(try await greeting { $0.slots = 256 }.contains("more than was asked for"))
        #expect(try await greeting { $0.payloadBytesMax = 65537 }.contains("more than was asked for"))
        #expect(try await greeting { $0.features = .resume }.contains("more than was asked for"))
        #expect(
            try await greeting { $0.features = Features(rawValue: 1 << 63) }.contains("more than was asked"))
        #expect(
            try await greeting { $0.secret = Array(repeating: 0, count: 32) }.contains("without a secret"))
        #expect(try await greeting { $0.serverName = "a\u{202e}b" }.contains("malformed"))
    }

    @Test func aSessionThatWasNotToBeJoinedIsNot() async throws {
        var options = ChannelOptions()
        options.ticket = SessionTicket(
            session: Identifier(high: 9, low: 9), secret: SecretBytes(Array(1...32)), instance: .zero)
        let text = try await SluiceClientTests.ending(options: options) { connection in
            let (header, body) = try connection.nextRequest()
            var reply = PeerConnection.greeting(for: try Hello(bytes: body), slots: 8, payload: 65536)
            reply.session = Identifier(high: 1, low: 1)
            try connection.reply(header, payload: reply.bytes)
            try connection.waitForEnd()
        }
        #expect(text.contains("another session"))
    }

    /// Each would have the client submit what its own checks end the process for.
    @Test(arguments: [
        "transfers above the payload", "a size of parts of blocks", "a right that does not exist",
    ])
    func anOpenOfAVolumeThatCannotBeEndsTheChannel(lie: String) async throws {
        let identities = try ScriptedPeer.Identities()
        let peer = try ScriptedPeer(identities) { connection in
            try connection.greet(payloadBytesMax: 65536)
            var state = PeerConnection.volume()
            if lie != "transfers above the payload" { state.transferBytesMax = 65536 }
            if lie == "a size of parts of blocks" { state.size -= 1 }
            if lie == "a right that does not exist" { state.rights = Rights(rawValue: 1 << 31) }
            try connection.answerOpen(state)
            try connection.waitForEnd()
        }
        let harness = try ChannelHarness()
        defer { harness.stop() }
        harness.connect(to: peer.address, try identities.clientContext())
        _ = await harness.next()
        harness.open()
        #expect(await harness.allToTheEnd().last?.ending?.contains("broke the protocol") == true)
    }

    /// A request of the larger size would go to the channel that takes the smaller one, and end the process.
    @Test func ofChannelsThatTakeTransfersOfDifferentSizesTheSmallerCounts() async throws {
        let identities = try ScriptedPeer.Identities()
        let peer = try ScriptedPeer(identities) { connection in
            let bytes: UInt32 = connection.index == 0 ? 65536 : 1 << 20
            try connection.greet(payloadBytesMax: bytes)
            var state = PeerConnection.volume()
            state.transferBytesMax = bytes
            try connection.answerOpen(state)
            while true {
                let (header, _) = try connection.nextRequest()
                try connection.reply(header)
            }
        }
        var options = VolumeClientOptions(
            addresses: [peer.address], serverName: "localhost", tls: try identities.clientContext(),
            capability: [1])
        options.channels = 2
        let harness = try VolumeHarness(options)
        defer { harness.stop() }
        guard case .ready? = await harness.next() else {
            Issue.record("the volume does not become ready")
            return
        }
        let memory = TestMemory(1 << 20)
        harness.on { volume in
            let count = volume.state?.transferBytesMax ?? 0
            #expect(count == 65536)
            for tag in 0..<2 {
                #expect(unsafe volume.submit(.write, count: count, buffer: memory.base, tag: UInt64(tag)))
            }
        }
        for _ in 0..<2 {
            guard case .completed(let end)? = await harness.next() else {
                Issue.record("no answer")
                return
            }
            #expect(end.status == .ok)
        }
        withExtendedLifetime(memory) {}
    }

    @Test func aLaterVolumeOfAnotherShapeIsAskedForAgain() async throws {
        let shapes: [@Sendable (inout ResourceState) -> Void] = [
            { $0.blockSize = 4096 }, { $0.transferBytesMax = 65536 },
        ]
        for shape in shapes {
            let identities = try ScriptedPeer.Identities()
            let peer = try ScriptedPeer(identities) { connection in
                let (header, body) = try connection.nextRequest()
                let hello = try Hello(bytes: body)
                var reply = PeerConnection.greeting(for: hello, slots: 9, payload: 1 << 20)
                reply.features = .resume
                if hello.resumes != nil { reply.resumption = .slots }
                try connection.reply(header, payload: reply.bytes)
                var state = PeerConnection.volume()
                if connection.index == 1 { shape(&state) }
                try connection.answerOpen(state)
                if connection.index == 0 { try connection.cut() }
                try connection.waitForEnd()
            }
            var options = VolumeClientOptions(
                addresses: [peer.address], serverName: "localhost", tls: try identities.clientContext(),
                capability: [1])
            options.channel.depth = 8
            let harness = try VolumeHarness(options)
            defer { harness.stop() }
            var reasons: [String] = []
            while let one = await harness.next() {
                if case .interrupted(let reason) = one { reasons.append(reason) }
                if case .closed(let reason) = one { Issue.record("it has ended: \(reason)") }
                if case .resumed = one { break }
            }
            #expect(reasons.contains { $0.contains("broke the protocol: the volume") }, "\(reasons)")
        }
    }
}
