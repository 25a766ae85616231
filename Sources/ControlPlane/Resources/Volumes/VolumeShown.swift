import Catalog
import Core
import DriverKit
import Services

/// How volumes are shown.
extension ControlPlane {
    /// Why a volume cannot be used, as far as that is its pool's fault; nil when it is not.
    func trouble(of volume: VolumeRecord, _ hosts: [String: DriverHostReport?]) -> String? {
        guard let pool = store.get(PoolRecord.self, volume.pool)?.record else { return nil }
        let condition = condition(of: pool, hosts)
        guard condition.state == .quarantined else { return nil }
        let since = condition.since.map { " since \(Timestamp.text($0))" } ?? ""
        return "pool \(pool.name) is quarantined\(since): \(condition.message ?? "")"
    }

    /// A volume by itself.
    func json(
        _ volume: VolumeRecord, _ standing: VolumeStanding, _ writers: [WriterInfo], _ trouble: String?
    ) -> JSONValue {
        let shown = json(volume, standing, trouble: trouble)
        guard case .object(var members) = shown else { return shown }
        members["writers"] = .array(
            writers.map { writer in
                .object([
                    "session": .string(writer.session.hex), "node": .optional(writer.nodeName),
                    "since": .string(Timestamp.text(writer.since)),
                ])
            })
        return .object(members)
    }

    /// What there is to say of a volume beyond its record.
    func standing(of volume: VolumeRecord) -> VolumeStanding {
        live.withLock { live in
            VolumeStanding(
                fault: live.volumeFaults[volume.id], used: live.spaces[volume.pool]?.space?.used[volume.id],
                operation: live.operations.underWay(on: volume.id))
        }
    }

    /// A volume as it is shown.
    ///
    /// - Parameters:
    ///   - beginning: what begins on it with the answer.
    ///   - trouble: why its pool cannot serve it.
    func json(
        _ volume: VolumeRecord, _ beginning: LongOperation? = nil, trouble: String? = nil
    ) -> JSONValue {
        var standing = standing(of: volume)
        standing.operation = standing.operation ?? beginning
        return json(volume, standing, trouble: trouble)
    }

    private func json(_ volume: VolumeRecord, _ standing: VolumeStanding, trouble: String?) -> JSONValue {
        let fault = standing.fault ?? trouble
        var members: [String: JSONValue] = [
            "id": .string(volume.id.hex), "name": .string(volume.name), "pool": .string(volume.pool),
            "size": .integer(volume.size), "accessMode": .string(volume.accessMode.rawValue),
            "limits": volume.limits.json, "labels": .strings(volume.labels),
            "createdAt": .string(Timestamp.text(volume.createdAt)),
            "updatedAt": .string(Timestamp.text(volume.updatedAt)),
        ]
        let state = fault != nil && volume.state != .deleting ? "unavailable" : volume.state.rawValue
        members["blockSize"] = volume.blockSize.map { .integer(UInt64($0)) }
        members["used"] = standing.used.map(JSONValue.integer)
        members["operation"] = standing.operation.map { .string($0.id.hex) }
        members["progress"] = standing.operation?.progress
        members["state"] = .string(state)
        members["message"] = fault.map(JSONValue.string)
        return .object(members)
    }
}

/// What is known of a volume while the server runs.
struct VolumeStanding: Sendable {
    /// Why it cannot be used.
    var fault: String?
    /// The bytes that it takes of its pool.
    var used: UInt64?
    /// What takes long and is under way on it.
    var operation: LongOperation?
}

/// An answer to `GET` of a volume that is ready, at rest and not written to, with all that it was made from.
struct ReadyAnswer: Sendable {
    /// What such an answer shows.
    struct Inputs: Sendable, Hashable {
        private let tag: String
        private let used: UInt64?

        /// Nil for a volume that is not ready, not at rest, or cannot be used.
        init?(_ volume: VolumeRecord, _ standing: VolumeStanding) {
            guard volume.state == .ready, standing.fault == nil, standing.operation == nil else { return nil }
            tag = volume.entityTag
            used = standing.used
        }
    }

    let inputs: Inputs
    let response: ControlResponse
}
