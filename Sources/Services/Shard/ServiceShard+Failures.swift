import Core
import Wire

/// Requests of one volume that its device has failed, as administrators hear of them.
struct FailureSeries {
    /// Those that nobody was told of.
    var count: UInt64 = 0
    /// When somebody was told last, in the reactor's nanoseconds.
    var toldAt: UInt64
}

/// What fails in a device is an event: at once, and then at most once a minute for each volume.
extension ServiceShard {
    /// Notes that the request in `slot` was answered with a status that is the device's fault.
    func noteFailure(_ channel: ServiceChannel, _ slot: UInt16, _ status: Status) {
        let request = channel.slots[slot]
        guard request.opcode >= Opcode.read.rawValue, status != .noSpace else { return }
        let volume = channel.handles[request.handle].volume
        let isKnown = failures[volume] != nil
        guard isKnown || failures.count < Limits.failureSeriesMax else { return }
        var series = failures[volume] ?? FailureSeries(toldAt: reactor.now)
        series.count += 1
        let isDue = !isKnown || reactor.now - series.toldAt >= Limits.failurePauseNanoseconds
        if isDue {
            tell(series.count, of: volume, channel, Opcode(rawValue: request.opcode), status)
            series = FailureSeries(toldAt: reactor.now)
        }
        failures[volume] = series
    }

    private func tell(
        _ count: UInt64, of volume: Identifier, _ channel: ServiceChannel, _ opcode: Opcode?, _ status: Status
    ) {
        let (name, node) = services.state.withLock { state in
            (
                state.directory.volumes[volume]?.descriptor.name ?? volume.hex,
                channel.session.flatMap { state.directory.nodeName(of: $0) }
            )
        }
        let what =
            "\(opcode?.name ?? "a request") of \(node.map { "node \($0)" } ?? "a node") was answered \(status.name)"
        let more = count > 1 ? ", \(count) requests on this reactor in the last minutes" : ""
        services.configuration.events.append(.volumeErrors, subject: "volume/\(name)", message: what + more)
    }
}
