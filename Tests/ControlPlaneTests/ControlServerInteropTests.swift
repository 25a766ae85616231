import Foundation
import HTTPTypes
import TestSupport
import Testing

@testable import ControlPlane

/// Clients that others wrote. A client that is not installed is passed over.
@Suite(.serialized, .blocking) struct ControlServerInteropTests {
    @Test func curlSpeaksHTTP2ByItself() async throws {
        let test = try ServerUnderTest(echo)
        if let curl = try test.run(
            "curl",
            ["-sS", "-i", "--cacert", test.folder + "/ca.pem", "-d", "hello", test.url + "/v1/volumes"])
        {
            #expect(curl.output.hasPrefix("HTTP/2 200"), "\(curl.output)")
            #expect(curl.output.contains("POST v1|volumes none 5"), "\(curl.output)")
        }
        await test.server.stop()
    }

    @Test func curlUploadsAndDownloads() async throws {
        let test = try ServerUnderTest { request in ControlResponse(status: .ok, body: request.body) }
        let file = test.folder + "/body"
        try Data((0..<60_000).map { UInt8(truncatingIfNeeded: $0) }).write(to: URL(fileURLWithPath: file))
        let arguments = [
            "-sS", "--http2-prior-knowledge", "--cacert", test.folder + "/ca.pem", "--data-binary",
            "@" + file, "-o",
            file + ".back", test.url + "/",
        ]
        if let curl = try test.run("curl", arguments) {
            #expect(curl.status == 0, "\(curl.output)")
            #expect(FileManager.default.contentsEqual(atPath: file, andPath: file + ".back"))
        }
        await test.server.stop()
    }

    @Test func curlWithoutHTTP2GetsAReadableRefusal() async throws {
        let test = try ServerUnderTest(echo)
        if let curl = try test.run(
            "curl", ["-sS", "-i", "--http1.1", "--cacert", test.folder + "/ca.pem", test.url + "/v1/volumes"])
        {
            #expect(curl.status == 0, "\(curl.output)")
            #expect(curl.output.hasPrefix("HTTP/1.1 505"), "\(curl.output)")
            #expect(curl.output.contains("--http2"), "\(curl.output)")
        }
        await test.server.stop()
    }

    @Test func nghttpGetsItsAnswer() async throws {
        let test = try ServerUnderTest(echo)
        if let nghttp = try test.run("nghttp", ["--no-verify-peer", "-v", test.url + "/livez"]) {
            #expect(nghttp.output.contains(":status: 200"), "\(nghttp.output)")
            #expect(nghttp.output.contains("GET livez none 0"), "\(nghttp.output)")
        }
        await test.server.stop()
    }

    @Test func h2loadSeesNoFailure() async throws {
        let test = try ServerUnderTest(echo)
        if let h2load = try test.run("h2load", ["-n", "2000", "-c", "8", "-m", "10", test.url + "/livez"]) {
            #expect(h2load.output.contains("2000 succeeded, 0 failed, 0 errored"), "\(h2load.output)")
        }
        await test.server.stop()
    }
}
