import Core
import Reactor
import TLS

/// Where a server may send its clients: to the host of the connection that it says so on, and to addresses and names
/// that its certificate names. Every server's certificate names the loopback addresses; they are this machine, and count
/// only where the connection goes there too.
public struct ServerNames: Sendable {
    private let addresses: [[UInt8]]
    private let names: [String]
    private let host: [UInt8]
    private let isLocal: Bool

    /// What the server at the other end of a connection is known by.
    ///
    /// - Parameter certificate: the one that it has shown and that was found to be right.
    public init(certificate: Certificate?, connected: SocketAddress) {
        addresses = certificate?.addresses ?? []
        names = certificate?.dnsNames.map { $0.lowercased() } ?? []
        host = connected.hostBytes
        isLocal = connected.isThisMachine
    }

    /// Whether the address is one of the server's.
    public func cover(_ place: SocketAddress) -> Bool {
        let bytes = place.hostBytes
        guard mayHave(place), !bytes.isEmpty else { return false }
        return bytes == host || addresses.contains(bytes)
    }

    /// Whether the name of `NAME:PORT` is one of the server's. What it resolves to is asked of `mayHave`.
    public func cover(placeText: String) -> Bool {
        guard let colon = placeText.lastIndex(of: ":") else { return false }
        return cover(name: String(placeText[..<colon]))
    }

    /// Whether the DNS name is one of the server's.
    public func cover(name: String) -> Bool { names.contains(name.lowercased()) }

    /// Whether one of the server's names may have this address.
    public func mayHave(_ place: SocketAddress) -> Bool {
        place.port > 0 && (isLocal || !place.isThisMachine)
    }
}
