import Foundation
import Services
import Testing
import Yams

@testable import ControlPlane

/// The route table and the table of problem codes against `API/openapi.yaml`, in both directions.
@Suite struct OpenAPITests {
    private static let methods = ["get", "put", "post", "delete", "options", "head", "patch", "trace"]
    private let document: [String: Any]

    init() throws {
        let folder = URL(filePath: #filePath).resolvingSymlinksInPath().deletingLastPathComponent()
        let file = folder.appending(path: "../../API/openapi.yaml")
        let value = try Yams.load(yaml: try String(contentsOf: file, encoding: .utf8))
        document = try #require(value as? [String: Any])
    }

    @Test func everyRouteIsInTheDocumentAndEveryOperationIsARoute() throws {
        let documented = try operations().keys
        #expect(Set(RouteTable.operations.map(\.operation)) == Set(documented))
        #expect(RouteTable.operations.count == documented.count)
    }

    @Test func rolesAreThoseOfTheDocument() throws {
        let documented = try operations()
        for route in RouteTable.operations {
            let operation = try #require(documented[route.operation], "\(route.operation)")
            let roles = try #require(operation.body["x-sluice-roles"] as? [String], "\(route.operation)")
            #expect(Set(route.roles.map(\.rawValue)) == Set(roles), "\(route.operation)")
        }
    }

    @Test func queryParametersAreThoseOfTheDocument() throws {
        let documented = try operations()
        for route in RouteTable.operations {
            let parameters = try #require(documented[route.operation]).parameters
            let inQuery = parameters.filter { $0["in"] as? String == "query" }
            let query = inQuery.compactMap { $0["name"] as? String }
            #expect(Set(route.query) == Set(query), "\(route.operation)")
        }
    }

    @Test func idempotencyKeysAreTakenWhereTheDocumentSaysSo() throws {
        let documented = try operations()
        for route in RouteTable.routes {
            let name = "\(route.method.rawValue) \(route.template)"
            let parameters = try #require(documented[name]).parameters
            let isDocumented = parameters.contains { $0["name"] as? String == "Idempotency-Key" }
            #expect(route.isIdempotent == isDocumented, "\(name)")
        }
    }

    @Test func problemCodesHaveTheStatusAndTitleOfTheDocument() throws {
        let examples = try #require(node("#/components/examples"))
        for code in ProblemCode.allCases where code != .internalError {
            let example = try #require(examples[code.rawValue] as? [String: Any], "\(code.rawValue)")
            let problem = try #require(example["value"] as? [String: Any])
            #expect(problem["status"] as? Int == code.httpStatus, "\(code.rawValue)")
            #expect(problem["title"] as? String == code.title, "\(code.rawValue)")
        }
        let codes = try #require(node("#/components/schemas/ProblemCode")?["enum"] as? [String])
        // What the server says by itself, before a request is whole, has a code beyond those of the handlers.
        #expect(Set(codes) == Set(ProblemCode.allCases.map(\.rawValue)).union(["HEADER_TOO_LARGE"]))
    }

    @Test func theKindsOfEventsAreThoseOfTheDocumentAndSpeltAlike() throws {
        let properties = try #require(node("#/components/schemas/Event/properties"))
        let kinds = try #require((properties["kind"] as? [String: Any])?["enum"] as? [String])
        #expect(Set(kinds) == Set(ServerEvent.Kind.allCases.map(\.rawValue)))
        for kind in kinds { #expect(kind.wholeMatch(of: /[a-z]+\.[a-z]+(-[a-z]+)*/) != nil, "\(kind)") }
        let space = try #require(node("#/components/schemas/PoolSpace/properties/state"))
        #expect(space["enum"] as? [String] == SpaceState.allCases.map(\.rawValue))
    }

    // MARK: Reading the document

    private struct Operation {
        let body: [String: Any]
        let parameters: [[String: Any]]
    }

    /// The operations by `METHOD /path/{parameter}`.
    private func operations() throws -> [String: Operation] {
        var found: [String: Operation] = [:]
        for (path, item) in try #require(document["paths"] as? [String: [String: Any]]) {
            for method in Self.methods {
                guard let body = item[method] as? [String: Any] else { continue }
                let shared = item["parameters"] as? [[String: Any]] ?? []
                let own = body["parameters"] as? [[String: Any]] ?? []
                let parameters = try (shared + own).map(resolved)
                found["\(method.uppercased()) \(path)"] = Operation(body: body, parameters: parameters)
            }
        }
        return found
    }

    private func resolved(_ value: [String: Any]) throws -> [String: Any] {
        guard let reference = value["$ref"] as? String else { return value }
        return try #require(node(reference), "\(reference)")
    }

    /// What a reference such as `#/components/schemas/Name` stands for.
    private func node(_ reference: String) -> [String: Any]? {
        reference.split(separator: "/").dropFirst().reduce(Optional(document)) { node, part in
            node?[String(part)] as? [String: Any]
        }
    }
}
