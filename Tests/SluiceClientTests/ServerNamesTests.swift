import Core
import Reactor
import TLS
import Testing

@testable import SluiceClient

/// Where a server may send its clients.
@Suite struct ServerNamesTests {
    private func names(connected: String) throws -> ServerNames {
        let authority = try CertificateAuthority.create(commonName: "a", validDays: 1)
        let certificate = try authority.issueServer(
            key: .generateP256(), names: ["io1.example", "localhost"],
            addresses: ["127.0.0.1", "::1", "192.0.2.7", "2001:db8::7"], days: 1)
        return ServerNames(certificate: certificate, connected: try SocketAddress(text: connected))
    }

    private func covers(_ names: ServerNames, _ place: String) throws -> Bool {
        names.cover(try SocketAddress(text: place))
    }

    @Test func aPlaceIsTheServersWhereItsCertificateNamesItOrTheConnectionGoes() throws {
        let names = try names(connected: "198.51.100.1:7481")
        for place in ["192.0.2.7:1", "[2001:db8::7]:7481", "198.51.100.1:99", "[::ffff:192.0.2.7]:5"] {
            #expect(try covers(names, place), "\(place)")
        }
        for place in ["192.0.2.8:7481", "[2001:db8::8]:7481", "10.0.0.1:22", "192.0.2.7:0"] {
            #expect(try !covers(names, place), "\(place)")
        }
        #expect(names.cover(placeText: "IO1.example:7481") && !names.cover(placeText: "io2.example:7481"))
        #expect(!names.cover(placeText: "io1.example") && !names.cover(placeText: ""))
        #expect(!(try covers(names, "unix:/run/some.sock")))
    }

    @Test func thisMachineIsTheServersOnlyWhereTheConnectionIsToThisMachine() throws {
        let remote = try names(connected: "192.0.2.7:7481")
        let local = try names(connected: "127.0.0.1:7481")
        for place in ["127.0.0.1:22", "[::1]:22", "[::ffff:127.0.0.1]:22"] {
            #expect(try !covers(remote, place), "\(place)")
            #expect(try covers(local, place), "\(place)")
        }
        for place in ["0.0.0.0:22", "127.0.0.2:22", "[::]:22"] {
            #expect(try !covers(remote, place), "\(place)")
            #expect(try !covers(local, place), "\(place)")
        }
        // A name of the certificate, such as localhost, that resolves to this machine.
        #expect(!remote.mayHave(try SocketAddress(text: "127.0.0.1:22")))
        #expect(local.mayHave(try SocketAddress(text: "127.0.0.1:22")))
        #expect(remote.mayHave(try SocketAddress(text: "203.0.113.9:22")))
    }
}
