import Catalog
import Core
import HTTPTypes
import Services
import Synchronization
import TestSupport
import Testing

@testable import ControlPlane

/// A kind of resource that nobody has but these tests.
private struct ShelfRecord: NamedRecord, Hashable {
    static let prefix = "shelves/"
    let id: Identifier
    let name: String
    var boards: UInt64
    var labels: [String: String] = [:]
    var updatedAt: UInt64 = 1
    var version: UInt64 = 1
}

/// What is its own; the rest of what the API does with it is the skeleton's.
private struct Shelves: Resource {
    static let noun = "shelf"
    static let members = ["name", "boards"]
    static let changeable = ["boards"]
    static let countMax: Int? = 3
    static let routes: [Route] = []
    static let log = Mutex<[String]>([])

    let plane: ControlPlane
    let context: RequestContext

    func isVisible(_ shelf: ShelfRecord) -> Bool { shelf.boards < 100 }

    func body(_ shelf: ShelfRecord) -> JSONValue {
        .object(["name": .string(shelf.name), "boards": .integer(shelf.boards)])
    }

    func draft(_ fields: Fields) throws(Problem) -> UInt64 { try fields.integer("boards", in: 0...100) ?? 0 }

    func make(_ name: String, _ boards: UInt64, undo: inout Undo) async throws(Problem) -> Made<ShelfRecord> {
        for step in ["screws", "boards"] {
            undo.add { Self.log.withLock { $0.append("no \(step) for \(name)") } }
            if boards == 66, step == "boards" { throw Problem(.deviceFailed, "there are no boards") }
        }
        let shelf = ShelfRecord(id: .random(using: plane.random), name: name, boards: boards)
        var made = Made(shelf, body: body(shelf))
        made.then = { () async throws(Problem) in Self.log.withLock { $0.append("\(name) stands") } }
        return made
    }

    func apply(_ fields: Fields, to shelf: inout ShelfRecord) throws(Problem) {
        if let boards = try fields.integer("boards", in: 0...100) { shelf.boards = boards }
    }

    func write(
        _ wanted: ShelfRecord, over stored: Stored<ShelfRecord>
    ) async throws(Problem) -> Written<ShelfRecord> {
        guard wanted != stored.record else { return Written(value: wanted) }
        var shelf = wanted
        shelf.touch(plane.wallClock.now())
        try await plane.put(shelf, over: stored)
        return Written(value: shelf)
    }

    func remove(_ stored: Stored<ShelfRecord>, isForced: Bool) async throws(Problem) -> ControlResponse {
        var changes = RecordChanges()
        changes.delete(stored)
        try await plane.commit(changes)
        return ControlResponse(status: .noContent)
    }
}

