import Capability
import Core
import DriverKit
import Logging
import Wire

/// The control requests but for HELLO: OPEN, STAT, RENEW, CLOSE, PING.
extension ServiceShard {
    /// Refuses a first frame that is not HELLO, or too long to be one; the channel ends with the answer.
    public func refuseGreeting(_ channel: ServiceChannel, _ header: RequestHeader, _ status: Status) {
        statistics.refusals[status, default: 0] += 1
        channel.push(
            ReplyHeader(to: header, status: status),
            payload: ErrorMessage.encode("the first request of a channel is HELLO"))
    }

    /// Executes a request whose payload is a structure and complete, after `Intake.body`.
    public func control(_ channel: ServiceChannel, _ header: RequestHeader, body: [UInt8]) {
        switch Opcode(rawValue: header.opcode) {
        case .open: open(channel, header, body)
        case .stat: stat(channel, header)
        case .renew: renew(channel, header, body)
        case .close: close(channel, header)
        case .ping: answerControl(channel, header, .ok)
        case .copyRange: copy(channel, header, body)
        case .blockStatus: blockStatus(channel, header, body)
        default: answerControl(channel, header, .unknownOpcode)
        }
    }

    /// Answers a control request; one with a payload gives its slot up at once.
    func answerControl(
        _ channel: ServiceChannel, _ header: RequestHeader, _ status: Status, value: UInt64 = 0,
        payload: [UInt8] = []
    ) {
        guard !payload.isEmpty else { return answer(channel, header.slot, status, value: value) }
        channel.slots.abandon(header.slot)
        if status != .ok { statistics.refusals[status, default: 0] += 1 }
        channel.push(ReplyHeader(to: header, status: status, value: value), payload: payload)
    }

    private func refuse(
        _ what: Logger.Message, _ channel: ServiceChannel, _ header: RequestHeader, _ refusal: StatusError
    ) {
        logRefusal(what, channel, refusal)
        answerControl(channel, header, refusal.status, payload: ErrorMessage.encode(refusal.message))
    }

    func logRefusal(_ what: Logger.Message, _ channel: ServiceChannel, _ refusal: StatusError) {
        accessLog.warning(
            what,
            [
                "session": "\(channel.session.map(\.hex) ?? "none")", "peer": "\(channel.peerAddress)",
                "key": "\(channel.thumbprint)", "status": "\(refusal.status.name)",
                "reason": "\(refusal.message)",
            ])
    }

    // MARK: OPEN

    private func open(_ channel: ServiceChannel, _ header: RequestHeader, _ body: [UInt8]) {
        guard let session = channel.session else { return answerControl(channel, header, .protocolViolation) }
        let admission: Admission
        do throws(StatusError) {
            let request = try OpenRequest(bytes: body)
            let now = services.now
            let capability = try verified(request.capability, holder: channel.thumbprint, now: now)
            guard capability.kind == request.kind else {
                throw StatusError(.denied, "the capability is for a \(capability.kind.name)")
            }
            admission = try services.admit(
                capability, wanted: request.rights, session: session, channel: channel.sessionChannel,
                takesOver: request.takesOver, now: now
            ).get()
        } catch {
            if error.status == .writerConflict {
                services.doubt(thumbprint: channel.thumbprint, except: session)
            }
            return refuse("open refused", channel, header, error)
        }
        if let geometry = admission.geometry, !admission.needsSaving {
            finishOpen(channel, header, admission, geometry)
            return
        }
        channel.slots[header.slot].state = .deciding
        let place = Confined((shard: self, channel: channel))
        let remote = reactor.remote
        services.prepare(admission, session: session) { result in
            remote.post {
                let (shard, channel) = place.value
                shard.opened(channel, header, admission, result)
            }
        }
    }

    /// Goes on with an OPEN that waited for the driver.
    private func opened(
        _ channel: ServiceChannel, _ header: RequestHeader, _ admission: Admission,
        _ result: Result<VolumeGeometry, StatusError>
    ) {
        switch result {
        case .success(let geometry) where !channel.isDetached:
            if let refusal = services.standing(admission.capability) {
                giveUp(channel, admission)
                refuse("open refused", channel, header, refusal)
            } else {
                finishOpen(channel, header, admission, geometry)
            }
        case .failure(let error) where !channel.isDetached:
            giveUp(channel, admission)
            refuse("open failed", channel, header, error)
        default:
            giveUp(channel, admission)
            channel.slots.abandon(header.slot)
            finishIfEnded(channel)
        }
    }

