import Foundation
import Glibc
import Reactor

/// What systemd, or another that starts services, is told (sd_notify(3)) and hands over (sd_listen_fds(3)). Nothing
/// happens where nobody asked.
enum ServiceManager {
    /// The names of sockets that can be handed over.
    static let controlSocket = "control"
    static let dataSocket = "data"

    /// The sockets that were handed over; once, since they are this process's from then on.
    static func sockets() throws -> InheritedSockets {
        let sockets = try InheritedSockets(
            environment: ProcessInfo.processInfo.environment, process: getpid(),
            names: [controlSocket, dataSocket])
        for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] { unsafe unsetenv(name) }
        return sockets
    }

    /// The server serves.
    static func tellReady() { tell("READY=1") }

    /// The server ends: clients wait, drivers finish what they have.
    static func tellStopping() { tell("STOPPING=1") }

    private static func tell(_ state: String) {
        guard let path = ProcessInfo.processInfo.environment["NOTIFY_SOCKET"], path.hasPrefix("/"),
            let address = try? SocketAddress(text: "unix:\(path)")
        else { return }
        // Nobody can be told that nobody could be told.
        try? Sockets.send(Array(state.utf8), toDatagram: address)
    }
}
