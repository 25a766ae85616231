import Core
import DriverKit

/// What a shard contributes to the description of a session.
struct SessionPart: Sendable {
    var channels = 0
    var handles: [(resource: Identifier, rights: Rights, capability: Identifier)] = []
    var requests: UInt64 = 0
    var bytesRead: UInt64 = 0
    var bytesWritten: UInt64 = 0
    var inFlight = 0
}

extension ServiceShard {
    /// Starts serving a pool on this reactor; repeating it is harmless.
    func addPort(_ pool: Pool) throws(StatusError) {
        let number = Int(pool.number)
        while ports.count <= number { ports.append(nil) }
        guard ports[number] == nil else { return }
        do throws(StatusError) {
            let port = try DriverPort(
                pool: pool, shard: self, reactor: reactor, arenaBytes: services.configuration.arenaBytes)
            if flows.used > 0 { port.prepare(flow: flows.used - 1, share: flows.usedShares - 1) }
            ports[number] = port
        } catch {
            throw StatusError(error.status, "pool \(pool.descriptor.name): \(error.message)")
        }
    }

    /// Stops serving a pool that has no volumes; false while answers of it have yet to be read.
    func removePort(_ number: UInt8) -> Bool {
        guard Int(number) < ports.count, let port = ports[Int(number)] else { return true }
        guard port.isIdle else { return false }
        port.stop()
        ports[Int(number)] = nil
        sight.removed(port: number)
        atBatchEnd()
        return true
    }

    /// Tells the driver's queue that a resource's number names nothing any more, and forgets the resource.
    func resourceClosed(_ id: Identifier, index: UInt32, port: UInt8) {
        failures[id] = nil
        guard Int(port) < ports.count, let port = ports[Int(port)] else { return }
        port.queue?.indexChanged(index)
        _ = port.setMarkers([], volume: index)
    }

    /// Tells the clients of a pool why its driver is away, or that it is there again.
    func driverChanged(_ number: UInt8, _ absence: DriverAbsence) {
        guard Int(number) < ports.count, let port = ports[Int(number)], port.absence != absence
        else { return }
        port.absence = absence
        for case let channel? in channels.all where !channel.isDetached {
            for position in channel.handles.positions(where: { $0.port == number && $0.isUsable }) {
                channel.push(absence.event(handle: channel.handles.id(position)))
            }
        }
    }

    var currentStatistics: Statistics {
        var result = statistics
        result.waitingForRoom = waitingForRoom
        for (node, share) in flows.shares {
            let bytes = ports.all.reduce(0) { $0 + ($1?.held(share: share) ?? 0) }
            if bytes > 0 { result.bufferBytes[node] = bytes }
        }
        for case let channel? in channels.all {
            result.inFlight += channel.slots.unanswered
            if channel.slots.unanswered > 0 { countWaiting(channel, &result) }
            if channel.isDetached { continue }
            result.channels += 1
            result.handles += channel.handles.positions { !$0.isClosing }.count
        }
        return result
    }

    /// Counts the requests of a channel that pools have whose driver is away.
    private func countWaiting(_ channel: ServiceChannel, _ result: inout Statistics) {
        for index in 0..<UInt16(channel.slots.count) where channel.slots[index].state == .running {
            guard let port = ports[Int(channel.slots[index].port)], port.absence != .none else { continue }
            result.waitingForDriver[port.pool.descriptor.name, default: 0] += 1
        }
    }

    var sessionParts: [Identifier: SessionPart] {
        var parts: [Identifier: SessionPart] = [:]
        for case let channel? in channels.all {
            guard let session = channel.session else { continue }
            var part = parts[session] ?? SessionPart()
            part.channels += channel.isDetached ? 0 : 1
            part.requests &+= channel.requests
            part.bytesRead &+= channel.bytesRead
            part.bytesWritten &+= channel.bytesWritten
            part.inFlight += channel.slots.unanswered
            for position in channel.handles.positions(where: { $0.isUsable }) {
                let handle = channel.handles[position]
                part.handles.append(
                    (handle.resource, handle.authority.rights, handle.authority.terms.capability))
            }
            parts[session] = part
        }
        return parts
    }
}

extension SessionInfo {
    /// Adds what one shard knows.
    mutating func add(_ part: SessionPart, nameOf: (Identifier) -> String) {
        channels += part.channels
        requests &+= part.requests
        bytesRead &+= part.bytesRead
        bytesWritten &+= part.bytesWritten
        inFlight += part.inFlight
        openVolumes += part.handles.map {
            OpenVolume(
                id: $0.resource, name: nameOf($0.resource), rights: $0.rights, capability: $0.capability)
        }
    }
}
