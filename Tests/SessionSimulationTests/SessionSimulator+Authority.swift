import Capability
import Core
import Services

/// What a session was allowed, and what became of that.
struct Grant {
    let client: Int
    /// Which of the client's attachments it is of: what a file system above it remembers lasts as long as that.
    let attachment: Int
    /// The capabilities that it may have handles of.
    var capabilities: [Identifier] = []
    var session: Identifier?
    /// The volume's epoch and the node's, in the newest of its capabilities.
    var epoch: UInt64
    var nodeEpoch: UInt64
    /// The machine's life.
    let life: Int
    /// The earliest end of its capabilities.
    var expiry: UInt64
    /// When it got the first.
    let begunAt: UInt64
    /// It has opened the volume.
    var wasOpened = false
    /// Somebody began to take it away.
    var isEnding = false
    /// The session itself is to end.
    var isDisconnected = false
    /// Whoever did was told that this is in force.
    var isOver = false
}

/// A capability that a client has.
struct SimulatedCapability {
    var id = Identifier.zero
    var bytes: [UInt8] = []
    /// By the clock for lives, in nanoseconds.
    var issuedAt: UInt64 = 0
    var expiry: UInt64 = 0
    /// When half of its life is over, by the clock for lives, in nanoseconds.
    var halfLife: UInt64 = 0
    /// The volume's and the node's.
    var epoch: UInt64 = 0
    var nodeEpoch: UInt64 = 0
}

/// Authority: who may what, who took it away, and who was told.
extension SessionSimulator {
    /// What the writes of a client's next session are named after.
    func grant(to client: SimulatedNode, by capability: SimulatedCapability) -> Int {
        var grant = Grant(
            client: client.number, attachment: client.counts.attachments, capabilities: [capability.id],
            epoch: capability.epoch,
            nodeEpoch: capability.nodeEpoch, life: life, expiry: capability.expiry, begunAt: now)
        grant.isEnding = isTakenAway(grant)
        grants.append(grant)
        return grants.count - 1
    }

    /// Whether the catalog says that a session's authority is over.
    func isTakenAway(_ grant: Grant) -> Bool {
        grant.epoch < volume.epoch || grant.nodeEpoch < clients[grant.client].nodeEpoch
            || grant.capabilities.allSatisfy { id in revoked.contains { $0.id == id } }
    }

    /// Whether there is somebody to ask for a capability, who is not changing what one has to say.
    var issuesCapabilities: Bool { server?.calls == 0 }

    /// A capability for the volume as it is now.
    func issue(to client: SimulatedNode) -> SimulatedCapability {
        let wall = serverClock.now()
        var issued = SimulatedCapability(
            id: Identifier.random(using: identifiers), issuedAt: now,
            expiry: wall + 20 + UInt64(random.below(60)), epoch: volume.epoch,
            nodeEpoch: client.nodeEpoch)
        issued.halfLife = now + (issued.expiry - wall) * 500_000_000
        let claims = Claims(
            issuer: SessionSimulator.cluster, audience: SessionSimulator.cluster, capability: issued.id,
            subject: client.node, issuedAt: wall, notBefore: wall - 1, expiry: issued.expiry,
            holder: client.thumbprint, kind: .volume, resource: volume.id,
            rights: [.read, .write, .flush, .discard], resourceEpoch: volume.epoch,
            nodeEpoch: client.nodeEpoch)
        do throws(CapabilityError) {
            let keys = NoSignatures()
            let capability = try Capability.mint(
                claims, keyID: NoSignatures.keyID, signer: keys, keys: keys)
            issued.bytes = try capability.sealed(keys: keys).bytes
        } catch { preconditionFailure("no capability: \(error)") }
        return issued
    }

    /// A session may have handles of a capability from now on. One that is newer than what was taken away gives the
    /// session its authority back, unless the session itself was ended.
    func mayUse(_ capability: SimulatedCapability, _ grant: Int) {
        if !grants[grant].capabilities.contains(capability.id) {
            grants[grant].capabilities.append(capability.id)
        }
        grants[grant].expiry = min(grants[grant].expiry, capability.expiry)
        let isGood =
            capability.epoch == volume.epoch && !revoked.contains { $0.id == capability.id }
            && capability.nodeEpoch == clients[grants[grant].client].nodeEpoch
        guard isGood, !grants[grant].isDisconnected else { return }
        grants[grant].isOver = false
        grants[grant].epoch = capability.epoch
        grants[grant].nodeEpoch = capability.nodeEpoch
    }

    func begins(_ session: Identifier, _ grant: Int) { grants[grant].session = session }
    func opens(_ grant: Int) { grants[grant].wasOpened = true }

    /// Somebody begins to take authority away.
    func ending(_ isMeant: (Grant) -> Bool) -> [Int] {
        let meant = grants.indices.filter { !grants[$0].isOver && isMeant(grants[$0]) }
        for index in meant { grants[index].isEnding = true }
        return meant
    }

    /// It was said that nothing of these runs or will run, unless it was given authority anew meanwhile.
    func over(_ meant: [Int]) {
        for index in meant where grants[index].isDisconnected || isTakenAway(grants[index]) {
            grants[index].isOver = true
        }
    }

    /// Whether the time of a session's authority may be over, be it because a clock was set before it was taken.
    private func mayHaveExpired(_ grant: Grant) -> Bool {
        Int64(now / 1_000_000_000) + 1 >= endAtTheEarliest(grant.expiry, takenSince: grant.begunAt)
    }

    /// A client was told by a request that its capability has ended, which it has opened with at the time.
    func mustBeLate(_ client: SimulatedNode, end: Int64) {
        if Int64(now / 1_000_000_000) + 1 < end {
            fail(
                "client \(client.number) was answered EXPIRED \(end - Int64(now / 1_000_000_000)) s too early"
            )
        }
    }

    /// A client was refused for good.
    func mustBeEnding(_ index: Int, _ status: Status) {
        let grant = grants[index]
        if grant.isEnding || mayHaveExpired(grant) { return }
        fail("client \(grant.client) was refused with \(status.name) without a reason")
    }

    /// A client was told that its session, or its claim, is gone.
    func mustHaveEnded(_ index: Int) {
        let grant = grants[index]
        // Only somebody else's asking makes the time matter.
        let wasAskedFor = askedAway.contains([grant.client, grant.attachment])
        if grant.isEnding || grant.life != life || !grant.wasOpened || wasAskedFor && mayHaveExpired(grant) {
            return
        }
        fail("the session of client \(grant.client) is gone without a reason")
    }

    /// What is wrong about an error; nil if there is a reason for it.
    func scandal(_ status: Status, _ request: SimulatedRequest, _ index: Int) -> String? {
        let grant = grants[index]
        switch status {
        case .timedOut, .ioError: return nil
        case .mediumError: return scenario.requestsFail ? nil : "no request fails in this run"
        case .fenced, .revoked, .staleEpoch: return grant.isEnding ? nil : "nobody took anything away"
        case .expired: return "requests wait for another capability"
        case .outcomeUnknown:
            let mayNotRepeat = scenario.isShared || request.opcode == .compareAndWrite
            return mayNotRepeat && serverLife > 0 ? nil : "it could be repeated"
        case .miscompare: return request.opcode == .compareAndWrite ? nil : "nothing was compared"
        default: return "that is none of its business"
        }
    }
}
