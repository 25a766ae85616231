import Core
import Reactor
import Services
import Simulation

/// What goes wrong.
enum Trouble: String, CaseIterable {
    case connectionLostByClient, connectionLostByServer, connectionStalls, networkParts
    case serverKilled, powerLost, clientKilled, givenUp
    case fence, revoke, disconnect, endSession, nodeEnrolledAnew
    case timePasses, clockJumps, nodeIsAway, longOutage
    case connectionGoesSilent, serverMoves, clientsAreSentElsewhere, clientsAreSentAstray
}

extension SessionSimulator {
    func makeTrouble(_ client: SimulatedNode) {
        let trouble = pick()
        troubles[trouble, default: 0] += 1
        switch trouble {
        case .connectionLostByClient: client.loseConnection()
        case .connectionLostByServer:
            guard !connections.isEmpty else { return }
            connections[random.below(connections.count)].breakServer()
        case .connectionStalls:
            guard !connections.isEmpty else { return }
            let connection = connections[random.below(connections.count)]
            if !connection.isSilent { connection.frozenUntil = now + UInt64(random.below(20_000_000)) }
        case .connectionGoesSilent:
            guard !connections.isEmpty else { return }
            connections[random.below(connections.count)].frozenUntil = .max
        case .networkParts:
            note("network parts", client.number)
            client.cutOffUntil = now + UInt64(random.below(20_000_000))
            for connection in connections where connection.client == client.number && !connection.isSilent {
                connection.frozenUntil = client.cutOffUntil
            }
        case .serverKilled: killServer(losesPower: false)
        case .serverMoves:
            killServer(losesPower: false)
            places = [otherPlace]
            note("the server moves", Int(places[0].port))
        case .clientsAreSentElsewhere: drain(to: otherPlace)
        case .clientsAreSentAstray: drain(to: SessionSimulator.stranger)
        case .longOutage:
            // For longer than any capability lasts.
            killServer(losesPower: false)
            note("the server is away for long")
            now += 100_000_000_000
            serverStart = now
        case .powerLost: if random.once(in: 2) { killServer(losesPower: true) }
        case .clientKilled: client.kill()
        case .givenUp: (clients.first { $0.phase == .attached && $0.openRequests > 0 } ?? client).giveUp()
        case .fence, .revoke, .disconnect, .endSession, .nodeEnrolledAnew: administrate(trouble, client)
        case .timePasses:
            note("time passes")
            now += UInt64(random.below(8)) * 1_000_000_000
        case .nodeIsAway:
            // For longer than a capability lasts, so that the other may write meanwhile.
            let absent = clients.first { $0.phase == .attached } ?? client
            note("is away", absent.number)
            now += 100_000_000_000
            absent.cutOffUntil = now + UInt64(random.below(20_000_000))
            for connection in connections where connection.client == absent.number && !connection.isSilent {
                connection.frozenUntil = absent.cutOffUntil
            }
            clients[1 - absent.number].visit()
        case .clockJumps:
            note("clock jumps")
            setClock(by: (Int64(random.below(21)) - 10) * (random.once(in: 4) ? 10 : 1))
        }
    }

    private func pick() -> Trouble {
        switch random.below(48) {
        case 0..<10: .connectionLostByClient
        case 10..<16: .connectionLostByServer
        case 16..<20: .connectionStalls
        case 20..<23: .networkParts
        case 23..<26: random.once(in: 4) ? .longOutage : .serverKilled
        case 26: .powerLost
        case 27: .clientKilled
        case 28..<31: .givenUp
        case 31..<33: .fence
        case 33: .revoke
        case 34: random.once(in: 2) ? .disconnect : .endSession
        case 35: .nodeEnrolledAnew
        case 36: .timePasses
        case 37..<39: .nodeIsAway
        case 39..<42: .connectionGoesSilent
        case 42..<44: .serverMoves
        case 44..<46: .clientsAreSentElsewhere
        case 46: .clientsAreSentAstray
        default: .clockJumps
        }
    }

    private var otherPlace: SocketAddress {
        SessionSimulator.addresses.first { $0 != places.last } ?? SessionSimulator.addresses[0]
    }