    private func giveUp(_ channel: ServiceChannel, _ admission: Admission) {
        guard admission.holdsClaim, let session = channel.session else { return }
        services.endClaim(
            of: admission.volume.id, session: session, channel: channel.sessionChannel, .undone)
    }

    private func finishOpen(
        _ channel: ServiceChannel, _ header: RequestHeader, _ admission: Admission,
        _ geometry: VolumeGeometry
    ) {
        let number = Int(admission.pool.number)
        guard number < ports.count, let port = ports[number] else {
            giveUp(channel, admission)
            return refuse(
                "open failed", channel, header,
                StatusError(.driverFailed, "the pool does not run on this reactor"))
        }
        port.queue?.volumeChanged(admission.index)
        markersChanged(of: admission.volume.id, index: admission.index, port: port.number)
        joinFlow(channel, of: admission.capability.subject)
        var handle = Handle()
        handle.denial = .ok
        handle.rights = admission.rights
        handle.size = geometry.size
        handle.blockSize = UInt32(geometry.blockSize)
        handle.maximumTransfer = min(UInt32(geometry.maximumTransfer), channel.payloadBytesMax)
        handle.port = admission.pool.number
        handle.volumeIndex = admission.index
        handle.volume = admission.volume.id
        handle.accessMode = admission.volume.accessMode
        handle.claim = admission.holdsClaim ? .held : .none
        handle.writerGeneration = admission.writerGeneration
        handle.take(admission.capability, deadline: admission.authority.deadline, now: lifeNow)
        guard let (id, position) = channel.handles.insert(handle) else {
            giveUp(channel, admission)
            let most = Limits.handlesPerChannelMax
            return refuse(
                "open refused", channel, header,
                StatusError(.tooManyHandles, "a channel has at most \(most) handles"))
        }
        sight.opened(
            channel, position, admission.volume.id, name: "\(admission.volume.name)", port.number,
            admission.index)
        if admission.holdsClaim, let session = channel.session {
            services.opened(admission.volume.id, session: session, channel: channel.sessionChannel)
        }
        limit(channel, position, by: admission.capability)
        limitByVolume(channel, position)
        armSweep()
        accessLog.info(
            "open",
            [
                "session": "\(channel.session ?? .zero)", "peer": "\(channel.peerAddress)",
                "by": "node:\(admission.nodeName)", "volume": "\(admission.volume.name)",
                "capability": "\(admission.capability.id)",
                "rights": "\(admission.rights.names.joined(separator: ","))",
            ])
        let state = channel.handles[position].state
        answerControl(channel, header, .ok, value: UInt64(id), payload: state.bytes)
        if port.absence != .none { channel.push(port.absence.event(handle: id)) }
    }

    // MARK: On a handle

    private func stat(_ channel: ServiceChannel, _ header: RequestHeader) {
        guard let position = channel.handles.find(header.handle) else {
            return answerControl(channel, header, .badHandle)
        }
        let handle = channel.handles[position]
        let status = handle.denial == .ok && lifeNow >= handle.deadline ? .expired : handle.denial
        answerControl(channel, header, status, payload: status == .ok ? handle.state.bytes : [])
    }

    private func renew(_ channel: ServiceChannel, _ header: RequestHeader, _ body: [UInt8]) {
        guard let position = channel.handles.find(header.handle), let session = channel.session else {
            return answerControl(channel, header, .badHandle)
        }
        let handle = channel.handles[position]
        guard handle.denial == .ok || handle.denial == .expired else {
            return answerControl(channel, header, handle.denial)
        }
        do throws(StatusError) {
            let request = try RenewRequest(bytes: body)
            let now = services.now
            let capability = try verified(request.capability, holder: channel.thumbprint, now: now)
            let authority = WriteAuthority(capability, now: now)
            guard capability.resource == handle.volume, capability.kind == .volume else {
                throw StatusError(.denied, "the capability is for another resource")
            }
            guard capability.rights.isSuperset(of: handle.rights) else {
                throw StatusError(.denied, "the capability lacks a right that the handle has")
            }
            if let refusal = services.standing(capability) { throw refusal }
            if !handle.rights.isDisjoint(with: .mutating) {
                let renewal = try services.renewClaim(
                    of: handle.volume, session: session, channel: channel.sessionChannel, by: authority,
                    claims: !handle.holdsClaim
                ).get()
                channel.handles[position].claim = .held
                if renewal.needsSaving {
                    return renewWhenSaved(channel, header, body, session, handle.volume, renewal)
                }
                channel.handles[position].writerGeneration = renewal.writerGeneration
            } else {
                channel.handles[position].writerGeneration = services.writerGeneration(of: handle.volume)
            }
            channel.handles[position].denial = .ok
            channel.handles[position].take(capability, deadline: authority.deadline, now: now.life)
            limit(channel, position, by: capability)
        } catch {
            return refuse("renew refused", channel, header, error)
        }
        armSweep()
        runDelayed()
        answerControl(channel, header, .ok, payload: channel.handles[position].state.bytes)
    }

