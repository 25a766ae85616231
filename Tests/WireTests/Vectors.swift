import Core
import Foundation

/// `API/vectors/wire/frames.json`.
struct Vectors: Decodable {
    struct Vector: Decodable {
        let name: String
        let hex: String
        let fields: [String: String]

        var bytes: [UInt8] { Hex.decode(hex) ?? [] }

        /// A field's number; the vectors write numbers as text, since JSON's do not reach 64 bits.
        func number<T: FixedWidthInteger>(_ field: String) throws -> T {
            guard let text = fields[field], let value = T(text) else { throw MissingField(name: field) }
            return value
        }

        func data(_ field: String) throws -> [UInt8] {
            guard let text = fields[field], let value = Hex.decode(text) else {
                throw MissingField(name: field)
            }
            return value
        }

        func identifier(_ field: String) throws -> Identifier {
            guard let value = Identifier(bytes: try data(field)) else { throw MissingField(name: field) }
            return value
        }

        func text(_ field: String) throws -> String {
            guard let text = fields[field] else { throw MissingField(name: field) }
            return text
        }
    }

    struct Reject: Decodable {
        let name: String
        let `where`: String
        let hex: String
        let status: String

        var bytes: [UInt8] { Hex.decode(hex) ?? [] }
    }

    struct MissingField: Error {
        let name: String
    }

    let requests: [Vector]
    let replies: [Vector]
    let events: [Vector]
    let hello: [Vector]
    let helloReply: [Vector]
    let open: [Vector]
    let renew: [Vector]
    let resourceState: [Vector]
    let copySource: [Vector]
    let blockMap: [Vector]
    /// What the maps that are refused claim to cover.
    static let coveredByRejects: UInt64 = 65_536
    let rejects: [Reject]

    static func load() throws -> Vectors {
        let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent()
        let data = try Data(contentsOf: root.appendingPathComponent("API/vectors/wire/frames.json"))
        return try JSONDecoder().decode(Vectors.self, from: data)
    }
}