/// The skeleton of create, list, show, patch and delete, over a kind of its own.
@Suite(.timeLimit(.minutes(1)), .serialized, .blocking) struct ResourceTests {
    private struct Answer {
        let status: Int
        let headers: HTTPFields
        let text: String
        var code: String? {
            guard case .string(let code)? = (try? JSONParser.parse(Array(text.utf8)))?["code"] else {
                return nil
            }
            return code
        }
    }

    private func ask(
        _ rig: ControlRig, _ method: HTTPRequest.Method, _ target: String = "/v1/shelves",
        _ body: String = "",
        headers: HTTPFields = [:]
    ) async throws -> Answer {
        let asked = ControlRequest(
            method: method, target: target, headers: headers, body: Array(body.utf8), peer: .anonymous)
        let request = try #require(asked)
        let name = request.segments.count > 2 ? request.segments[2] : nil
        let context = RequestContext(
            request: request, parameters: name.map { ["name": $0] } ?? [:], caller: .observer("tester"))
        let handler: Route.Handler =
            switch (method, name) {
            case (.get, nil): Shelves.list
            case (.get, _): Shelves.show
            case (.post, _): Shelves.create
            case (.patch, _): Shelves.patch
            default: Shelves.delete
            }
        var response: ControlResponse
        do throws(Problem) { response = try await handler(rig.plane)(context) } catch {
            response = error.response
        }
        guard case .bytes(let bytes) = response.body else { throw Problem(.internalError, "a stream") }
        return Answer(
            status: response.status.code, headers: response.headers,
            text: String(decoding: bytes, as: UTF8.self))
    }

    private func shelf(_ name: String, boards: Int) -> String { #"{"name":"\#(name)","boards":\#(boards)}"# }

    @Test func aKindHasTheFiveOperationsWithWhatIsItsOwn() async throws {
        try await withControlPlane { rig async throws in
            let made = try await ask(rig, .post, "/v1/shelves", shelf("b", boards: 2))
            #expect(made.status == 201 && made.headers[.location] == "/v1/shelves/b")
            #expect(made.text == #"{"boards":2,"name":"b"}"# + "\n")
            #expect(try await ask(rig, .post, "/v1/shelves", shelf("a", boards: 1)).status == 201)
            #expect(
                try await ask(rig, .get).text
                    == #"{"items":[{"boards":1,"name":"a"},{"boards":2,"name":"b"}]}"# + "\n")
            let first = try await ask(rig, .get, "/v1/shelves?limit=1")
            #expect(first.text.contains("nextCursor"))
            let changed = try await ask(rig, .patch, "/v1/shelves/b", #"{"boards":5}"#)
            #expect(changed.status == 200 && changed.headers[.eTag] != made.headers[.eTag])
            let same = try await ask(rig, .patch, "/v1/shelves/b", #"{"boards":5}"#)
            #expect(same.headers[.eTag] == changed.headers[.eTag], "nothing was changed")
            #expect(try await ask(rig, .delete, "/v1/shelves/b").status == 204)
            #expect(try await ask(rig, .get, "/v1/shelves/b").code == "NOT_FOUND")
        }
    }

    @Test func whatIsTheSameForAllIsRefusedForAll() async throws {
        try await withControlPlane { rig async throws in
            for name in ["a", "b", "hidden"] {
                let boards = name == "hidden" ? 100 : 1
                #expect(try await ask(rig, .post, "/v1/shelves", shelf(name, boards: boards)).status == 201)
            }
            #expect(try await ask(rig, .post, "/v1/shelves", shelf("a", boards: 1)).code == "ALREADY_EXISTS")
            let full = try await ask(rig, .post, "/v1/shelves", shelf("c", boards: 1))
            #expect(full.code == "LIMIT_REACHED" && full.text.contains("its most shelfs, 3"), "\(full.text)")
            #expect(try await ask(rig, .post, "/v1/shelves", #"{"boards":1}"#).code == "MISSING_FIELD")
            #expect(
                try await ask(rig, .post, "/v1/shelves", #"{"name":"x","y":1}"#).code == "UNKNOWN_FIELD")
            #expect(try await ask(rig, .patch, "/v1/shelves/a", #"{"name":"x"}"#).code == "UNKNOWN_FIELD")
            #expect(try await ask(rig, .get, "/v1/shelves/hidden").code == "NOT_FOUND")
            let old: HTTPFields = [.ifMatch: "\"x-1\""]
            for method in [HTTPRequest.Method.patch, .delete] {
                let refused = try await ask(
                    rig, method, "/v1/shelves/a", method == .patch ? "{}" : "", headers: old)
                #expect(refused.code == "PRECONDITION_FAILED")
                #expect(try await ask(rig, method, "/v1/shelves/none", "{}").code == "NOT_FOUND")
            }
        }
    }

    @Test func whatWasDoneIsTakenBackInReverseWhereItIsNotOnRecord() async throws {
        let machine = try await ControlRig.Machine()
        let rig = try await ControlRig(machine)
        func told() -> [String] {
            Shelves.log.withLock { log in
                defer { log = [] }
                return log
            }
        }
        _ = told()
        #expect(try await ask(rig, .post, "/v1/shelves", shelf("s", boards: 66)).code == "DEVICE_FAILED")
        #expect(told() == ["no boards for s", "no screws for s"])
        machine.commits.refuse { _ in true }
        #expect(try await ask(rig, .post, "/v1/shelves", shelf("s", boards: 1)).code == "CATALOG_FAILED")
        #expect(told() == ["no boards for s", "no screws for s"])
        machine.commits.refuse { _ in false }
        #expect(try await ask(rig, .get, "/v1/shelves/s").code == "NOT_FOUND")
        #expect(try await ask(rig, .post, "/v1/shelves", shelf("s", boards: 1)).status == 201)
        #expect(told() == ["s stands"])
        try await rig.stop()
    }

    @Test func everyKindIsNamedOnceAndHasRoutesOfItsOwn() {
        let nouns = Kinds.all.map { $0.noun }
        #expect(Set(nouns).count == nouns.count)
        for kind in Kinds.all { #expect(!kind.routes.isEmpty, "\(kind.noun)") }
        for kind in Kinds.inPools { #expect(nouns.contains(kind.noun)) }
        for kind in Kinds.counted { #expect(nouns.contains(kind.noun)) }
        for kind in Kinds.grantable {
            #expect(nouns.contains(kind.noun) && kind.noun == kind.kind.name && !kind.rights.isEmpty)
        }
    }
}
