import ControlPlane
import Foundation
import Logging
import Reactor
import Testing

@testable import sluiced

@Suite final class BundledServerTests {
    private let folder = DataFolder(NSTemporaryDirectory() + "sluice-bundle-" + UUID().uuidString)

    deinit { try? FileManager.default.removeItem(atPath: folder.path) }

    /// What the bundle says after a server has noted that it listens at a port.
    private func noted(_ port: UInt16) throws -> String? {
        BundledServer.note(
            [try SocketAddress(text: "127.0.0.1:\(port)")], addresses: ["192.0.2.1"], in: folder,
            Logger(label: "test"))
        return try? String(contentsOfFile: folder.adminFolder + "/config.json", encoding: .utf8)
    }

    private func makeBundle() throws {
        let admin = folder.adminFolder
        try FileManager.default.createDirectory(
            atPath: admin, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
        try "a certificate".write(toFile: admin + "/cert.pem", atomically: false, encoding: .utf8)
    }

    @Test func whatTheServerHasNotedFollowsItsPort() throws {
        try makeBundle()
        #expect(try noted(7480) == nil, "clients look there by themselves")
        for port: UInt16 in [7490, 7490, 7480, 7491] {
            #expect(try noted(port)?.contains(#""server":"https://localhost:\#(port)""#) == true)
        }
    }

    /// Such as the near end of a tunnel.
    @Test(arguments: [
        #"{"server":"https://localhost:9000"}"#, #"{"server":"https://192.0.2.1:9000"}"#,
        #"{"server":"https://io.example:7480"}"#, #"{"node":"n1","server":"https://localhost:7490"}"#,
        #"{"noted":"https://localhost:7490","server":"https://localhost:9000"}"#,
        #"{"noted":"https://localhost:7490"}"#, "{}", "not JSON",
    ])
    func whatAnAdministratorHasWrittenStays(_ written: String) throws {
        try makeBundle()
        _ = try noted(7490)
        try written.write(
            toFile: folder.adminFolder + "/config.json", atomically: false, encoding: .utf8)
        #expect(try noted(7491) == written)
        #expect(try noted(7480) == written)
    }

    @Test func aDataFolderWithoutABundleGetsNone() throws {
        #expect(try noted(7490) == nil)
    }
}
