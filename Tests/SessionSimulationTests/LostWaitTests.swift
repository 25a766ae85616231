import Core
import Services
import TestSupport
import Testing
import Wire

@testable import Services

/// What a request, or a HELLO, can wait for.
enum Wait: String, CaseIterable, Sendable {
    case payload, body, driver, limit, comparison, turn, otherReactor, store, poolThread, renewal
    case closeBehindDriver, closeBehindLimit, closeBehindComparison, closeOfCopySource, copy
    case oldConnection, reader, room
}

/// What happens to its connection, or its authority, meanwhile.
enum Loss: String, CaseIterable, Sendable {
    case byClient, inOrder, byServer, superseded, disconnected, fenced, revoked, nodeRemoved, stopped
}

/// Every way in which a request waits for something of its own channel, of its session, or of another thread, against the
/// loss of its connection, or its authority, at that moment.
@Suite("Whatever a request waits for, nothing is left of it when its connection is lost", .background)
struct LostWaitTests {
    @Test(arguments: Wait.allCases) func nothingIsLeft(of wait: Wait) {
        for loss in Loss.allCases {
            for isResumable in [true, false] where isResumable || LostWaitTests.needsNoResume(wait, loss) {
                let scene = WaitScene(isResumable: isResumable)
                let wrong = LostWaitTests.fault(scene, wait, loss)
                let account = "\(wait), \(loss), \(isResumable ? "with" : "without") RESUME"
                #expect(wrong == nil, "\(account): \(wrong ?? "")")
                scene.server.kill()
                #expect(scene.world.failure == nil, "\(account): \(scene.world.failure ?? "")")
            }
        }
    }

    /// Whether it can happen to a client that cannot resume.
    private static func needsNoResume(_ wait: Wait, _ loss: Loss) -> Bool {
        loss != .superseded && wait != .oldConnection && wait != .renewal
    }

    @Test(arguments: PlantedBug.ofWaits) func aPlantedBugIsFound(bug: PlantedBug) {
        for wait in Wait.allCases {
            for loss in Loss.allCases {
                let scene = WaitScene(isResumable: true, bug: bug)
                let fault = LostWaitTests.fault(scene, wait, loss)
                scene.server.kill()
                if let fault { return print("\(bug): \(wait), \(loss): \(fault)") }
            }
        }
        Issue.record("\(bug) was not found")
    }

    /// What is wrong when a request waits, its connection is lost, and everything goes on then; nil if nothing is.
    static func fault(_ scene: WaitScene, _ wait: Wait, _ loss: Loss) -> String? {
        guard let peer = begin(scene, wait) else { return "the request does not come to wait" }
        var stopped = 0
        var new: ScenePeer?
        switch loss {
        case .byClient: peer.connection.closeClient(inOrder: false)
        case .inOrder: peer.connection.closeClient(inOrder: true)
        case .byServer: peer.connection.breakServer()
        case .superseded: new = scene.connect(resuming: 0)
        case .disconnected: scene.perform(.disconnectSession(scene.session, reason: "test"))
        case .fenced:
            scene.world.volume.epoch += 1
            scene.perform(.fenceVolume(scene.world.volume, reason: "test"))
        case .revoked:
            scene.perform(
                .revokeCapability(scene.capability.id, expiry: scene.capability.expiry, reason: "test"))
        case .nodeRemoved: scene.perform(.removeNode(scene.world.clients[0].node))
        case .stopped: for shard in scene.server.shards { shard.stop { stopped += 1 } }
        }
        // What it waits for comes only after that.
        scene.settle()
        if loss == .byClient || loss == .byServer, scene.isResumable, scene.session != .zero {
            new = scene.connect(reactor: 1, resuming: 0)
        }
        scene.release()
        if scene.server.calls > 0 { return "an administrator is not answered: \(scene.server.description)" }
        if let new, new.reply(to: .hello) == nil, !new.connection.isServerClosed {
            return "HELLO is not answered: \(scene.server.description)"
        }
        for peer in scene.peers { peer.connection.closeClient(inOrder: true) }
        scene.wait()
        if loss == .stopped, stopped < 2 { return "the server does not end: \(scene.server.description)" }
        if loss == .stopped { return nil }
        return scene.server.remains.map { "the server keeps \($0)" }
    }

    // MARK: Coming to wait

