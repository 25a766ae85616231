import Foundation
import Reactor

/// What systemd, or another that starts services, is told (sd_notify(3)). Nothing happens where nobody asked.
enum ServiceManager {
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
