import Core

/// What a change has come to, member by member, so that a command can say what it did, and that it did nothing.
struct Changes {
    private var changed: [String] = []
    private var same: [String] = []

    /// Notes a member that was to be changed, as it was and as it is.
    mutating func note(_ member: String, from old: String?, to new: String?) {
        switch (old, new) {
        case (nil, nil): same.append("it has no \(member)")
        case (let old, let new?) where old == new: same.append("\(member) is \(new) already")
        case (let old?, let new?): changed.append("\(member) is \(new) (was \(old))")
        case (let old?, nil): changed.append("\(member) is gone (was \(old))")
        case (nil, let new?): changed.append("\(member) is \(new)")
        }
    }

    /// Notes each of the pairs that were set or taken away.
    mutating func note(
        _ member: String, _ asked: [PairArgument], from old: [String: String]?, to new: [String: String]?
    ) {
        var seen: Set<String> = []
        for pair in asked where seen.insert(pair.key).inserted {
            note("\(member) \(pair.key)", from: old?[pair.key], to: new?[pair.key])
        }
    }

    /// What to say of `subject`, such as `pool ram`.
    func sentence(_ subject: String) -> String {
        if changed.isEmpty { return "\(subject) is as it was: \(same.joined(separator: ", "))" }
        let rest = same.isEmpty ? "" : "; nothing else: \(same.joined(separator: ", "))"
        return "\(subject) changed: \(changed.joined(separator: ", "))" + rest
    }
}

extension ControlAPI {
    /// A change of one resource: what it was just before, and what it is.
    func change<Model: Decodable>(
        _ path: String, _ body: some Encodable
    ) throws -> (before: Answered<Model>, now: Answered<Model>) {
        let before: Answered<Model> = try get(path)
        return (before, try patch(path, body))
    }
}
