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
        let requests = stride(from: opening, to: size.taken, by: 5).map { ($0, false) }
        let cuts = replies + requests
        try await withThrowingTaskGroup(of: Void.self) { group in
            for (index, cut) in cuts.enumerated() {
                if index >= 8 { try await group.next() }
                group.addTask { try await self.survive(identities, cut: cut.0, isReply: cut.1) }
            }
            try await group.waitForAll()
        }
    }
}
