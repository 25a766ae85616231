import Core
import Services

/// Which events somebody wants, by the query.
struct EventFilter: Sendable {
    /// The query parameters.
    static let parameters = ["kind", "resource", "sinceSeconds", "sinceTime"]

    /// Nil for all.
    private let kinds: Set<ServerEvent.Kind>?
    /// What they are about, or the node that caused them, such as `volume/data` or `node/compute-1`; nil for all.
    private let resource: String?
    /// Unix seconds.
    private let since: UInt64

    init(_ context: RequestContext, now: UInt64) throws(Problem) {
        kinds = try context.request.queryValue("kind").map { (text) throws(Problem) in
            try EventFilter.kinds(text)
        }
        resource = try EventFilter.resource(context.request.queryValue("resource"))
        let seconds = try EventFilter.seconds(context.request.queryValue("sinceSeconds"))
        let time = try EventFilter.time(context.request.queryValue("sinceTime"))
        if seconds != nil, time != nil {
            throw Problem(
                .invalidParameter, "sinceSeconds and sinceTime exclude each other", field: "sinceTime",
                expected: "one of them")
        }
        since = seconds.map { now - min($0, now) } ?? time ?? 0
    }

    /// Whether somebody wants the event.
    func takes(_ event: ServerEvent) -> Bool {
        guard event.at >= since, kinds?.contains(event.kind) ?? true else { return false }
        guard let resource else { return true }
        if event.subject == resource { return true }
        guard let by = event.by, by.hasPrefix("node:") else { return false }
        return "node/\(by.dropFirst(5))" == resource
    }

    /// `driver` stands for all that begins with `driver.`; several are separated by commas.
    private static func kinds(_ text: String) throws(Problem) -> Set<ServerEvent.Kind> {
        var found: Set<ServerEvent.Kind> = []
        for word in text.split(separator: ",", omittingEmptySubsequences: false) {
            let these = ServerEvent.Kind.allCases.filter {
                $0.rawValue == word || $0.rawValue.hasPrefix("\(word).")
            }
            guard !these.isEmpty else {
                let groups = Set(ServerEvent.Kind.allCases.map { String($0.rawValue.prefix { $0 != "." }) })
                throw Problem(
                    .invalidParameter, "there are no events of the kind \(word.prefix(64))", field: "kind",
                    expected: "one such as session.lost, or all of \(groups.sorted().joined(separator: ", "))"
                )
            }
            found.formUnion(these)
        }
        return found
    }

    private static func resource(_ text: String?) throws(Problem) -> String? {
        guard let text else { return nil }
        let parts = text.split(separator: "/", omittingEmptySubsequences: false)
        let isKnown =
            switch parts.count {
            case 1: subjects.contains(text)
            case 2: subjectKinds.contains(String(parts[0])) && !parts[1].isEmpty
            default: false
            }
        guard text.utf8.count <= 128, isKnown else {
            throw Problem(
                .invalidParameter, "there are no events about \(text.prefix(64))", field: "resource",
                expected: "KIND/NAME, such as volume/data or node/compute-1, of the kinds "
                    + "\(subjectKinds.joined(separator: ", ")); or \(subjects.joined(separator: ", "))")
        }
        return text
    }

    /// What events are about that has a name.
    private static let subjectKinds =
        (Kinds.inPools.map { $0.noun } + ["admin", "capability", "node", "pool", "reactor", "session"])
        .sorted()
    /// What they are about that there is one of.
    private static let subjects = ["authority", "log", "server"]

    private static func seconds(_ text: String?) throws(Problem) -> UInt64? {
        guard let text else { return nil }
        guard text.utf8.allSatisfy({ (48...57).contains($0) }), let seconds = UInt64(text) else {
            throw Problem(
                .invalidParameter, "sinceSeconds is not a number", field: "sinceSeconds",
                expected: "how many seconds ago, such as 3600")
        }
        return seconds
    }

    private static func time(_ text: String?) throws(Problem) -> UInt64? {
        guard let text else { return nil }
        guard let time = Timestamp.parse(text) else {
            throw Problem(
                .invalidParameter, "sinceTime is not a time", field: "sinceTime",
                expected: "RFC 3339 in UTC, such as 2026-11-24T04:13:27Z")
        }
        return time
    }
}
