import Core
import Synchronization
import TLS
import TestSupport
import Testing
import Wire

@testable import SluiceClient

@Suite(.timeLimit(.minutes(2)), .serialized, .blocking) struct DataBenchTests {
    private func configuration(
        _ identities: ScriptedPeer.Identities, _ peer: ScriptedPeer, _ workload: BenchWorkload
    ) throws -> BenchConfiguration {
        let volume = VolumeClientOptions(
            addresses: [peer.address], serverName: "localhost", tls: try identities.clientContext(),
            capability: [1])
        var configuration = BenchConfiguration(volume: volume, workload: workload)
        configuration.ioDepth = 8
        configuration.seconds = nil
        configuration.totalBytes = 4 << 20
        return configuration
    }

    @Test(arguments: BenchWorkload.allCases.filter { $0 != .mixed })
    func aRunMovesTheAmountAskedForAndMeasuresIt(_ workload: BenchWorkload) async throws {
        let identities = try ScriptedPeer.Identities()
        let volume = PeerVolume(size: 8 << 20)
        let peer = try ScriptedPeer(identities) { try volume.serve($0) }
        var configuration = try configuration(identities, peer, workload)
        configuration.channels = 3
        configuration.reactors = 2
        let result = try BenchRunner.run(configuration: configuration) { _ in }
        #expect(result.errors == 0 && result.firstError == nil)
        #expect(result.operations == 1024)
        #expect(result.bytes == 4 << 20)
        #expect((result.reads > 0) == workload.reads && (result.writes > 0) == workload.writes)
        #expect(
            (result.readLatency != nil) == workload.reads && (result.writeLatency != nil) == workload.writes)
        #expect(result.iops > 0 && result.seconds > 0 && result.cpuSeconds > 0)
        #expect(result.latency.min > 0 && result.latency.min <= result.latency.p50)
        #expect(result.latency.p50 <= result.latency.p99 && result.latency.p99 <= result.latency.max)
    }

    @Test func aTimedRunEndsAfterItsTimeAndSaysHowFarItIs() async throws {
        let identities = try ScriptedPeer.Identities()
        let volume = PeerVolume(size: 1 << 20)
        let peer = try ScriptedPeer(identities) { try volume.serve($0) }
        var configuration = try configuration(identities, peer, .randread)
        configuration.seconds = 1.5
        configuration.totalBytes = nil
        var fractions: [Double] = []
        let result = try BenchRunner.run(configuration: configuration) { fractions.append($0.fraction) }
        #expect(result.seconds >= 1.5)
        #expect(fractions.count >= 1 && fractions.allSatisfy { (0.5...1).contains($0) })
    }

    @Test(arguments: [BenchWorkload.randread, .mixed])
    func aRangeThatIsNotInTheVolumeIsSaidToBeNone(_ workload: BenchWorkload) throws {
        let identities = try ScriptedPeer.Identities()
        let volume = PeerVolume(size: 1 << 20)
        let peer = try ScriptedPeer(identities) { try volume.serve($0) }
        var configuration = try configuration(identities, peer, workload)
        configuration.range = ByteRange(offset: .max - 1, length: 1)
        let error = #expect(throws: BenchError.self) {
            try BenchRunner.run(configuration: configuration) { _ in }
        }
        #expect(
            error?.description.contains("18446744073709551614:1 is not within 0:1048576") == true,
            "\(error?.description ?? "")")
    }

    @Test(arguments: [1, 16, 200])
    func aMixedRunChecksEveryByteOfRequestsOfAllLengths(_ depth: Int) async throws {
        let identities = try ScriptedPeer.Identities()
        let volume = PeerVolume(size: 8 << 20)
        let peer = try ScriptedPeer(identities) { try volume.serve($0) }
        var configuration = try configuration(identities, peer, .mixed)
        configuration.ioDepth = depth
        configuration.blockSize = 1 << 20
        configuration.totalBytes = 8 << 20
        let right = try BenchRunner.run(configuration: configuration) { _ in }
        #expect(right.errors == 0 && right.firstError == nil && right.firstMismatch == nil)
        #expect(right.reads > 0 && right.writes > 0 && right.verifiedBlocks > 0 && right.bytes >= 8 << 20)
    }

    @Test(
        "a run whose capability ends is over, since nobody renews it",
        arguments: [BenchWorkload.randrw, .mixed])
    func aRunEndsWithItsCapability(_ workload: BenchWorkload) async throws {
        let identities = try ScriptedPeer.Identities()
        let volume = ResumingPeer()
        let count = Atomic<Int>(0)
        let peer = try ScriptedPeer(identities) { connection in
            try volume.serve(
                connection,
                after: { _ in
                    if count.add(1, ordering: .relaxed).newValue == 100 { volume.expire() }
                })
        }
        var configuration = try configuration(identities, peer, workload)
        configuration.seconds = 60
        configuration.totalBytes = nil
        let error = #expect(throws: BenchError.self) {
            try BenchRunner.run(configuration: configuration) { _ in }
        }
        guard case .channel(.expired)? = error else {
            Issue.record("it ended with \(String(describing: error))")
            return
        }
    }

    @Test func whatIsVerifiedIsRight() async throws {
        let identities = try ScriptedPeer.Identities()
        let volume = PeerVolume(size: 1 << 20)
        let peer = try ScriptedPeer(identities) { try volume.serve($0) }
        var configuration = try configuration(identities, peer, .randrw)
        configuration.verify = true
        configuration.channels = 2
        configuration.reactors = 2
        let mixed = try BenchRunner.run(configuration: configuration) { _ in }
        #expect(mixed.errors == 0 && mixed.verifyErrors == 0 && mixed.verifiedBlocks > 256)

        // All of it, and then once more by a run that only reads.
        configuration.workload = .write
        configuration.totalBytes = 2 << 20
        let written = try BenchRunner.run(configuration: configuration) { _ in }
        #expect(written.verifyErrors == 0 && written.verifiedBlocks == 256)
        configuration.workload = .read
        configuration.totalBytes = 1 << 20
        let read = try BenchRunner.run(configuration: configuration) { _ in }
        #expect(read.verifyErrors == 0 && read.verifiedBlocks == 256)

        volume.spoil(at: 123_456)
        let spoilt = try BenchRunner.run(configuration: configuration) { _ in }
        #expect(spoilt.verifyErrors == 1)
        #expect(spoilt.firstMismatch?.contains("block at \(123_456 / 4096 * 4096)") == true)
    }

    @Test func aRunAsksForTheRightsThatItNeedsAndNoMore() async throws {
        let identities = try ScriptedPeer.Identities()
        let asked = Mutex<[Rights]>([])
        let peer = try ScriptedPeer(identities) { connection in
            try connection.greet()
            let (header, body) = try connection.nextRequest()
            let rights = try OpenRequest(bytes: body).rights
            asked.withLock { $0.append(rights) }
            try connection.reply(header, .denied)
            try connection.waitForEnd()
        }
        for (workload, verify) in [
            (BenchWorkload.read, true), (.randwrite, false), (.randwrite, true), (.randrw, false),
        ] {
            var configuration = try configuration(identities, peer, workload)
            configuration.verify = verify
            #expect(throws: BenchError.self) { try BenchRunner.run(configuration: configuration) { _ in } }
        }
        #expect(asked.withLock { $0 } == [.read, .write, [.read, .write], [.read, .write]])
    }

    @Test func aServerThatRefusesEndsTheRunWithItsReason() async throws {
        let identities = try ScriptedPeer.Identities()
        let peer = try ScriptedPeer(identities) { connection in
            try connection.greet()
            try connection.answerOpen()
            while true {
                let (header, _) = try connection.nextRequest()
                try connection.reply(header, .revoked, payload: Array("by admin".utf8))
            }
        }
        var configuration = try configuration(identities, peer, .read)
        configuration.seconds = 60
        let result = try BenchRunner.run(configuration: configuration) { _ in }
        #expect(result.operations == 0 && result.errors >= 1)
        #expect(result.firstError == "REVOKED: by admin")
    }

    @Test func whatCannotBeIsRefusedBeforeAnythingRuns() async throws {
        let identities = try ScriptedPeer.Identities()
        let peer = try ScriptedPeer(identities) { connection in
            try connection.greet()
            try connection.answerOpen()
            try connection.waitForEnd()
        }
        func fault(_ change: (inout BenchConfiguration) -> Void) throws -> String? {
            var configuration = try configuration(identities, peer, .read)
            change(&configuration)
            do throws(BenchError) {
                _ = try BenchRunner.run(configuration: configuration) { _ in }
                return nil
            } catch {
                return error.description
            }
        }
        #expect(try fault { $0.blockSize = 1000 }?.contains("multiple of 512") == true)
        #expect(try fault { $0.ioDepth = 0 }?.contains("depth") == true)
        #expect(try fault { $0.channels = 65 }?.contains("channels") == true)
        #expect(try fault { $0.totalBytes = nil }?.contains("time or an amount") == true)
        #expect(
            try fault { $0.range = ByteRange(offset: 0, length: 8192) }?.contains("too few blocks") == true)
    }
}

