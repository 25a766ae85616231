import Core
import Reactor
import Synchronization
import TLS
import TestSupport
import Testing
import Wire

@testable import SluiceClient

/// A volume client whose connections are lost.
@Suite(.timeLimit(.minutes(5)), .serialized, .blocking) struct DataResumeTests {
    private static let block = 512

    private func options(
        _ identities: ScriptedPeer.Identities, _ peer: ScriptedPeer, channels: Int = 1, depth: Int = 4
    ) throws -> VolumeClientOptions {
        var options = VolumeClientOptions(
            addresses: [peer.address], serverName: "localhost", tls: try identities.clientContext(),
            capability: [1])
        options.channels = channels
        options.channel.depth = depth
        return options
    }

    /// Writes three blocks, discards one, reads one and flushes, all at once; returns what completed.
    private func converse(_ harness: VolumeHarness, _ memory: TestMemory) async -> [UInt64: Status] {
        harness.on { volume in
            for index in 0..<3 {
                let taken = unsafe volume.submit(
                    .write, offset: UInt64(index * Self.block), count: UInt32(Self.block),
                    buffer: memory.base + index * Self.block, tag: UInt64(index))
                #expect(taken)
            }
            #expect(unsafe volume.submit(.discard, offset: 8192, count: 512, tag: 3))
            #expect(
                unsafe volume.submit(
                    .read, offset: 4096, count: 512, buffer: memory.base + 3 * Self.block, tag: 4))
            #expect(unsafe volume.submit(.flush, tag: 5))
        }
        var ended: [UInt64: Status] = [:]
        while ended.count < 6, let one = await harness.next() {
            switch one {
            case .completed(let completion): ended[completion.tag] = completion.status
            case .closed: return ended
            default: continue
            }
        }
        return ended
    }

    /// The bytes of an undisturbed conversation, each way.
    private func measure(_ identities: ScriptedPeer.Identities) async throws -> (sent: Int, taken: Int) {
        let volume = ResumingPeer()
        let counts = Mutex((0, 0))
        let peer = try ScriptedPeer(identities) { connection in
            defer { counts.withLock { $0 = (connection.sent, connection.taken) } }
            try volume.serve(connection)
        }
        let harness = try VolumeHarness(try options(identities, peer, depth: 8))
        guard case .ready? = await harness.next() else { return (0, 0) }
        let ended = await converse(harness, TestMemory(4 * Self.block))
        #expect(ended.count == 6)
        harness.on { $0.close() }
        _ = await harness.next { if case .closed = $0 { true } else { false } }
        harness.stop()
        while counts.withLock({ $0.0 }) == 0 { await Task.yield() }
        return counts.withLock { $0 }
    }

    /// Cuts the first connection after so many bytes, and the second after some that the number decides.
    private func survive(
        _ identities: ScriptedPeer.Identities, cut: Int, isReply: Bool
    ) async throws {
        let volume = ResumingPeer()
        let started = Mutex(false)
        let peer = try ScriptedPeer(identities) { connection in
            // Before the volume is ready a lost connection ends the client, which other tests look at.
            let limit = started.withLock { $0 } ? cut &* 7919 % 700 : cut
            if connection.index < 2 {
                if isReply { connection.sendsAtMost = limit } else { connection.receivesAtMost = limit }
            }
            try volume.serve(
                connection,
                before: { header in
                    if header.opcode >= Opcode.read.rawValue { started.withLock { $0 = true } }
                })
        }
        let harness = try VolumeHarness(try options(identities, peer, depth: 8))
        defer { harness.stop() }
        let memory = TestMemory(4 * Self.block)
        memory.fill((0..<4 * Self.block).map { UInt8(truncatingIfNeeded: $0 / 7 + 1) })
        let first = await harness.next()
        guard case .ready? = first else { return }
        let ended = await converse(harness, memory)
        #expect(ended.count == 6, "cut at \(cut)")
        #expect(ended.values.allSatisfy { $0 == .ok }, "cut at \(cut): \(ended)")
        #expect(volume.violations == 0, "cut at \(cut)")
        #expect(volume.executions.values.allSatisfy { $0 == 1 }, "cut at \(cut): \(volume.executions)")
        #expect(volume.executions.count == 4)
        #expect(Array(volume.bytes[..<(3 * Self.block)]) == Array(memory.bytes[..<(3 * Self.block)]))
        #expect(memory.bytes[(3 * Self.block)...].allSatisfy { $0 == 0 })
    }

    @Test func aConnectionThatIsCutAtAnyByteLosesNothingAndRepeatsNothing() async throws {
        let identities = try ScriptedPeer.Identities()
        let size = try await measure(identities)
        let opening = 2 * Limits.headerBytes
        let replies = (opening..<size.sent).map { ($0, true) }
        // One that ends right after OPEN may do so before or after the volume takes requests.
        let untilOpen =
            opening + Hello(clientName: ChannelOptions().clientName).bytes.count
            + OpenRequest(kind: .volume, rights: [], capability: [1]).bytes.count
        let requests = stride(from: opening, to: size.taken, by: 5).map { ($0, false) }.filter {
            $0.0 != untilOpen
        }
        let cuts = replies + requests
        try await withThrowingTaskGroup(of: Void.self) { group in
            for (index, cut) in cuts.enumerated() {
                if index >= 8 { try await group.next() }
                group.addTask { try await self.survive(identities, cut: cut.0, isReply: cut.1) }
            }
            try await group.waitForAll()
        }
    }

    // MARK: What is lost with the session

    /// A ready volume on `volume`, whose connections are cut by `cut`.
    private func withVolume(
        _ volume: ResumingPeer, channels: Int = 1,
        change: (inout VolumeClientOptions) -> Void = { _ in },
        serve: @escaping @Sendable (PeerConnection) throws -> Void,
        test: (VolumeHarness) async throws -> Void
    ) async throws {
        let identities = try ScriptedPeer.Identities()
        let peer = try ScriptedPeer(identities, script: serve)
        var options = try options(identities, peer, channels: channels)
        change(&options)
        let harness = try VolumeHarness(options)
        defer { harness.stop() }
        guard case .ready? = await harness.next() else {
            Issue.record("the volume does not become ready")
            return
        }
        try await test(harness)
    }

    private func write(_ harness: VolumeHarness, tag: UInt64, memory: TestMemory) {
        harness.on { volume in
            #expect(
                unsafe volume.submit(
                    .write, offset: tag * UInt64(Self.block), count: UInt32(Self.block), buffer: memory.base,
                    tag: tag))
        }
    }

    private func completion(_ harness: VolumeHarness) async -> ChannelCompletion? {
        if case .completed(let one)? = await harness.next(where: {
            if case .completed = $0 { true } else { false }
        }) {
            return one
        }
        return nil
    }

    @Test func aLostSessionFailsTheNextFlushOnceIfWritesWereNotFlushed() async throws {
        for isFlushed in [false, true] {
            let volume = ResumingPeer()
            let memory = TestMemory(Self.block)
            try await withVolume(volume) { connection in
                try volume.serve(
                    connection,
                    before: { header in
                        // The third write is not answered, and the session is forgotten.
                        guard header.opcode == Opcode.write.rawValue, header.offset == 3 * UInt64(Self.block)
                        else {
                            return
                        }
                        volume.forgetSession()
                        try connection.cut()
                    })
            } test: { harness in
                write(harness, tag: 1, memory: memory)
                #expect(await completion(harness)?.status == .ok)
                if isFlushed {
                    harness.on { #expect(unsafe $0.submit(.flush, tag: 2)) }
                    #expect(await completion(harness)?.status == .ok)
                }
                write(harness, tag: 3, memory: memory)
                #expect(await completion(harness) == ChannelCompletion(tag: 3, value: 0, status: .ioError))
                _ = await harness.next { if case .resumed = $0 { true } else { false } }
                for expected in isFlushed ? [Status.ok, .ok] : [.ioError, .ok] {
                    harness.on { #expect(unsafe $0.submit(.flush, tag: 9)) }
                    #expect(await completion(harness)?.status == expected)
                }
            }
        }
    }

    @Test func aLostSessionsReadsAreExecutedByTheNext() async throws {
        let volume = ResumingPeer()
        let memory = TestMemory(Self.block)
        memory.fill([UInt8](repeating: 9, count: Self.block))
        try await withVolume(volume, channels: 2) { connection in
            try volume.serve(
                connection,
                before: { header in
                    guard header.opcode == Opcode.read.rawValue, connection.index < 2 else { return }
                    volume.forgetSession()
                    try connection.cut()
                })
        } test: { harness in
            harness.on {
                #expect(unsafe $0.submit(.read, count: UInt32(Self.block), buffer: memory.base, tag: 1))
            }
            #expect(await completion(harness)?.status == .ok)
            #expect(memory.bytes.allSatisfy { $0 == 0 })
        }
    }

    @Test func anotherEpochOrAFenceMeansThatTheVolumeIsLost() async throws {
        for spoil: @Sendable (ResumingPeer) -> Void in [
            { $0.set(epoch: 2) }, { $0.set(openStatus: .fenced) }, { $0.set(openStatus: .staleEpoch) },
            { $0.set(openStatus: .writerConflict) },
        ] {
            let volume = ResumingPeer()
            try await withVolume(volume) { connection in
                try volume.serve(
                    connection,
                    before: { header in
                        guard header.opcode == Opcode.flush.rawValue else { return }
                        spoil(volume)
                        try connection.cut()
                    })
            } test: { harness in
                harness.on { #expect(unsafe $0.submit(.flush, tag: 1)) }
                #expect(await completion(harness)?.status == .ioError)
                let end = await harness.next { if case .closed = $0 { true } else { false } }
                guard case .closed(let text)? = end else { return }
                #expect(text.contains("OPEN"))
            }
        }
    }

    @Test func anExpiredCapabilityIsAskedForAndThenTheVolumeGoesOn() async throws {
        let volume = ResumingPeer()
        try await withVolume(volume) { connection in
            try volume.serve(
                connection,
                before: { header in
                    guard header.opcode == Opcode.flush.rawValue, connection.index == 0 else { return }
                    volume.set(openStatus: .expired)
                    try connection.cut()
                })
        } test: { harness in
            harness.on { #expect(unsafe $0.submit(.flush, tag: 1)) }
            _ = await harness.next { if case .needsCapability = $0 { true } else { false } }
            volume.set(openStatus: .ok)
            harness.renew()
            #expect(await completion(harness)?.status == .ok)
            #expect(volume.resumes == 1)
        }
    }

    @Test(
        "requests that are refused because the capability has ended wait for the next one, and are executed once"
    )
    func anExpiredCapabilityHoldsRequests() async throws {
        let volume = ResumingPeer()
        let memory = TestMemory(Self.block)
        try await withVolume(volume, channels: 2) { connection in
            try volume.serve(connection)
        } test: { harness in
            volume.expire()
            harness.on { volume in
                #expect(
                    unsafe volume.submit(
                        .write, offset: UInt64(Self.block), count: UInt32(Self.block), buffer: memory.base,
                        tag: 1))
                #expect(unsafe volume.submit(.flush, tag: 2))
            }
            _ = await harness.next { if case .needsCapability = $0 { true } else { false } }
            harness.on { #expect(unsafe !$0.submit(.flush, tag: 3), "those that come later wait too") }
            #expect(volume.executions.isEmpty)
            harness.renew()
            // What one channel is answered says nothing of when the other one is.
            var ended: [ChannelCompletion] = []
            var isResumed = false
            while ended.count < 2 || !isResumed, let said = await harness.next() {
                if case .completed(let one) = said { ended.append(one) }
                if case .resumed = said { isResumed = true }
            }
            #expect(ended.allSatisfy { $0.status == .ok } && Set(ended.map(\.tag)) == [1, 2])
            #expect(volume.executions.values.allSatisfy { $0 == 1 } && volume.executions.count == 1)
            #expect(volume.renewals == 2 && volume.resumes == 0)
        }
    }

    @Test("a request that waits for a capability can be given up, and others go on")
    func whatIsHeldIsGivenUp() async throws {
        let volume = ResumingPeer()
        try await withVolume(volume) { connection in
            try volume.serve(connection)
        } test: { harness in
            volume.expire()
            harness.on { #expect(unsafe $0.submit(.flush, tag: 1)) }
            _ = await harness.next { if case .needsCapability = $0 { true } else { false } }
            harness.on { $0.giveUp(tag: 1) }
            #expect(await completion(harness) == ChannelCompletion(tag: 1, value: 0, status: .timedOut))
            harness.renew()
            _ = await harness.next { if case .resumed = $0 { true } else { false } }
            harness.on { #expect(unsafe $0.submit(.flush, tag: 2)) }
            #expect(await completion(harness)?.status == .ok)
        }
    }

    @Test("what waits for a capability ends with the client, before it says that it is closed")
    func whatIsHeldEndsWithTheClient() async throws {
        let volume = ResumingPeer()
        try await withVolume(volume) { connection in
            try volume.serve(connection)
        } test: { harness in
            volume.expire()
            harness.on { #expect(unsafe $0.submit(.flush, tag: 1)) }
            _ = await harness.next { if case .needsCapability = $0 { true } else { false } }
            harness.on { $0.close() }
            let end = await harness.next {
                switch $0 {
                case .completed, .closed: true
                default: false
                }
            }
            guard case .completed(let completion)? = end else {
                Issue.record("it is closed, and a request has no answer")
                return
            }
            #expect(completion == ChannelCompletion(tag: 1, value: 0, status: .ioError))
            _ = await harness.next { if case .closed = $0 { true } else { false } }
        }
    }

    @Test("a FLUSH that waits for a capability fails when what it covers is lost meanwhile")
    func aHeldFlushFailsWithWhatItCovers() async throws {
        let volume = ResumingPeer()
        let memory = TestMemory(Self.block)
        try await withVolume(volume) { connection in
            try volume.serve(
                connection,
                before: { header in
                    guard header.opcode == Opcode.renew.rawValue, connection.index == 0 else { return }
                    volume.forgetSession()
                    try connection.cut()
                })
        } test: { harness in
            write(harness, tag: 1, memory: memory)
            #expect(await completion(harness)?.status == .ok)
            volume.expire()
            harness.on { #expect(unsafe $0.submit(.flush, tag: 2)) }
            _ = await harness.next { if case .needsCapability = $0 { true } else { false } }
            harness.renew()
            #expect(await completion(harness) == ChannelCompletion(tag: 2, value: 0, status: .ioError))
            #expect(volume.flushes == 0)
        }
    }

    @Test("what waits for a capability fails when somebody else has the volume by then")
    func whatIsHeldFailsWithTheClaim() async throws {
        let volume = ResumingPeer()
        try await withVolume(volume) { connection in
            try volume.serve(connection)
        } test: { harness in
            volume.expire(renewStatus: .writerConflict)
            harness.on { #expect(unsafe $0.submit(.flush, tag: 1)) }
            _ = await harness.next { if case .needsCapability = $0 { true } else { false } }
            harness.renew()
            #expect(await completion(harness)?.status == .ioError)
            _ = await harness.next { if case .closed = $0 { true } else { false } }
        }
    }

    @Test func aGivenUpChangeKeepsOthersBackUntilItsChannelIsResumed() async throws {
        let volume = ResumingPeer()
        let memory = TestMemory(Self.block)
        let gate = Mutex(false)
        try await withVolume(volume, channels: 2) { connection in
            if connection.index >= 2, !gate.withLock({ $0 }) { try connection.cut() }
            try volume.serve(
                connection,
                before: { header in
                    guard header.opcode == Opcode.write.rawValue, header.offset == UInt64(Self.block) else {
                        return
                    }
                    try connection.cut()
                })
        } test: { harness in
            write(harness, tag: 1, memory: memory)
            _ = await harness.next { if case .interrupted = $0 { true } else { false } }
            harness.on { $0.giveUp(tag: 1) }
            #expect(await completion(harness) == ChannelCompletion(tag: 1, value: 0, status: .timedOut))
            harness.on { volume in
                // The other channel works, and takes what changes nothing.
                #expect(
                    unsafe !volume.submit(.write, count: UInt32(Self.block), buffer: memory.base, tag: 2))
                #expect(unsafe volume.submit(.flush, tag: 3))
            }
            #expect(await completion(harness)?.tag == 3)
            gate.withLock { $0 = true }
            _ = await harness.next { if case .resumed = $0 { true } else { false } }
            harness.on { #expect(unsafe $0.submit(.write, count: 512, buffer: memory.base, tag: 4)) }
            #expect(await completion(harness)?.status == .ok)
            // The PING in its place goes on a channel of its own time.
            while volume.pings == 0 { await Task.yield() }
            #expect(volume.executions[UInt64(Self.block)] == nil)
        }
    }

    @Test func reconnectingEndsAfterItsTimeAndClosingEndsItAtOnce() async throws {
        for closes in [false, true] {
            let volume = ResumingPeer()
            try await withVolume(volume) {
                if !closes { $0.reconnectSeconds = 1 }
            } serve: { connection in
                if connection.index > 0 { try connection.cut() }
                try volume.serve(
                    connection,
                    before: { header in
                        if header.opcode == Opcode.flush.rawValue { try connection.cut() }
                    })
            } test: { harness in
                harness.on { #expect(unsafe $0.submit(.flush, tag: 1)) }
                _ = await harness.next { if case .interrupted = $0 { true } else { false } }
                if closes { harness.on { $0.close() } }
                #expect(await completion(harness)?.status == .ioError)
                let end = await harness.next { if case .closed = $0 { true } else { false } }
                guard case .closed(let text)? = end else { return }
                #expect(closes ? text.contains("is closed") : text.contains("was not back after 1 s"))
            }
        }
    }
}