    /// Has a request of the first channel wait, and returns who sent it; nil when it does not wait.
    private static func begin(_ scene: WaitScene, _ wait: Wait) -> ScenePeer? {
        let peer = scene.connect()
        if wait == .store || wait == .poolThread { return beginOpen(scene, peer, wait) }
        let handle = scene.open(peer)
        guard handle != 0 else { return nil }
        let block = UInt32(SimulatedDisk.blockBytes)
        switch wait {
        case .payload:
            peer.send(
                .write, handle: handle, count: block, payload: [1] + [UInt8](repeating: 0, count: 63),
                only: 32)
        case .body: peer.send(.renew, handle: handle, payload: [UInt8](repeating: 0, count: 64), only: 32)
        case .driver:
            scene.driverWorks = false
            peer.send(.read, handle: handle, count: block)
        case .limit, .closeBehindLimit:
            limit(scene)
            for slot in UInt16(0)..<2 { peer.send(.read, slot: slot, handle: handle, count: block) }
        case .comparison, .closeBehindComparison:
            compare(scene)
            peer.send(.read, handle: handle, count: block)
        case .turn:
            compare(scene)
            peer.send(.compareAndWrite, handle: handle, count: block, payload: pair)
        case .otherReactor:
            scene.secondReactorTurns = false
            peer.send(.compareAndWrite, handle: handle, count: block, payload: pair)
        case .renewal: return beginRenewal(scene, peer, handle)
        case .closeBehindDriver:
            scene.driverWorks = false
            peer.send(.read, handle: handle, count: block)
        case .copy, .closeOfCopySource: return beginCopy(scene, peer, handle, wait)
        case .oldConnection:
            scene.driverWorks = false
            peer.send(.read, handle: handle, count: block)
            scene.settle()
            return scene.connect(reactor: 1, resuming: 0)
        case .reader, .room: return beginRead(scene, peer, handle, wait)
        case .store, .poolThread: return nil
        }
        scene.settle()
        if wait == .closeBehindDriver || wait == .closeBehindLimit || wait == .closeBehindComparison {
            peer.send(.close, slot: 2, handle: handle)
            scene.settle()
        }
        return isWaiting(scene) ? peer : nil
    }

    /// The bytes that are expected, which are others, and those to be written.
    private static var pair: [UInt8] { [UInt8](repeating: 0xEE, count: 2 * SimulatedDisk.blockBytes) }

    private static func isWaiting(_ scene: WaitScene) -> Bool {
        scene.server.shards.contains { shard in
            shard.channels.all.contains { ($0?.slots.unanswered ?? 0) > 0 } || shard.waitingForRoom > 0
        }
    }

    /// One request a second: the first runs, others wait.
    private static func limit(_ scene: WaitScene) {
        var volume = scene.world.volume
        volume.limits = RateLimits(iops: 1, burstMilliseconds: 0)
        scene.world.volume = volume
        scene.perform(.updateVolume(volume))
        scene.settle()
    }

    /// Another channel compares the bytes, and its driver takes its time.
    private static func compare(_ scene: WaitScene) {
        let other = scene.connect(reactor: 1)
        let handle = scene.open(other)
        scene.driverWorks = false
        other.send(.compareAndWrite, handle: handle, count: UInt32(SimulatedDisk.blockBytes), payload: pair)
        scene.settle()
    }

    private static func beginOpen(_ scene: WaitScene, _ peer: ScenePeer, _ wait: Wait) -> ScenePeer? {
        if wait == .store {
            scene.storeWorks = false
        } else {
            scene.poolWorks = false
            let id = scene.world.volume.id
            scene.server.services.state.withLock { $0.directory.resources[id]?.volume?.geometry = nil }
        }
        scene.open(peer)
        return isWaiting(scene) ? peer : nil
    }

    /// A claim that another client took, when it stood as a courtesy only, is claimed anew, and written down anew.
    private static func beginRenewal(_ scene: WaitScene, _ peer: ScenePeer, _ handle: UInt32) -> ScenePeer? {
        scene.world.now += (scene.capability.expiry + 2 - scene.world.serverClock.now()) * 1_000_000_000
        for _ in 0..<3 {
            scene.world.now += 1_000_000_000
            scene.settle()
        }
        scene.visit()
        scene.capability = scene.world.issue(to: scene.world.clients[0])
        scene.storeWorks = false
        peer.send(
            .renew, handle: handle, payload: RenewRequest(capability: scene.capability.bytes).bytes)
        scene.settle()
        return isWaiting(scene) ? peer : nil
    }

    private static func beginCopy(
        _ scene: WaitScene, _ peer: ScenePeer, _ handle: UInt32, _ wait: Wait
    ) -> ScenePeer? {
        let source = scene.open(peer, rights: .read)
        scene.driverWorks = false
        let block = UInt32(SimulatedDisk.blockBytes)
        peer.send(
            .copyRange, handle: handle, offset: UInt64(2 * block), count: block,
            payload: CopySource(handle: source, offset: 0).bytes)
        scene.settle()
        if wait == .closeOfCopySource {
            peer.send(.close, slot: 2, handle: source)
            scene.settle()
        }
        return isWaiting(scene) ? peer : nil
    }

    /// Reads for somebody who does not read; of two, the second finds no room.
    private static func beginRead(
        _ scene: WaitScene, _ peer: ScenePeer, _ handle: UInt32, _ wait: Wait
    ) -> ScenePeer? {
        peer.reads = false
        for slot in UInt16(0)..<3 { peer.send(.read, slot: slot, handle: handle, count: 384) }
        scene.settle()
        if wait == .room {
            // What is left of the arena is held by what compares.
            let other = scene.connect(reactor: 0)
            let second = scene.open(other)
            scene.driverWorks = false
            for slot in UInt16(0)..<3 {
                other.send(
                    .compareAndWrite, slot: slot, handle: second, offset: UInt64(slot) * 64, count: 64,
                    payload: pair)
            }
            scene.settle()
            guard scene.server.shards[0].waitingForRoom > 0 else { return nil }
            return other
        }
        return peer
    }
}
