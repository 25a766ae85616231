import Core

/// A session of a client on the data channel, as the control API describes it.
struct Session: Presentable {
    /// A resource that the session holds open.
    struct Opened: Codable, Sendable {
        var name: String?
        var resource: String?
        var rights: [String]?
        var capability: String?
    }

    /// A volume that it keeps others from writing to.
    struct Claim: Codable, Sendable {
        var volume: String?
        var since: String?
        var expiresAt: String?
    }

    var id: String
    /// `connected`, `disconnected`: it waits for its client, or `ending`: a driver still has requests of it.
    var state: String?
    var disconnectedSince: String?
    /// The server's start, where it was lost before that.
    var disconnectedBefore: String?
    var writing: [Claim]?
    var node: String?
    var thumbprint: String?
    var client: String?
    var address: String?
    /// The number of its channels.
    var channels: Int?
    var open: [Opened]?
    var since: String?
    var requests: UInt64?
    var bytesRead: UInt64?
    var bytesWritten: UInt64?
    var inFlight: UInt64?

    static let columns = ["ID", "STATE", "NODE", "ADDRESS", "CHANNELS", "OPEN", "READ", "WRITTEN", "SINCE"]

    var row: [String] {
        [
            id, state ?? "", node ?? "", address ?? "", channels.map(String.init) ?? "", openText,
            size(bytesRead),
            size(bytesWritten), since ?? "",
        ]
    }

    var details: [(name: String, value: String)] {
        [
            ("ID", id), ("State", stateText), ("Node", node ?? ""), ("Client", client ?? ""),
            ("Address", address ?? ""),
            ("Key thumbprint", thumbprint ?? ""), ("Channels", channels.map(String.init) ?? ""),
            ("Since", since ?? ""), ("Requests", requests.map(String.init) ?? ""),
            ("Read", size(bytesRead)), ("Written", size(bytesWritten)),
            ("In flight", inFlight.map(String.init) ?? ""),
        ]
            + (writing ?? []).map { claim in
                (
                    name: "Writes to",
                    value:
                        "\(claim.volume ?? ""), since \(claim.since ?? ""), at most until \(claim.expiresAt ?? "")"
                )
            }
            + (open ?? []).map { opened in
                let rights = opened.rights.map { " (\($0.joined(separator: ",")))" } ?? ""
                let capability = opened.capability.map { ", capability \($0)" } ?? ""
                return (name: "Open", value: title(opened) + rights + capability)
            }
    }

    private var stateText: String {
        let since =
            disconnectedSince.map { " since \($0)" }
            ?? disconnectedBefore.map { " since before the server's start at \($0)" }
        return (state ?? "") + (since ?? "")
    }

    private var openText: String { (open ?? []).map(title).joined(separator: ",") }

    private func title(_ opened: Opened) -> String { opened.name ?? opened.resource ?? "" }

    private func size(_ bytes: UInt64?) -> String { bytes.map { ByteCount($0).description } ?? "" }
}
