import ControlPlane
import Foundation
import Logging
import Reactor

/// Notes in the administrator's bundle of a data folder where the control API is, for commands on this machine: without
/// that they look for it at its usual port.
enum BundledServer {
    /// What the file has.
    private struct Place: Codable, Equatable {
        /// Where `sluice` looks for the server.
        var server: String?
        /// What the server has written there: whoever changes `server` need not know of it.
        var noted: String?

        static let members: Set = ["server", "noted"]
    }

    private static let usual = "https://localhost:7480"

    /// Notes where a server with these addresses in its certificate listens. What somebody else has written there stays,
    /// such as the near end of a tunnel, and a bundle that cannot be written stays as it is, which the log says.
    static func note(
        _ bound: [SocketAddress], addresses: [String], in folder: DataFolder, _ logger: Logger
    ) {
        let path = "\(folder.adminFolder)/config.json"
        guard PrivateFiles.exists("\(folder.adminFolder)/cert.pem"),
            let server = bound.compactMap({ url($0, addresses) }).first
        else { return }
        if PrivateFiles.exists(path) {
            guard let noted = noted(path), noted != server else { return }
        } else if server == usual {
            return
        }
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        do {
            let place = Place(server: server, noted: server)
            try PrivateFiles.write(Array(try encoder.encode(place)) + [0x0A], to: path)
        } catch {
            logger.warning(
                "the administrator's bundle does not say where the server listens: name it with --server",
                metadata: ["file": "\(path)", "server": "\(server)", "reason": "\(error)"])
        }
    }

    /// How this machine asks for a listening address by what the certificate has; nil where it cannot.
    private static func url(_ address: SocketAddress, _ addresses: [String]) -> String? {
        if ["::", "0.0.0.0", "::1", "127.0.0.1"].contains(address.host) {
            return "https://localhost:\(address.port)"
        }
        return addresses.contains(address.host) ? "https://\(address)" : nil
    }

    /// What the file says, if the server wrote all of it.
    private static func noted(_ path: String) -> String? {
        guard let bytes = try? PrivateFiles.read(path),
            let members = try? JSONDecoder().decode([String: String].self, from: Data(bytes)),
            Place.members.isSuperset(of: members.keys), members["noted"] == members["server"]
        else { return nil }
        return members["noted"]
    }
}
