import Catalog
import Core
import DriverKit
import HTTPTypes
import Reactor
import Services

extension ControlPlane {
    /// `GET /metrics`: the Prometheus text format, version 0.0.4.
    func metrics(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        var text = MetricsText()
        text.add("sluice_info", "gauge", "Which server this is.")
        text.sample(
            "sluice_info", 1,
            [("cluster", authority.clusterID.hex), ("name", authority.name), ("version", SluiceVersion.text)])
        text.single(
            "sluice_start_time_seconds", "gauge", "When the server became ready, in Unix seconds.",
            live.withLock { $0.startedAt })
        // The question reaches the catalog's disk, which may stand still: without an answer it counts as full.
        let store = store
        let isShortOfSpace = await ControlPlane.inTime(seconds: 1) { await store.isShortOfSpace() }
        addControl(to: &text, isShortOfSpace: isShortOfSpace ?? true)
        addLog(to: &text)
        // A reactor that stands does not answer, and its reader wants to know just that: metrics do not wait for it.
        let statistics = await statisticsInTime()
        add(watchdog?.reports ?? [], to: &text)
        if let statistics { add(statistics, to: &text) }
        let hosts = try await driverHosts()
        await addPools(to: &text)
        addDrivers(to: &text, hosts)
        return ControlResponse(
            status: .ok, headers: [.contentType: "text/plain; version=0.0.4; charset=utf-8"],
            body: Array(text.text.utf8))
    }

    private func addControl(to text: inout MetricsText, isShortOfSpace: Bool) {
        let counts = counters.all
        text.add("sluice_control_requests_total", "counter", "Answers of the control API.")
        for (key, count) in counts.requests.sorted(by: { $0.key < $1.key }) {
            text.sample(
                "sluice_control_requests_total", count,
                [("method", key.method), ("route", key.template), ("status", String(key.status))])
        }
        text.add("sluice_catalog_commits_total", "counter", "Transactions of the catalog.")
        text.sample("sluice_catalog_commits_total", counts.commits, [("result", "ok")])
        text.sample("sluice_catalog_commits_total", counts.failedCommits, [("result", "failed")])
        text.single(
            "sluice_catalog_short_of_space", "gauge",
            "1 while the data folder's file system is full and the catalog lives on what it kept for that.",
            isShortOfSpace ? 1 : 0)
        text.single(
            "sluice_capabilities_issued_total", "counter", "Capabilities that were issued.",
            counts.capabilitiesIssued)
        text.single(
            "sluice_capabilities_revoked_total", "counter", "Capabilities that were revoked one by one.",
            counts.capabilitiesRevoked)
        text.single("sluice_nodes_enrolled_total", "counter", "Enrolments of nodes.", counts.nodesEnrolled)
        text.single(
            "sluice_enrol_tokens_refused_total", "counter", "Enrolments that were refused for their token.",
            counts.tokensRefused)
        addCertificates(to: &text, counts)
        text.add("sluice_records", "gauge", "Records in the catalog.")
        let intents = store.count(IntentRecord.self) + store.count(PoolIntentRecord.self)
        let records =
            Kinds.counted.map { ($0.noun, $0.count(self)) }
            + [("capability", store.count(CapabilityRecord.self)), ("intent", intents)]
        for (kind, count) in records { text.sample("sluice_records", UInt64(count), [("kind", kind)]) }
        let operations = live.withLock { $0.operations.counts }
        text.add("sluice_operations", "gauge", "Long work that is under way, by whether it goes on or waits.")
        for kind in LongOperation.Kind.allCases {
            for state in ["running", "waiting"] {
                text.sample(
                    "sluice_operations", UInt64(operations[kind]?[state] ?? 0),
                    [("kind", kind.rawValue), ("state", state)])
            }
        }
    }

    /// What the reactors have counted; nil where one of them does not answer in time.
    private func statisticsInTime() async -> Statistics? {
        let services = services
        return await ControlPlane.inTime(seconds: 1) {
            try? await services.perform(.statistics)
        }
    }

