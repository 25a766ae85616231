import Foundation
import HTTPTypes
import Testing

@testable import ControlPlane

/// What API/openapi.yaml says of bodies, where a parser could be kinder than the document.
@Suite struct DocumentedBodyTests {
    @Test(arguments: [
        "/v1/volumes/a", "/v1/pools/default", "/v1/nodes/n1", "/v1/grants/g",
    ]) func aChangeWithoutABodyIsRefused(_ path: String) async throws {
        try await withControlPlane { rig async throws in
            _ = try await rig.ask(.post, "/v1/volumes", #"{"name": "a", "size": 1048576}"#)
            _ = try await rig.ask(.post, "/v1/nodes", #"{"name": "n1"}"#)
            _ = try await rig.ask(
                .post, "/v1/grants",
                #"{"name": "g", "node": "n1", "resource": "volume/a", "rights": ["read"]}"#)
            #expect(try await rig.ask(.patch, path, "").code == "INVALID_JSON")
            #expect(try await rig.ask(.patch, path, "{}").status == 200)
        }
    }

    @Test func aListOfRightsHasAsManyItemsAsTheDocumentSays() async throws {
        try await withControlPlane { rig async throws in
            _ = try await rig.ask(.post, "/v1/volumes", #"{"name": "a", "size": 1048576}"#)
            _ = try await rig.ask(.post, "/v1/nodes", #"{"name": "n1"}"#)
            for (count, status) in [(64, 201), (65, 422)] {
                let rights = Array(repeating: #""read""#, count: count).joined(separator: ",")
                let body =
                    #"{"name": "g\#(count)", "node": "n1", "resource": "volume/a", "rights": [\#(rights)]}"#
                #expect(try await rig.ask(.post, "/v1/grants", body).status == status)
            }
        }
    }
}
