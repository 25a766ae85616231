import Core
import Foundation
import HTTPTypes
import Reactor
import SluiceClient
import TLS
import TestSupport
import Testing

@testable import ControlPlane

@Suite(.serialized, .blocking) struct ControlServerTests {
    @Test func aRequestReachesTheHandlerAndItsAnswerTheClient() async throws {
        let test = try ServerUnderTest(echo)
        let client = try test.client()
        let first = try client.request(
            .post, "/v1/volumes/a%20b", query: [("limit", "2")], body: [UInt8](repeating: 0, count: 5))
        #expect(String(decoding: first.body, as: UTF8.self) == "POST v1|volumes|a b admin 5\n")
        #expect(first.headers[.contentType] == "text/plain")
        let second = try client.request(.get, "/livez")
        #expect(String(decoding: second.body, as: UTF8.self) == "GET livez admin 0\n")
        await test.server.stop()
    }

    @Test func aClientWithoutACertificateIsAnonymous() async throws {
        let test = try ServerUnderTest(echo)
        let answer = try test.client(role: nil).request(.get, "/livez")
        #expect(String(decoding: answer.body, as: UTF8.self) == "GET livez none 0\n")
        await test.server.stop()
    }

    @Test func aClientOfAnotherAuthorityIsRefused() async throws {
        let test = try ServerUnderTest(echo)
        let stranger = try ServerUnderTest(echo)
        let client = try ControlClient(
            server: ServerAddress(text: test.url), identity: stranger.identity(role: "admin", name: "x"),
            trust: .authority(caPEM: test.authority.certificate.pem))
        #expect {
            try client.request(.get, "/livez")
        } throws: { error in
            (error as? ClientError)?.code == "CERTIFICATE_REFUSED"
        }
        await test.server.stop()
        await stranger.server.stop()
    }

    @Test func aLargeAnswerArrivesWhole() async throws {
        let body = (0..<3_000_000).map { UInt8(truncatingIfNeeded: $0 &* 17) }
        let test = try ServerUnderTest { _ in ControlResponse(status: .ok, body: body) }
        #expect(try test.client().request(.get, "/").body == body)
        await test.server.stop()
    }

    @Test func manyRequestsOnManyConnectionsAreAllAnswered() async throws {
        let test = try ServerUnderTest(echo)
        try await withThrowingTaskGroup(of: Int.self) { group in
            for _ in 0..<8 {
                group.addTask {
                    try await offPool {
                        let client = try test.client()
                        return try (0..<50).count { index in
                            try client.request(.get, "/v1/volumes/v\(index)").status == 200
                        }
                    }
                }
            }
            for try await answered in group { #expect(answered == 50) }
        }
        await test.server.stop()
    }

    @Test(arguments: ["/%zz", "/a%00b", "/%ff%fe", "/a#b"])
    func aPathThatCannotBeDecodedIsRefused(path: String) async throws {
        let test = try ServerUnderTest(echo)
        let client = try test.client()
        #expect {
            try client.request(.get, path)
        } throws: { error in
            (error as? ClientError)?.status == 400 && (error as? ClientError)?.code == "INVALID_REQUEST"
        }
        await test.server.stop()
    }

    @Test func anOversizeBodyGetsAProblem() async throws {
        let test = try ServerUnderTest(echo)
        let client = try test.client()
        #expect {
            try client.request(.post, "/", body: [UInt8](repeating: 1, count: 2_000_000))
        } throws: { error in
            (error as? ClientError)?.status == 413
        }
        #expect(try client.request(.get, "/").status == 200)
        await test.server.stop()
    }

    @Test func anOversizeHeadGetsAProblem() async throws {
        let test = try ServerUnderTest(echo)
        let client = try test.client()
        #expect {
            try client.request(.get, "/", headers: [.cookie: String(repeating: "x", count: 20_000)])
        } throws: { error in
            (error as? ClientError)?.status == 431
        }
        await test.server.stop()
    }

    @Test func aStreamingAnswerIsWrittenPieceByPieceWithBoundedMemory() async throws {
        let test = try ServerUnderTest { _ in
            ControlResponse(status: .ok, headers: [.contentType: "text/event-stream"]) { writer in
                for index in 0..<200 {
                    let piece = [UInt8](repeating: UInt8(index), count: 10_000)
                    guard await writer.write(piece) else { return }
                }
            }
        }
        let answer = try test.client().request(.get, "/v1/events")
        #expect(answer.body.count == 2_000_000)
        #expect(answer.body.last == 199)
        await test.server.stop()
    }

    @Test func theHandlerIsCancelledWhenItsClientGoesAway() async throws {
        let started = Signal()
        let cancelled = Signal()
        let test = try ServerUnderTest { _ in
            await started.raise()
            await withTaskCancellationHandler {
                await cancelled.wait()
            } onCancel: {
                Task { await cancelled.raise() }
            }
            return ControlResponse(status: .ok)
        }
        guard FileManager.default.isExecutableFile(atPath: "/usr/bin/curl") else { return }
        let curl = try Command(["curl", "-s", "--cacert", test.folder + "/ca.pem", test.url + "/"])
        await started.wait()
        curl.signal(SIGKILL)
        await cancelled.wait()
        curl.wait()
        await test.server.stop()
    }

    @Test func stoppingLetsARequestUnderWayFinish() async throws {
        let started = Signal()
        let goOn = Signal()
        let test = try ServerUnderTest { _ in
            await started.raise()
            await goOn.wait()
            return ControlResponse(status: .ok, body: [1])
        }
        async let answer = offPool { try test.client().request(.get, "/") }
        await started.wait()
        async let stopped: Void = test.server.stop(graceSeconds: 20)
        await goOn.raise()
        #expect(try await answer.body == [1])
        await stopped
    }

    @Test func stoppingDoesNotWaitForeverForAHandler() async throws {
        let started = Signal()
        let goOn = Signal()
        let test = try ServerUnderTest { _ in
            await started.raise()
            await goOn.wait()
            return ControlResponse(status: .ok)
        }
        async let answer = offPool { Result { try test.client().request(.get, "/") } }
        await started.wait()
        await test.server.stop(graceSeconds: 1)
        guard case .failure(let error) = try await answer else {
            Issue.record("an answer came")
            return
        }
        #expect((error as? ClientError)?.code == "CONNECTION_BROKEN")
        await goOn.raise()
    }

    @Test func aSecondServerOnThePortSaysWhatToDo() async throws {
        let test = try ServerUnderTest(echo)
        let second = ControlServer(
            tls: try TLSContext.client(
                identity: nil, trust: .authority(caPEM: test.authority.certificate.pem), alpn: []),
            listen: [test.address], handler: ClosureHandler(respond: echo))
        #expect {
            try second.start()
        } throws: { error in
            "\(error)".contains("is another sluiced running there")
        }
        await test.server.stop()
    }
}
