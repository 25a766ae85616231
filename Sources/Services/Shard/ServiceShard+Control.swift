import Capability
import Core
import DriverKit
import Logging
import Reactor
import Wire

/// The control requests but for HELLO: OPEN, STAT, RENEW, CLOSE, PING.
extension ServiceShard {
    /// Executes a request whose payload is a structure and complete, after `Intake.body`.
    public func control(_ channel: ServiceChannel, _ request: ResourceRequest, _ body: RequestBody) {
        switch body {
        case .open(let body): open(channel, request, body)
        case .renew(let body): renew(channel, request, body)
        case .invalid(let error): refuse(channel, request, error)
        case .nothing:
            switch request.operation {
            case .stat: stat(channel, request)
            case .close: close(channel, request)
            case .ping: answerControl(channel, request, .ok)
            default: answerControl(channel, request, .unknownOpcode)
            }
        case .structure(let bytes): structureArrived(channel, request.slot, bytes)
        case .hello: answerControl(channel, request, .unknownOpcode)
        }
    }

    /// Answers a request whose structure cannot be read.
    private func refuse(_ channel: ServiceChannel, _ request: ResourceRequest, _ error: StatusError) {
        switch request.operation {
        case .open: refuse("open refused", channel, request, error)
        case .renew:
            guard renewable(channel, request) != nil else { return }
            refuse("renew refused", channel, request, error)
        default: answerControl(channel, request, error.status)
        }
    }

    /// Answers a control request; one with a payload gives its slot up at once.
    func answerControl(
        _ channel: ServiceChannel, _ request: ResourceRequest, _ status: Status, value: UInt64 = 0,
        _ body: AnswerBody = .nothing
    ) {
        if case .nothing = body { return answer(channel, request.slot, status, value: value) }
        channel.slots.abandon(request.slot)
        if status != .ok { statistics.refusals[status, default: 0] += 1 }
        channel.push(RequestAnswer(to: request, status, value: value), body)
    }

