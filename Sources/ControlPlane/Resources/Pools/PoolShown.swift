import Catalog
import Core
import DriverKit
import Services

/// How pools are shown.
extension ControlPlane {
    /// A pool with how its driver host is, and what it says of its space within a second.
    func json(_ pool: PoolRecord, _ hosts: [String: DriverHostReport?]) async -> JSONValue {
        var members: [String: JSONValue] = [
            "id": .string(pool.id.hex), "name": .string(pool.name), "driver": .string(pool.driver),
            "settings": .strings(pool.settings), "isolation": .string(pool.isolation.rawValue),
            "whenFull": .string(pool.whenFull.rawValue),
            "labels": .strings(pool.labels),
            "volumes": .integer(UInt64(store.all(VolumeRecord.self) { $0.pool == pool.name }.count)),
            "createdAt": .string(Timestamp.text(pool.createdAt)),
            "updatedAt": .string(Timestamp.text(pool.updatedAt)),
        ]
        var condition = condition(of: pool, hosts)
        if let seen = await lookInTime(at: pool) {
            if let space = seen.space {
                members["capacity"] = .object([
                    "total": .integer(space.capacity.total), "used": .integer(space.capacity.used),
                    "free": .integer(space.capacity.free),
                    "provisioned": .integer(provisioned(in: pool.name)),
                ])
                members["space"] = .object([
                    "state": .string(seen.state.rawValue), "since": .string(Timestamp.text(seen.since)),
                    "refusals": .integer(space.refusals),
                    "lastRefusal": .optional(space.lastRefusal.map(Timestamp.text)),
                ])
                members["notes"] = .strings(space.notes)
                if seen.state != .ok { condition.message = words(pool.name, seen) }
            }
            if let fault = seen.fault {
                condition = PoolCondition(state: .failed, message: fault, since: seen.faultSince)
            } else if seen.state != .ok, condition.state == .ready {
                condition.since = seen.since
            }
        }
        members["state"] = .string(condition.state.rawValue)
        members["message"] = condition.message.map(JSONValue.string)
        members["since"] = condition.since.map { .string(Timestamp.text($0)) }
        return .object(members)
    }
}
