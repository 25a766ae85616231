import Core
import Reactor
import Wire

@testable import SluiceClient

/// A client of a volume as it is, but for its network: it tells its node what it hears.
final class SimulatedVolume: SessionClient<SimulatedTransport> {
    private unowned let node: SimulatedNode

    init(node: SimulatedNode, transport: SimulatedTransport, options: SessionOptions) {
        self.node = node
        super.init(
            reactor: node.reactor, transport: transport,
            rules: RulesUnderTest(rules: VolumeRules(), world: World(node.world)), options: options)
    }

    override func completed(_ completions: Span<ChannelCompletion>) {
        for index in completions.indices { node.end(completions[index]) }
        node.maySubmit()
    }

    override func heard(_ event: ChannelEvent) { node.heard(event) }
    override func interrupted(by reason: ChannelError) { node.interrupted(by: reason) }
    override func doubted(_ what: String) {
        node.world.fail("client \(node.number) does not believe: \(what)")
    }
    override func resumed(afterNanoseconds pause: UInt64, repeated: Int) {
        node.counts.repeated += repeated
        node.isBack()
        node.mayHaveEnough()
    }
    override func hasRoom() {
        node.mayHaveEnough()
        node.maySubmit()
    }
    override func needsCapability() { node.needsCapability() }
    override func closed(_ error: ChannelError) { node.closed(error) }
}

// SAFETY: everything runs on the simulation's only thread.
/// The world of a client, which outlives it.
struct World: @unchecked Sendable {
    unowned let value: SessionSimulator
    init(_ value: SessionSimulator) { self.value = value }
}

/// The rules of volumes, and what planted bugs make of them.
struct RulesUnderTest: ResourceRules {
    let rules: VolumeRules
    let world: World

    var kind: ResourceKind { rules.kind }

    func judge(_ described: ResourceState, isOpened: Bool, known: ResourceState?) -> ResourceVerdict {
        var known = known
        if let before = known, described.epoch < before.epoch {
            world.value.fail("the volume's epoch went back")
        }
        if world.value.bug == .clientIgnoresWriters { known?.writerGeneration = described.writerGeneration }
        let verdict = rules.judge(described, isOpened: isOpened, known: known)
        if world.value.bug == .clientRepeatsAmongOthers, case .taken(let taken, var findings) = verdict {
            findings.isShared = false
            return .taken(taken, findings)
        }
        return verdict
    }

    func judge(_ event: ChannelEvent, known: ResourceState) -> EventVerdict {
        rules.judge(event, known: known)
    }
}

/// Bugs that are planted by changing what the client keeps, between two of its wake-ups.
extension SimulatedNode {
    func tamper(_ volume: SimulatedVolume) {
        switch world.bug {
        case .clientHidesLoss: volume.owesFlushFailure = false
        case .clientTellsOfExpiry: for member in volume.members { member.core.holdsExpired = false }
        case .resumeSkipsSlot:
            for member in volume.members where member.phase == .opening && member.core.repeatCursor == 0 {
                let core = member.core
                let first = (0..<core.depth).first { unsafe core.flights[$0].phase == .unanswered }
                core.repeatCursor = first.map { $0 + 1 } ?? 0
            }
        case .channelIsResumedTwice:
            guard counts.resumed > 0, !hasTampered else { return }
            for member in volume.members where member.phase == .open {
                hasTampered = true
                return wakeUp { volume.connect(member) }
            }
        case .backoffNeverEnds:
            for member in volume.members where member.phase == .waiting {
                if let timer = member.timer, member.backoff.tries > 2 { reactor.cancelTimer(timer) }
            }
        case .redirectForgetsPlaces:
            if let place = advice { volume.places = ServerPlaces([place]) }
        case .renewalIsForgotten:
            if let first = capabilities.first { volume.options.capability = first.bytes }
        case .renewalMissesChannel:
            for member in volume.members where member.phase == .opening {
                member.openedWith = volume.options.capability
            }
        case .wrongPlaceIsBelieved:
            if volume.places.isDoubtful(SessionSimulator.stranger) {
                volume.places = ServerPlaces(volume.options.addresses)
            }
        case .adviceIsConfirmedElsewhere:
            if let advice,
                volume.members.contains(where: { $0.phase == .opening && $0.channel?.address != advice })
            {
                volume.places.worked(advice)
            }
        case .memberIsDropped:
            guard volume.members.count > 1 else { return }
            let member = volume.members[1]
            guard member.phase == .waiting, member.core.unansweredCount > 0 else { return }
            if let timer = member.timer { reactor.cancelTimer(timer) }
            volume.members.removeLast()
        case .leftoverIsForgotten:
            if unsafe !volume.leftovers.isEmpty { unsafe volume.leftovers.removeLast() }
        case .settledTooEarly:
            for core in volume.members.map(\.core) {
                for slot in 0..<core.depth where unsafe core.flights[slot].isUnsettled { core.settle(slot) }
            }
        case .silenceIsNotHeard:
            for member in volume.members {
                if let pulse = member.channel?.pulse { reactor.cancelTimer(pulse) }
            }
        case .dialNeverEnds:
            for member in volume.members where member.phase == .connecting {
                if let deadline = member.channel?.deadline { reactor.cancelTimer(deadline) }
            }
        default: break
        }
    }
}