    /// What `body` finds, or nil when that takes longer than so many seconds; it goes on then, and nobody hears of it.
    static func inTime<Value: Sendable>(
        seconds: Int, _ body: @escaping @Sendable () async -> Value?
    ) async -> Value? {
        let (answers, answer) = AsyncStream.makeStream(of: Value?.self)
        Task { answer.yield(await body()) }
        let limit = Task {
            try? await Task.sleep(for: .seconds(seconds))
            answer.yield(nil)
        }
        defer { limit.cancel() }
        for await first in answers { return first }
        return nil
    }

    private func add(_ reactors: [ReactorWatchdog.Report], to text: inout MetricsText) {
        text.add(
            "sluice_reactor_standing", "gauge",
            "Whether a reactor does not turn: 1 while nothing of its goes on.")
        for one in reactors {
            text.sample("sluice_reactor_standing", one.isStanding ? 1 : 0, [("reactor", one.name)])
        }
        text.add(
            "sluice_reactor_stalls_total", "counter", "How often a reactor did not turn for half a second.")
        for one in reactors {
            text.sample("sluice_reactor_stalls_total", one.stalls, [("reactor", one.name)])
        }
        text.single(
            "sluice_watchdog_ends_total", "counter",
            "Servers on this data folder that were ended because a reactor stood; only the latest are remembered.",
            watchdogEnds)
    }

    private func addLog(to text: inout MetricsText) {
        if let eventFile {
            text.single(
                "sluice_events_unwritten", "gauge", "Whether events cannot be written down.",
                eventFile.problem == nil ? 0 : 1)
        }
        guard let report = log?.report else { return }
        text.add("sluice_log_lines_total", "counter", "Log lines by what became of them.")
        for (result, count) in [
            ("written", report.written), ("lost", report.lost), ("left_out", report.leftOut),
        ] { text.sample("sluice_log_lines_total", count, [("result", result)]) }
        text.single(
            "sluice_log_waiting_bytes", "gauge", "Log lines that wait for whoever reads the log.",
            UInt64(report.waitingBytes))
        text.single(
            "sluice_log_losing", "gauge", "Whether log lines are being lost.",
            report.losingSince == nil ? 0 : 1)
    }

    private func addCertificates(to text: inout MetricsText, _ counts: ControlCounters.Counts) {
        let now = wallClock.now()
        let all = watchedCertificates()
        let nodes = all.filter { $0.kind == .node }
        let near = nodes.filter { $0.stage(at: now) > .valid }.sorted { $0.expiresAt < $1.expiresAt }
        text.add(
            "sluice_certificate_expiry_timestamp_seconds", "gauge",
            "When a certificate ends, in Unix seconds; of nodes, those that should have been renewed.")
        for certificate in all.filter({ $0.kind != .node }) + near.prefix(Limits.nodeCertificatesShownMax) {
            text.sample(
                "sluice_certificate_expiry_timestamp_seconds", certificate.expiresAt,
                [("kind", certificate.kind.rawValue), ("name", certificate.name)])
        }
        text.add("sluice_node_certificates", "gauge", "Certificates of nodes.")
        for stage in [WatchedCertificate.Stage.valid, .expiring, .expired] {
            let count = nodes.count { $0.stage(at: now).name == stage.name }
            text.sample("sluice_node_certificates", UInt64(count), [("state", stage.name)])
        }
        text.add(
            "sluice_certificate_renewals_total", "counter",
            "Renewals of the certificates that the server looks after; failed: not made, or not kept.")
        text.sample("sluice_certificate_renewals_total", counts.certificatesRenewed, [("result", "ok")])
        text.sample(
            "sluice_certificate_renewals_total", counts.certificateRenewalsFailed, [("result", "failed")])
    }