    /// Renews once more when the claim that the first time has taken is saved: meanwhile it may have been lost again.
    private func renewWhenSaved(
        _ channel: ServiceChannel, _ header: RequestHeader, _ body: [UInt8], _ session: Identifier,
        _ volume: Identifier, _ renewal: IOServices.Renewal
    ) {
        channel.slots[header.slot].state = .deciding
        let place = Confined((shard: self, channel: channel))
        let remote = reactor.remote
        services.afterSaving(claimOf: session, on: volume, generation: renewal.writerGeneration) { error in
            remote.post {
                let (shard, channel) = place.value
                shard.renewed(channel, header, body, error)
            }
        }
    }

    private func renewed(
        _ channel: ServiceChannel, _ header: RequestHeader, _ body: [UInt8], _ error: StatusError?
    ) {
        guard !channel.isDetached else {
            channel.slots.abandon(header.slot)
            return finishIfEnded(channel)
        }
        guard let error else { return renew(channel, header, body) }
        if let position = channel.handles.find(header.handle),
            channel.handles[position].denial == .expired
        {
            releaseClaim(channel, position)
        }
        refuse("renew failed", channel, header, error)
    }

    private func close(_ channel: ServiceChannel, _ header: RequestHeader) {
        guard let position = channel.handles.find(header.handle) else {
            return answerControl(channel, header, .badHandle)
        }
        channel.slots[header.slot].state = .deciding
        channel.handles[position].isClosing = true
        channel.handles[position].closeRequest = header
        settle(channel, position)
    }

    // MARK: Parsing

    /// The authority that a capability gives to `holder` now.
    private func verified(
        _ bytes: [UInt8], holder: Digest32, now: Moment
    ) throws(StatusError) -> EffectiveCapability {
        do throws(CapabilityError) {
            let capability = try Capability(bytes: bytes)
            return try services.verifier.verify(
                capability, now: now.wall, clockSkewSeconds: Limits.clockSkewSeconds, holder: holder)
        } catch { throw StatusError(error.status, error.description) }
    }
}

extension Handle {
    /// Takes over what a capability says of time, place and rate; `deadline` and `now` in nanoseconds of the clock for
    /// lives. A quarter of a short life is notice enough, so that who renews then does not do so all the time.
    mutating func take(_ effective: EffectiveCapability, deadline: UInt64, now: UInt64) {
        self.deadline = deadline
        let life = deadline - min(now, deadline)
        noticeDue = deadline - min(Limits.expiryNoticeSeconds * 1_000_000_000, life / 4)
        capability = effective.id
        subject = effective.subject
        resourceEpoch = effective.resourceEpoch
        nodeEpoch = effective.nodeEpoch
        rangeStart = effective.range?.offset ?? 0
        rangeEnd = effective.range?.end ?? .max
        expiry = effective.expiry
        expiryAnnounced = false
        limits = effective.limits
    }

    /// The handle as OPEN, STAT and RENEW describe it.
    var state: ResourceState {
        guard let range = ByteRange(offset: rangeStart, length: rangeEnd - rangeStart) else {
            preconditionFailure("start and end come from one range")
        }
        return ResourceState(
            size: size, blockSize: blockSize, transferBytesMax: maximumTransfer, rights: rights,
            kind: .volume,
            accessMode: accessMode, range: range, expiry: expiry, resource: volume,
            capability: capability, epoch: resourceEpoch, limits: limits,
            writerGeneration: writerGeneration)
    }
}

/// A value of one reactor on its way through closures that only that reactor runs.
struct Confined<Value>: @unchecked Sendable {
    // SAFETY: it is made on the reactor's thread and read only by work posted to the same reactor.
    let value: Value

    init(_ value: Value) {
        self.value = value
    }
}
