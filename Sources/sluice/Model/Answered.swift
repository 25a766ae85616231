/// What the control API answered: what the commands know of it, and the whole, which `-o json` and `-o yaml` show as it came,
/// with what is null there and what only a newer server says.
@dynamicMemberLookup
struct Answered<Model: Decodable & Sendable>: Codable, Sendable {
    /// What the commands know of it.
    let known: Model
    private var whole: JSONTree

    init(from decoder: any Decoder) throws {
        known = try Model(from: decoder)
        whole = try JSONTree(from: decoder)
    }

    func encode(to encoder: any Encoder) throws { try whole.encode(to: encoder) }

    subscript<Value>(dynamicMember member: KeyPath<Model, Value>) -> Value { known[keyPath: member] }

    /// The same, with this member shown no more.
    func hiding(_ member: String) -> Self {
        guard case .object(var members) = whole else { return self }
        members[member] = nil
        var result = self
        result.whole = .object(members)
        return result
    }
}

extension Answered: Presentable where Model: Presentable {
    static var columns: [String] { Model.columns }
    var row: [String] { known.row }
    var details: [(name: String, value: String)] { known.details }
}

/// Any JSON.
private enum JSONTree: Codable, Sendable {
    case null
    case bool(Bool)
    case integer(Int64)
    case natural(UInt64)
    case number(Double)
    case text(String)
    case list([JSONTree])
    case object([String: JSONTree])

    init(from decoder: any Decoder) throws {
        let place = try decoder.singleValueContainer()
        if place.decodeNil() {
            self = .null
        } else if let value = try? place.decode(Bool.self) {
            self = .bool(value)
        } else if let value = try? place.decode(Int64.self) {
            self = .integer(value)
        } else if let value = try? place.decode(UInt64.self) {
            self = .natural(value)
        } else if let value = try? place.decode(Double.self) {
            self = .number(value)
        } else if let value = try? place.decode(String.self) {
            self = .text(value)
        } else if let value = try? place.decode([JSONTree].self) {
            self = .list(value)
        } else {
            self = .object(try place.decode([String: JSONTree].self))
        }
    }

    func encode(to encoder: any Encoder) throws {
        var place = encoder.singleValueContainer()
        switch self {
        case .null: try place.encodeNil()
        case .bool(let value): try place.encode(value)
        case .integer(let value): try place.encode(value)
        case .natural(let value): try place.encode(value)
        case .number(let value): try place.encode(value)
        case .text(let value): try place.encode(value)
        case .list(let values): try place.encode(values)
        case .object(let members): try place.encode(members)
        }
    }
}