    private func add(_ statistics: Statistics, to text: inout MetricsText) {
        text.single("sluice_sessions", "gauge", "Sessions that exist.", UInt64(statistics.sessions))
        text.single(
            "sluice_channels", "gauge", "Data channels that are connected.", UInt64(statistics.channels))
        text.single("sluice_handles", "gauge", "Handles that are open.", UInt64(statistics.handles))
        text.single(
            "sluice_requests_in_flight", "gauge", "Data requests that are not answered yet.",
            UInt64(statistics.inFlight))
        text.add("sluice_data_requests_total", "counter", "Data requests by operation.")
        let operations = [
            ("read", statistics.reads), ("write", statistics.writes), ("flush", statistics.flushes),
            ("discard", statistics.discards), ("control", statistics.controls),
        ]
        for (name, count) in operations {
            text.sample("sluice_data_requests_total", count, [("operation", name)])
        }
        text.add("sluice_data_bytes_total", "counter", "Payload bytes by direction.")
        text.sample("sluice_data_bytes_total", statistics.bytesRead, [("direction", "read")])
        text.sample("sluice_data_bytes_total", statistics.bytesWritten, [("direction", "write")])
        text.single(
            "sluice_data_requests_delayed_total", "counter", "Data requests that waited for a limit.",
            statistics.delayed)
        text.single(
            "sluice_channels_waiting_for_room", "gauge",
            "Data channels whose next request waits for buffers, of the pool or of its node's part.",
            UInt64(statistics.waitingForRoom))
        text.add("sluice_buffer_bytes", "gauge", "What nodes hold of the pools' buffers, in bytes.")
        if !statistics.bufferBytes.isEmpty {
            let names = Dictionary(
                store.all(NodeRecord.self).map { ($0.record.id, $0.record.name) }, uniquingKeysWith: { $1 })
            let holders = statistics.bufferBytes.map { (names[$0.key] ?? $0.key.hex, $0.value) }
            for (name, bytes) in holders.sorted(by: { $0 < $1 }) {
                text.sample("sluice_buffer_bytes", UInt64(bytes), [("node", name)])
            }
        }
        text.add(
            "sluice_pool_requests_waiting", "gauge",
            "Data requests that wait because a pool's driver is away.")
        for stored in store.all(PoolRecord.self) {
            text.sample(
                "sluice_pool_requests_waiting", statistics.waitingForDriver[stored.record.name] ?? 0,
                [("pool", stored.record.name)])
        }
        text.add("sluice_data_refusals_total", "counter", "Data requests that were not answered with OK.")
        for (status, count) in statistics.refusals.sorted(by: { $0.key.rawValue < $1.key.rawValue }) {
            text.sample("sluice_data_refusals_total", count, [("status", status.name)])
        }
    }

    private func addPools(to text: inout MetricsText) async {
        var seen: [(name: String, space: PoolSpace, state: SpaceState)] = []
        text.add("sluice_pool_up", "gauge", "Whether a pool's driver runs and answers.")
        for (name, watched) in await lookAtPools() {
            let isUp = watched?.fault == nil && watched?.space != nil
            text.sample("sluice_pool_up", isUp ? 1 : 0, [("pool", name)])
            if let watched, let space = watched.space { seen.append((name, space, watched.state)) }
        }
        text.add("sluice_pool_bytes", "gauge", "A pool's space, and the sizes of its volumes.")
        for pool in seen {
            let capacity = pool.space.capacity
            let figures = [
                ("total", capacity.total), ("used", capacity.used), ("free", capacity.free),
                ("provisioned", provisioned(in: pool.name)),
            ]
            for (state, bytes) in figures {
                text.sample("sluice_pool_bytes", bytes, [("pool", pool.name), ("state", state)])
            }
        }
        text.add(
            "sluice_pool_space_state", "gauge",
            "Whether a pool has the space that was promised: 1 for its state.")
        for pool in seen {
            for state in SpaceState.allCases {
                text.sample(
                    "sluice_pool_space_state", pool.state == state ? 1 : 0,
                    [("pool", pool.name), ("state", state.rawValue)])
            }
        }
        text.add("sluice_pool_refusals_total", "counter", "Writes for which a pool had no space.")
        for pool in seen {
            text.sample("sluice_pool_refusals_total", pool.space.refusals, [("pool", pool.name)])
        }
        addVolumes(to: &text, seen.map { ($0.name, $0.space) })
    }

