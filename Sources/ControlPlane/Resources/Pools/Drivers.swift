import Catalog
import Core
import DriverKit
import HTTPTypes
import Services

/// What the API says of a pool's condition.
struct PoolCondition: Sendable, Hashable {
    /// The words of the API.
    enum State: String, Sendable, CaseIterable {
        case starting, ready, recovering, upgrading, quarantined, failed
    }

    var state: State
    /// Why, or what else there is to know.
    var message: String?
    /// Unix seconds since when; nil for one that is well.
    var since: UInt64?
}

/// Why something does not work.
struct Fault: Sendable, Hashable, CustomStringConvertible {
    /// In words.
    var description: String
    /// Unix seconds.
    var since: UInt64
}

extension PoolCondition.State {
    init(_ state: DriverHostReport.State) {
        self =
            switch state {
            case .starting: .starting
            case .running: .ready
            case .recovering: .recovering
            case .upgrading: .upgrading
            case .quarantined: .quarantined
            case .stopped: .failed
            }
    }
}

extension DriverIsolation {
    /// What a pool's record says.
    init(_ isolation: PoolRecord.Isolation) {
        self =
            switch isolation {
            case .isolated: .isolated
            case .inline: .inline
            }
    }
}

extension ControlPlane {
    /// `GET /v1/drivers`, in order of the pools' names.
    func listDrivers(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        let page = try context.page()
        let hosts = try await driverHosts()
        let pools = store.page(PoolRecord.self, after: page.after, limit: page.limit + 1).map(\.record)
        return page.answer(pools.map { ($0.name, json(driverOf: $0, hosts)) })
    }

    /// `GET /v1/drivers/{pool}`
    func showDriver(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        let pool = try driverPool(context)
        return ControlResponse(status: .ok, json: json(driverOf: pool, try await driverHosts()))
    }

    /// `POST /v1/drivers/{pool}/upgrade`: answers how long users had to wait.
    func upgradeDriver(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        _ = try context.fields(known: [])
        let name = try driverPool(context).name
        return try await locks.withLock("pool/\(name)") { () async throws(Problem) in
            if let fault = fault(ofPool: name) {
                throw Problem(
                    .deviceFailed, "pool \(name) does not run: \(fault)",
                    expected: "'sluice pool restart \(name)' first")
            }
            // The start of a server starts the driver that is installed: a repeat after one makes nobody wait once
            // more.
            var waited: UInt64 = 0
            try await once(context) { () async throws(Problem) in
                waited = try await perform(.upgradeDriver(name))
            }
            let pause = Milliseconds.text(waited)
            audit("driver upgraded", context, ["pool": name, "pauseMilliseconds": pause])
            let body = JSONValue.object(["pool": .string(name), "pauseMilliseconds": .number(pause)])
            let response = ControlResponse(status: .ok, json: body)
            try await remember(response, for: context, body: body)
            return response
        }
    }

    /// By pool: how its driver host is; nil for a driver that runs in the server. A pool that did not start is not
    /// there.
    func driverHosts() async throws(Problem) -> [String: DriverHostReport?] {
        try await perform(.driverHosts)
    }

    /// How a pool is, as far as that can be told without asking its driver.
    func condition(of pool: PoolRecord, _ hosts: [String: DriverHostReport?]) -> PoolCondition {
        if let fault = fault(ofPool: pool.name) {
            return PoolCondition(
                state: .failed,
                message: "\(fault). When that is mended: 'sluice pool restart \(pool.name)'",
                since: fault.since)
        }
        guard let host = hosts[pool.name] else {
            return PoolCondition(state: .failed, message: "its driver was not started")
        }
        let isInForce = (host == nil) == (pool.isolation == .inline)
        let change =
            isInForce ? nil : "runs \(host == nil ? "inline" : "isolated") until the server is started anew"
        guard let host else { return PoolCondition(state: .ready, message: change) }
        let state = PoolCondition.State(host.state)
        guard host.state == .quarantined else {
            return PoolCondition(
                state: state, message: host.state == .running ? change : host.lastEnd?.message ?? change,
                since: host.state == .running ? nil : host.stateSince)
        }
        let why = host.reason ?? host.lastEnd?.message ?? "too many processes were lost"
        return PoolCondition(
            state: state,
            message:
                "\(why). No other is started until somebody does so by 'sluice pool restart \(pool.name)'",
            since: host.stateSince ?? host.lastEnd?.at)
    }

    private func driverPool(_ context: RequestContext) throws(Problem) -> PoolRecord {
        try pool(context.parameters["pool"] ?? "").record
    }

    private func json(driverOf pool: PoolRecord, _ hosts: [String: DriverHostReport?]) -> JSONValue {
        let host = hosts[pool.name].flatMap { $0 }
        let isInline = hosts[pool.name].map { $0 == nil } ?? (pool.isolation == .inline)
        let condition = condition(of: pool, hosts)
        let state = host?.state.rawValue ?? (condition.state == .ready ? "running" : "failed")
        var ends: [String: JSONValue] = [:]
        for cause in DriverHostReport.End.Cause.allCases {
            ends[cause.rawValue] = .integer(host?.ends[cause] ?? 0)
        }
        var members: [String: JSONValue] = [
            "pool": .string(pool.name), "driver": .string(pool.driver), "state": .string(state),
            "isolation": .string((isInline ? DriverIsolation.inline : .isolated).rawValue),
            "pid": .optional(host?.processID.map { UInt64(clamping: $0) }),
            "user": .optional(host?.user.map(UInt64.init)),
            "since": .optional(host?.since.map(Timestamp.text)), "starts": .integer(host?.starts ?? 0),
            "ends": .object(ends), "replayed": .integer(host?.replayed ?? 0),
            "sandboxGaps": .strings(host?.sandboxGaps ?? []),
            "lastEnd": .null, "lastPauseMilliseconds": .null,
        ]
        members["message"] = condition.message.map(JSONValue.string)
        members["stateSince"] = condition.since.map { .string(Timestamp.text($0)) }
        if let end = host?.lastEnd {
            members["lastEnd"] = .object([
                "cause": .string(end.cause.rawValue), "message": .string(end.message),
                "at": .string(Timestamp.text(end.at)),
            ])
        }
        if let pause = host?.lastPauseNanoseconds {
            members["lastPauseMilliseconds"] = .number(Milliseconds.text(pause))
        }
        return .object(members)
    }
}

/// Milliseconds with three decimals, without rounding through binary fractions.
enum Milliseconds {
    static func text(_ nanoseconds: UInt64) -> String {
        let microseconds = nanoseconds / 1000
        let rest = String(microseconds % 1000)
        return "\(microseconds / 1000)." + String(repeating: "0", count: 3 - rest.utf8.count) + rest
    }
}
