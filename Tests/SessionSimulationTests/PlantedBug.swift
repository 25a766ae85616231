import Core
import Wire

@testable import Services

/// A bug that the simulator must find.
enum PlantedBug: String, CaseIterable, Sendable {
    /// Whoever takes authority away is answered at once.
    case fenceDoesNotWait
    /// A reactor does not hear of it.
    case fenceMissesReactor
    /// What is kept of a slot has the next sequence.
    case replyCacheOffByOne
    /// What was executed may be executed again.
    case replyCacheForgets
    /// What was dropped is answered as if it had been executed.
    case droppedIsAnswered
    /// A channel goes on while its old connection still has requests in the driver.
    case resumeDoesNotWait
    /// A flush is for the writes of its own reactor.
    case flushForgetsReactor
    /// A write that has arrived in part is executed when its connection ends.
    case halfAWriteIsExecuted
    /// Sessions are not written down.
    case storeForgets
    /// OPEN is answered before its claim is written down.
    case openDoesNotWaitForStore
    /// Sessions outlive a loss of power, as what was not flushed does not.
    case sessionsOutlivePower
    /// A server begins while the disk still has requests of the one before.
    case startDoesNotWaitForDisk
    /// What is withdrawn from a driver is answered, and goes on.
    case withdrawnGoesOn
    /// A comparison does not keep others away.
    case comparisonIsNotAlone
    /// The claim of a lost session is given to whoever asks.
    case claimEndsWithConnection
    /// The client does not say that what it wrote is lost.
    case clientHidesLoss
    /// The client changes bytes of which an older change is not answered yet.
    case clientChangesWhatItChanges
    /// The client repeats writes that others may have overwritten since.
    case clientRepeatsAmongOthers
    /// The client goes on with a volume that somebody else has written to.
    case clientIgnoresWriters
    /// The claim of a lost session ends with its capability, though nobody has asked for the volume.
    case claimEndsByTime
    /// A capability ends when the time of day says so.
    case lifeFollowsClock
    /// Who ends connections ends the session.
    case disconnectEndsSessions
    /// The application hears that the capability has ended.
    case clientTellsOfExpiry
    /// A CLOSE that waits when its connection is lost keeps its slot.
    case closeKeepsItsSlot
    /// So does an OPEN, or a RENEW: what it waited for is dropped.
    case answerToTheLostIsDropped
    /// What a comparison of somebody else's holds back is forgotten with its connection.
    case heldIsForgotten
    /// What waits for a rate limit is.
    case delayedIsForgotten
    /// A comparison is, and keeps others away.
    case comparisonIsForgotten
    /// A HELLO that waits for the end of a connection is.
    case greetingIsForgotten
    /// The client does not send again what waits in the first slot.
    case resumeSkipsSlot
    /// The client makes a second connection for a channel that has one.
    case channelIsResumedTwice
    /// The client tries a few times to connect, and then waits for ever.
    case backoffNeverEnds
    /// A client that is sent elsewhere forgets where it comes from.
    case redirectForgetsPlaces
    /// A channel that is lost opens with the capability of before the renewal.
    case renewalIsForgotten
    /// A channel that was being opened when the capability was renewed stays with the one before.
    case renewalMissesChannel
    /// What a second channel hears at a wrong place is believed, though the first has left it.
    case wrongPlaceIsBelieved
    /// A channel that has reached the old place is taken for one that has reached the new.
    case adviceIsConfirmedElsewhere
    /// What waits on the channel that is being lost does not end when the user closes the client meanwhile.
    case closeForgetsWhatWaits
    /// The client gives up a channel that still has requests.
    case memberIsDropped
    /// The client does not send what waited for another capability, or another session.
    case leftoverIsForgotten
    /// The client changes bytes though a change that was given up may still land there.
    case settledTooEarly
    /// The client does not notice that a connection is silent.
    case silenceIsNotHeard
    /// The client waits for ever for the answer of somebody who is not there.
    case dialNeverEnds

    /// Those that show only where requests wait for what clients of the simulation do not have.
    static let ofScenes: [PlantedBug] = [.delayedIsForgotten]
    /// Those of requests that wait when their connection is lost.
    static let ofWaits: [PlantedBug] = [
        .closeKeepsItsSlot, .answerToTheLostIsDropped, .heldIsForgotten, .delayedIsForgotten,
        .comparisonIsForgotten, .greetingIsForgotten,
    ]
}

