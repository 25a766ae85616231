import Core
import Wire

/// Requests of one resource that its device has failed, as administrators hear of them.
struct FailureSeries {
    /// Those that nobody was told of.
    var count: UInt64 = 0
    /// When somebody was told last, in the reactor's nanoseconds.
    var toldAt: UInt64
}

/// What fails in a device is an event: at once, and then at most once a minute for each resource.
extension ServiceShard {
    /// Notes that the request in `slot` was answered with a status that is the device's fault.
    func noteFailure(_ channel: ServiceChannel, _ slot: UInt16, _ status: Status) {
        let request = channel.slots[slot]
        guard let opcode = Opcode(rawValue: request.opcode), !opcode.kind.isControl, status != .noSpace else {
            return
        }
        let id = channel.handles[request.handle].resource
        let isKnown = failures[id] != nil
        guard isKnown || failures.count < Limits.failureSeriesMax else { return }
        var series = failures[id] ?? FailureSeries(toldAt: reactor.now)
        series.count += 1
        let isDue = !isKnown || reactor.now - series.toldAt >= Limits.failurePauseNanoseconds
        if isDue {
            tell(series.count, of: id, channel, opcode, status)
            series = FailureSeries(toldAt: reactor.now)
        }
        failures[id] = series
    }

    private func tell(
        _ count: UInt64, of id: Identifier, _ channel: ServiceChannel, _ opcode: Opcode, _ status: Status
    ) {
        let (resource, node) = services.state.withLock { state in
            (state.directory.resources[id], channel.session.flatMap { state.directory.nodeName(of: $0) })
        }
        guard let kind = resource?.kind ?? opcode.kind.resource, let event = kind.errorsEvent else { return }
        let what =
            "\(opcode.name) of \(node.map { "node \($0)" } ?? "a node") was answered \(status.name)"
        let more = count > 1 ? ", \(count) requests on this reactor in the last minutes" : ""
        services.configuration.events.append(
            event, subject: "\(kind.name)/\(resource?.name ?? id.hex)", message: what + more)
    }
}