    /// The server is to be left for another of its addresses, where it is reached at once; or for one where somebody
    /// else is, as an administrator has it by mistake.
    private func drain(to place: SocketAddress) {
        guard let server, server.calls == 0, drainEnd == nil else { return }
        let seconds = UInt64(1 + random.below(4))
        note("the server is drained", 0, Int(place.port))
        if place != SessionSimulator.stranger {
            places.append(place)
            placesAfterDrain = random.once(in: 2) ? [place] : places
        } else {
            placesAfterDrain = places
        }
        drainEnd = now + (seconds + UInt64(random.below(2))) * 1_000_000_000
        server.perform(
            .drain(Drain(deadline: serverClock.now() + seconds, target: "\(place)"))
        ) { _ in }
    }

    /// The administrator calls the drain off, or the new place is the only one from now on.
    func endDrain() {
        drainEnd = nil
        places = placesAfterDrain
        note("the drain is over", 0, Int(places[0].port))
        server?.perform(.drain(nil)) { _ in }
    }

    private func killServer(losesPower: Bool) {
        guard let server else { return }
        if drainEnd != nil {
            drainEnd = nil
            places = placesAfterDrain
        }
        note(losesPower ? "power is lost" : "server is killed")
        store.lose(random.below(store.waiting + 1))
        server.kill()
        if bug == .startDoesNotWaitForDisk, !losesPower { zombies.append(server.driver) }
        connections.removeAll { $0.isGone }
        self.server = nil
        serverLife += 1
        serverStart = now + UInt64(random.below(3_000_000))
        if losesPower {
            losePower()
            if bug != .sessionsOutlivePower { store.forgetSessions() }
        }
    }

    private func administrate(_ trouble: Trouble, _ client: SimulatedNode) {
        guard let server, server.calls < 2 else { return }
        switch trouble {
        case .fence:
            note("administrator fences", 0, Int(volume.epoch) + 1)
            volume.epoch += 1
            let epoch = volume.epoch
            take(.fenceVolume(volume, reason: "test"), server) { $0.epoch < epoch }
        case .revoke:
            guard client.phase != .detached, let id = grants[client.grant].capabilities.last else { return }
            note("administrator revokes", client.number)
            revoked.append((id, serverClock.now() + 200))
            take(.revokeCapability(id, expiry: serverClock.now() + 200, reason: "test"), server) {
                $0.capabilities == [id]
            }
            for index in grants.indices where grants[index].capabilities.contains(id) {
                grants[index].isEnding = true
            }
        case .disconnect:
            guard let session = client.session else { return }
            note("administrator disconnects", client.number)
            let action: ServiceAction<Void> =
                bug == .disconnectEndsSessions
                ? .endSession(session, reason: "test") : .disconnectSession(session, reason: "test")
            take(action, server) { _ in false }
        case .endSession:
            guard let session = client.session else { return }
            note("administrator ends a session", client.number)
            for index in grants.indices where grants[index].session == session {
                grants[index].isDisconnected = true
            }
            take(.endSession(session, reason: "test"), server) { $0.session == session }
        default:
            note("node is enrolled anew", client.number)
            client.nodeEpoch += 1
            let epoch = client.nodeEpoch
            let action = ServiceAction.setNode(id: client.node, name: "n\(client.number)", epoch: epoch)
            take(action, server) { $0.client == client.number && $0.nodeEpoch < epoch }
        }
    }

    /// Takes authority away, and holds the server to its word.
    private func take<Answer>(
        _ action: ServiceAction<Answer>, _ server: SimulatedServer, _ isMeant: (Grant) -> Bool
    ) {
        let meant = ending(isMeant)
        if bug == .fenceDoesNotWait { over(meant) }
        let hidden = bug == .fenceMissesReactor && server.calls == 0 ? server.hideShard() : nil
        server.perform(action) { [self] result in
            hidden?()
            guard !server.driver.isDead else { return }
            switch result {
            case .success:
                note("administrator is answered")
                over(meant)
            case .failure(let error):
                if error.status != .notFound { fail("an administrator heard \(error)") }
            }
        }
    }
}