extension PlantedBug {
    /// What is said when it is found, in part: whatever else fails is not found for the right reason.
    var signs: [String] {
        switch self {
        case .fenceDoesNotWait, .fenceMissesReactor, .withdrawnGoesOn: ["its authority is over"]
        case .replyCacheOffByOne: ["BAD_SEQUENCE", "was answered and never done"]
        case .replyCacheForgets: ["is executed twice"]
        case .droppedIsAnswered, .resumeDoesNotWait:
            ["was answered and never done", "another count than the request's"]
        case .flushForgetsReactor, .clientHidesLoss: ["is not durable"]
        case .halfAWriteIsExecuted: ["half a write reaches the driver", "are not its own"]
        case .storeForgets, .openDoesNotWaitForStore, .claimEndsWithConnection, .claimEndsByTime,
            .wrongPlaceIsBelieved, .adviceIsConfirmedElsewhere:
            ["is gone without a reason"]
        case .sessionsOutlivePower: ["is of before the loss of power"]
        case .startDoesNotWaitForDisk, .clientChangesWhatItChanges,
            .settledTooEarly:
            ["explains what was seen", "was overwritten long ago", "is torn"]
        case .clientRepeatsAmongOthers: ["is repeated over what another client has written"]
        case .comparisonIsNotAlone: ["replaced"]
        case .clientIgnoresWriters: ["goes on though another has had the volume"]
        case .lifeFollowsClock: ["too early", "without a reason"]
        case .disconnectEndsSessions: ["is gone without a reason", "nobody took anything away"]
        case .clientTellsOfExpiry: ["requests wait for another capability"]
        case .closeKeepsItsSlot: ["the server keeps", "an administrator is not answered"]
        case .answerToTheLostIsDropped, .delayedIsForgotten: ["the server keeps"]
        case .heldIsForgotten, .comparisonIsForgotten, .greetingIsForgotten, .resumeSkipsSlot,
            .silenceIsNotHeard:
            ["is not answered"]
        case .channelIsResumedTwice: ["another sequence than the request's", "is torn"]
        case .backoffNeverEnds, .redirectForgetsPlaces: ["is not answered", "has not all of its channels"]
        case .renewalIsForgotten: ["in whose place another one was taken"]
        case .renewalMissesChannel: ["is not renewed"]
        case .closeForgetsWhatWaits: ["requests do not"]
        case .memberIsDropped, .leftoverIsForgotten: ["requests do not", "is not answered"]
        case .dialNeverEnds: ["does not attach", "has not all of its channels", "is not answered"]
        }
    }

    /// A seed that finds it, so that a test need not search.
    var seed: UInt64 {
        switch self {
        case .storeForgets, .claimEndsWithConnection, .claimEndsByTime, .delayedIsForgotten,
            .greetingIsForgotten, .leftoverIsForgotten:
            1
        case .replyCacheOffByOne, .replyCacheForgets, .droppedIsAnswered, .flushForgetsReactor,
            .resumeSkipsSlot, .channelIsResumedTwice:
            2
        case .resumeDoesNotWait, .renewalIsForgotten: 3
        case .dialNeverEnds: 4
        case .fenceMissesReactor: 5
        case .clientTellsOfExpiry, .memberIsDropped: 9
        case .backoffNeverEnds: 10
        case .answerToTheLostIsDropped: 12
        case .comparisonIsForgotten: 15
        case .clientRepeatsAmongOthers: 20
        case .redirectForgetsPlaces, .adviceIsConfirmedElsewhere: 21
        case .disconnectEndsSessions: 22
        case .silenceIsNotHeard: 28
        case .lifeFollowsClock: 40
        case .fenceDoesNotWait: 43
        case .startDoesNotWaitForDisk: 76
        case .openDoesNotWaitForStore: 80
        case .halfAWriteIsExecuted: 85
        case .comparisonIsNotAlone: 139
        case .wrongPlaceIsBelieved: 175
        case .heldIsForgotten: 186
        case .sessionsOutlivePower: 216
        case .closeKeepsItsSlot: 328
        case .renewalMissesChannel: 527
        case .clientIgnoresWriters: 623
        case .clientHidesLoss: 932
        case .closeForgetsWhatWaits: 1132
        case .clientChangesWhatItChanges: 2312
        case .withdrawnGoesOn: 2763
        case .settledTooEarly: 2937
        }
    }
}