    private func refuse(
        _ what: Logger.Message, _ channel: ServiceChannel, _ request: ResourceRequest, _ refusal: StatusError
    ) {
        logRefusal(what, channel, refusal)
        answerControl(channel, request, refusal.status, .text(refusal.message))
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

    private func open(_ channel: ServiceChannel, _ request: ResourceRequest, _ body: OpenRequest) {
        guard let session = channel.session else {
            return answerControl(channel, request, .protocolViolation)
        }
        let admission: Admission
        do throws(StatusError) {
            let now = services.now
            let capability = try verified(body.capability, holder: channel.thumbprint, now: now)
            guard capability.kind == body.kind else {
                throw StatusError(.denied, "the capability is for a \(capability.kind.name)")
            }
            admission = try services.admit(
                capability, wanted: body.rights, session: session, channel: channel.sessionChannel,
                takesOver: body.takesOver, now: now
            ).get()
        } catch {
            if error.status == .writerConflict {
                services.doubt(thumbprint: channel.thumbprint, except: session)
            }
            return refuse("open refused", channel, request, error)
        }
        if admission.form.isOpen, !admission.needsSaving {
            return finishOpen(channel, request, admission, admission.form)
        }
        channel.slots[request.slot].state = .deciding
        let place = Confined((shard: self, channel: channel))
        let remote = reactor.remote
        services.prepare(admission, session: session) { result in
            remote.post {
                let (shard, channel) = place.value
                shard.opened(channel, request, admission, result)
            }
        }
    }

    /// Goes on with an OPEN that waited for the driver.
    private func opened(
        _ channel: ServiceChannel, _ request: ResourceRequest, _ admission: Admission,
        _ result: Result<ResourceForm, StatusError>
    ) {
        switch result {
        case .success(let form) where !channel.isDetached:
            if let refusal = services.standing(admission.capability) {
                giveUp(channel, admission)
                refuse("open refused", channel, request, refusal)
            } else {
                finishOpen(channel, request, admission, form)
            }
        case .failure(let error) where !channel.isDetached:
            giveUp(channel, admission)
            refuse("open failed", channel, request, error)
        default:
            giveUp(channel, admission)
            channel.slots.abandon(request.slot)
            finishIfEnded(channel)
        }
    }

    private func giveUp(_ channel: ServiceChannel, _ admission: Admission) {
        guard admission.holdsClaim, let session = channel.session else { return }
        services.endClaim(
            of: admission.resource, session: session, channel: channel.sessionChannel, .undone)
    }

    private func finishOpen(
        _ channel: ServiceChannel, _ request: ResourceRequest, _ admission: Admission, _ form: ResourceForm
    ) {
        let number = Int(admission.pool.number)
        guard number < ports.count, let port = ports[number],
            let opened = OpenResource(form, payloadBytesMax: channel.payloadBytesMax)
        else {
            giveUp(channel, admission)
            return refuse(
                "open failed", channel, request,
                StatusError(.driverFailed, "the pool does not run on this reactor"))
        }
        port.queue?.indexChanged(admission.index)
        markersChanged(of: admission.resource, index: admission.index, port: port.number)
        joinFlow(channel, of: admission.capability.subject)
        var handle = Handle()
        handle.authority.denial = .ok
        handle.authority.rights = admission.rights
        handle.authority.take(admission.capability, admission.terms, now: lifeNow)
        handle.opened = opened
        handle.resource = admission.resource
        handle.index = admission.index
        handle.port = admission.pool.number
        handle.accessMode = admission.accessMode
        handle.claim = admission.holdsClaim ? .held : .none
        handle.writerGeneration = admission.writerGeneration
        guard let (id, position) = channel.handles.insert(handle) else {
            giveUp(channel, admission)
            let most = Limits.handlesPerChannelMax
            return refuse(
                "open refused", channel, request,
                StatusError(.tooManyHandles, "a channel has at most \(most) handles"))
        }
        sight.opened(
            channel, position, form.kind, admission.resource, name: admission.name, port.number,
            admission.index)
        if admission.holdsClaim, let session = channel.session {
            services.opened(admission.resource, session: session, channel: channel.sessionChannel)
        }
        limit(channel, position, by: admission.capability)
        limitByResource(channel, position)
        armSweep()
        accessLog.info(
            "open",
            [
                "session": "\(channel.session ?? .zero)", "peer": "\(channel.peerAddress)",
                "by": "node:\(admission.nodeName)", "\(form.kind.name)": "\(admission.name)",
                "capability": "\(admission.capability.id)",
                "rights": "\(admission.rights.names.joined(separator: ","))",
            ])
        answerControl(channel, request, .ok, value: UInt64(id), .state(channel.handles[position].state))
        if port.absence != .none { channel.push(port.absence.event(handle: id)) }
    }

    // MARK: On a handle

    private func stat(_ channel: ServiceChannel, _ request: ResourceRequest) {
        guard let position = channel.handles.find(request.handle) else {
            return answerControl(channel, request, .badHandle)
        }
        let handle = channel.handles[position]
        let status = handle.authority.check(needed: [], now: lifeNow)
        answerControl(channel, request, status, status == .ok ? .state(handle.state) : .nothing)
    }

    /// The handle that a RENEW is for; nil when it names none that can be renewed, which is answered then.
    private func renewable(_ channel: ServiceChannel, _ request: ResourceRequest) -> UInt8? {
        guard let position = channel.handles.find(request.handle) else {
            answerControl(channel, request, .badHandle)
            return nil
        }
        let denial = channel.handles[position].authority.denial
        if denial == .ok || denial == .expired { return position }
        answerControl(channel, request, denial)
        return nil
    }

    private func renew(_ channel: ServiceChannel, _ request: ResourceRequest, _ body: RenewRequest) {
        guard let session = channel.session else { return answerControl(channel, request, .badHandle) }
        guard let position = renewable(channel, request) else { return }
        let handle = channel.handles[position]
        do throws(StatusError) {
            let now = services.now
            let capability = try verified(body.capability, holder: channel.thumbprint, now: now)
            let terms = CapabilityTerms(capability, now: now)
            guard capability.resource == handle.resource, capability.kind == handle.opened.kind else {
                throw StatusError(.denied, "the capability is for another resource")
            }
            guard capability.rights.isSuperset(of: handle.authority.rights) else {
                throw StatusError(.denied, "the capability lacks a right that the handle has")
            }
            if let refusal = services.standing(capability) { throw refusal }
            if handle.authority.mayChange {
                let renewal = try services.renewClaim(
                    of: handle.resource, session: session, channel: channel.sessionChannel, by: terms,
                    claims: !handle.holdsClaim
                ).get()
                channel.handles[position].claim = .held
                if renewal.needsSaving {
                    return renewWhenSaved(channel, request, body, session, handle.resource, renewal)
                }
                channel.handles[position].writerGeneration = renewal.writerGeneration
            } else {
                channel.handles[position].writerGeneration = services.writerGeneration(of: handle.resource)
            }
            channel.handles[position].authority.denial = .ok
            channel.handles[position].authority.take(capability, terms, now: now.life)
            limit(channel, position, by: capability)
        } catch {
            return refuse("renew refused", channel, request, error)
        }
        armSweep()
        runDelayed()
        answerControl(channel, request, .ok, .state(channel.handles[position].state))
    }

    /// Renews once more when the claim that the first attempt took is saved: it may have been lost again meanwhile.
    private func renewWhenSaved(
        _ channel: ServiceChannel, _ request: ResourceRequest, _ body: RenewRequest, _ session: Identifier,
        _ resource: Identifier, _ renewal: IOServices.Renewal
    ) {
        channel.slots[request.slot].state = .deciding
        let place = Confined((shard: self, channel: channel))
        let remote = reactor.remote
        services.afterSaving(claimOf: session, on: resource, generation: renewal.writerGeneration) { error in
            remote.post {
                let (shard, channel) = place.value
                shard.renewed(channel, request, body, error)
            }
        }
    }

    private func renewed(
        _ channel: ServiceChannel, _ request: ResourceRequest, _ body: RenewRequest, _ error: StatusError?
    ) {
        guard !channel.isDetached else {
            channel.slots.abandon(request.slot)
            return finishIfEnded(channel)
        }
        guard let error else { return renew(channel, request, body) }
        if let position = channel.handles.find(request.handle),
            channel.handles[position].authority.denial == .expired
        {
            releaseClaim(channel, position)
        }
        refuse("renew failed", channel, request, error)
    }

    private func close(_ channel: ServiceChannel, _ request: ResourceRequest) {
        guard let position = channel.handles.find(request.handle) else {
            return answerControl(channel, request, .badHandle)
        }
        channel.slots[request.slot].state = .deciding
        channel.handles[position].isClosing = true
        channel.handles[position].closeRequest = request.slot
        settle(channel, position)
    }

    // MARK: Capabilities

    /// The authority that a capability gives to `holder` now.
    private func verified(
        _ bytes: [UInt8], holder: Digest32, now: Moment
    ) throws(StatusError) -> EffectiveCapability {
        signaturesChecked &+= 1
        do throws(CapabilityError) {
            let capability = try Capability(bytes: bytes)
            return try services.verifier.verify(
                capability, now: now.wall, clockSkewSeconds: Limits.clockSkewSeconds, holder: holder)
        } catch { throw StatusError(error.status, error.description) }
    }
}