    private func addVolumes(to text: inout MetricsText, _ pools: [(name: String, space: PoolSpace)]) {
        let used = Dictionary(pools.map { ($0.name, $0.space.used) }) { first, _ in first }
        text.add("sluice_volume_bytes", "gauge", "A volume's size, and what it takes of its pool.")
        for stored in store.all(VolumeRecord.self) {
            let volume = stored.record
            let labels = [("volume", volume.name), ("pool", volume.pool)]
            text.sample("sluice_volume_bytes", volume.size, labels + [("state", "provisioned")])
            guard let bytes = used[volume.pool]?[volume.id] else { continue }
            text.sample("sluice_volume_bytes", bytes, labels + [("state", "used")])
        }
    }

    /// Driver hosts; drivers that run in the server have none.
    private func addDrivers(to text: inout MetricsText, _ hosts: [String: DriverHostReport?]) {
        let reports = hosts.compactMap { name, report in report.map { (name: name, report: $0) } }
            .sorted { $0.name < $1.name }
        text.add("sluice_driver_state", "gauge", "What a pool's driver host is doing: 1 for its state.")
        for (name, report) in reports {
            for state in DriverHostReport.State.allCases {
                text.sample(
                    "sluice_driver_state", report.state == state ? 1 : 0,
                    [("pool", name), ("state", state.rawValue)])
            }
        }
        text.add("sluice_driver_starts_total", "counter", "Driver hosts that were started.")
        for (name, report) in reports {
            text.sample("sluice_driver_starts_total", report.starts, [("pool", name)])
        }
        text.add("sluice_driver_ends_total", "counter", "Driver hosts that ended, by cause.")
        for (name, report) in reports {
            for cause in DriverHostReport.End.Cause.allCases {
                text.sample(
                    "sluice_driver_ends_total", report.ends[cause] ?? 0,
                    [("pool", name), ("cause", cause.rawValue)])
            }
        }
        text.add(
            "sluice_driver_replayed_requests_total", "counter",
            "Requests that were given to a driver host a second time.")
        for (name, report) in reports {
            text.sample("sluice_driver_replayed_requests_total", report.replayed, [("pool", name)])
        }
        text.add(
            "sluice_driver_last_pause_seconds", "gauge",
            "How long users waited at the last recovery or upgrade.")
        for (name, report) in reports {
            guard let pause = report.lastPauseNanoseconds else { continue }
            let digits = String(pause % 1_000_000_000)
            let fraction = String(repeating: "0", count: 9 - digits.utf8.count) + digits
            text.sample(
                "sluice_driver_last_pause_seconds", "\(pause / 1_000_000_000).\(fraction)", [("pool", name)])
        }
    }
}

/// Text in the Prometheus exposition format.
private struct MetricsText {
    private(set) var text = ""

    mutating func add(_ name: String, _ type: String, _ help: String) {
        text += "# HELP \(name) \(help)\n# TYPE \(name) \(type)\n"
    }

    mutating func sample(_ name: String, _ value: UInt64, _ labels: [(String, String)] = []) {
        sample(name, String(value), labels)
    }

    mutating func sample(_ name: String, _ value: String, _ labels: [(String, String)]) {
        text += name
        if !labels.isEmpty {
            text +=
                "{" + labels.map { "\($0.0)=\"\(MetricsText.escape($0.1))\"" }.joined(separator: ",") + "}"
        }
        text += " \(value)\n"
    }

    mutating func single(_ name: String, _ type: String, _ help: String, _ value: UInt64) {
        add(name, type, help)
        sample(name, value)
    }

    private static func escape(_ value: String) -> String {
        var escaped = ""
        for character in value.unicodeScalars {
            switch character {
            case "\\": escaped += "\\\\"
            case "\"": escaped += "\\\""
            case "\n": escaped += "\\n"
            default: escaped.unicodeScalars.append(character)
            }
        }
        return escaped
    }
}