@Suite struct DataBenchPlanTests {
    @Test func aSequentialPlanTakesBlocksInOrderAndStartsOver() {
        var plan = BenchPlan(blocks: 3, workload: .read, readPercent: 0, verify: false, seed: 1)
        #expect((0..<5).map { _ in plan.next()?.block } == [0, 1, 2, 0, 1])
    }

    @Test func aRandomPlanReachesEveryBlockInTheConfiguredMix() {
        var plan = BenchPlan(blocks: 100, workload: .randrw, readPercent: 70, verify: false, seed: 1)
        let steps = (0..<10_000).compactMap { _ in plan.next() }
        #expect(Set(steps.map(\.block)).count == 100)
        #expect((6700...7300).contains(steps.count { !$0.isWrite }))
    }

    @Test func aVerifiedPlanNeverHasTwoRequestsOnABlockAndKnowsWhatEachHolds() {
        var plan = BenchPlan(blocks: 9, workload: .randrw, readPercent: 50, verify: true, seed: 3)
        var random = BenchPattern.Random(5)
        var flying: [BenchPlan.Step] = []
        var held = [Int: UInt32]()
        for _ in 0..<5000 {
            if flying.count == 8 || (!flying.isEmpty && random.next(below: 2) == 0) {
                let step = flying.remove(at: Int(random.next(below: UInt64(flying.count))))
                let isSuccess = random.next(below: 10) != 0
                plan.ended(step, succeeded: isSuccess)
                if step.isWrite { held[step.block] = isSuccess ? step.generation : 0 }
            } else if let step = plan.next() {
                #expect(!flying.contains { $0.block == step.block })
                #expect(step.isWrite || step.generation == held[step.block, default: 0])
                flying.append(step)
            }
        }
    }

    @Test func aBlockIsRightOnlyInItsPlaceAndGeneration() {
        let pattern = BenchPattern(seed: 7)
        let memory = TestMemory(4096)
        let block = unsafe UnsafeMutableRawBufferPointer(start: memory.base, count: 4096)
        unsafe pattern.fill(block, offset: 8192, generation: 3)
        #expect(unsafe pattern.mismatch(block, offset: 8192, generation: 3) == nil)
        #expect(unsafe pattern.mismatch(block, offset: 8192, generation: nil) == nil)
        #expect(
            unsafe pattern.mismatch(block, offset: 4096, generation: nil)?.contains("holds the one of 8192")
                == true)
        #expect(
            unsafe pattern.mismatch(block, offset: 8192, generation: 4)?.contains("holds write 3 and not 4")
                == true)
        #expect(
            unsafe BenchPattern(seed: 8).mismatch(block, offset: 8192, generation: 3)?.contains("no stamp")
                == true)
        for position in [24, 2048, 4095] {
            unsafe block[position] ^= 1
            #expect(unsafe pattern.mismatch(block, offset: 8192, generation: 3) != nil)
            unsafe block[position] ^= 1
        }
    }
}