/// Bugs that are planted by changing what the server keeps, between two of its steps.
extension SimulatedServer {
    func tamper() {
        switch world.bug {
        case .replyCacheOffByOne, .replyCacheForgets, .droppedIsAnswered: tamperWithSlots()
        case .resumeDoesNotWait:
            for shard in shards {
                for case let channel? in shard.channels.all
                where channel.isLost && channel.slots.unanswered > 0 && channel.session != nil {
                    shard.partWithSession(channel)
                    channel.session = nil
                }
            }
        case .comparisonIsNotAlone:
            for shard in shards { shard.exclusions.removeAll { $0.waitsFor == 0 } }
        case .answerToTheLostIsDropped:
            let isLost = shards.contains { shard in
                shard.channels.all.contains { channel in
                    guard let channel, channel.isDetached else { return false }
                    return (0..<UInt16(channel.slots.count)).contains {
                        channel.slots[$0].state == .deciding
                            && channel.slots[$0].opcode != Opcode.close.rawValue
                    }
                }
            }
            if isLost {
                work.drop()
                world.store.dropCalls()
            }
        case .claimEndsWithConnection:
            services.state.withLock { state in
                for session in state.directory.sessions.sessions.values {
                    for volume in session.claims {
                        state.directory.dropKeptClaims(of: session.id, on: volume)
                    }
                }
            }
        case .claimEndsByTime:
            services.state.withLock { state in
                state.directory.endCourtesies(
                    on: world.volume.id,
                    now: Moment(wall: world.serverClock.now(), life: world.serverClock.life.now()))
            }
        case .lifeFollowsClock:
            for shard in shards {
                for case let channel? in shard.channels.all {
                    for position in channel.handles.positions(where: {
                        $0.authority.denial == .ok && $0.authority.terms.expiry <= world.serverClock.now()
                    }) { channel.handles[position].authority.terms.deadline = 0 }
                }
            }
        default: break
        }
    }

    /// Before the services hear that a connection is gone.
    func tamper(before channel: ServiceChannel, of shard: ServiceShard) {
        switch world.bug {
        case .closeKeepsItsSlot:
            for position in channel.handles.positions(where: { $0.closeRequest != nil }) {
                channel.handles[position].closeRequest = nil
            }
        case .heldIsForgotten: shard.held.removeAll { $0.channel === channel }
        case .delayedIsForgotten:
            for position in channel.handles.positions(where: { !$0.delayed.isEmpty }) {
                channel.handles[position].delayed = SlotQueue()
            }
        case .comparisonIsForgotten:
            for (id, compare) in shard.compares where compare.channel === channel { shard.compares[id] = nil }
        case .greetingIsForgotten: for shard in shards { shard.greetings.removeAll() }
        default: break
        }
    }

    private func tamperWithSlots() {
        services.state.withLock { state in
            for (id, session) in state.directory.sessions.sessions {
                for (number, channel) in session.channels {
                    guard case .lost(let kept) = channel, !tampered.contains(kept) else { continue }
                    let changed = KeptSlots(
                        entries: kept.entries.map(tampered(_:)), count: kept.count,
                        resumption: kept.resumption)
                    tampered.insert(changed)
                    state.directory.sessions[id]?.channels[number] = .lost(changed)
                }
            }
        }
    }

    private func tampered(_ entry: KeptSlots.Entry) -> KeptSlots.Entry {
        var recall = entry.recall
        var sequence = entry.sequence
        switch (world.bug, recall) {
        case (.replyCacheOffByOne, .answer): sequence += 1
        case (.replyCacheForgets, .answer): recall = .again
        case (.droppedIsAnswered, .dropped): recall = .answer
        default: break
        }
        return KeptSlots.Entry(
            index: entry.index, opcode: entry.opcode, status: entry.status, recall: recall,
            sequence: sequence, value: entry.value, detail: entry.detail)
    }
}
