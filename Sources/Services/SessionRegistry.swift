import Core

/// The sessions of a server: who they are and which channels they have.
///
/// A session lives from its first HELLO until its last channel is gone. A further channel must know the secret
/// and present the same TLS key.
struct SessionRegistry {
    /// One client's session.
    struct Session {
        let id: Identifier
        let secret: SecretBytes
        let thumbprint: Digest32
        let clientName: String
        let peerAddress: String
        let since: UInt64
        /// The node whose capability was accepted first.
        var node: Identifier?
        /// The numbers of the channels that are connected.
        var channels: Set<UInt16> = []
        /// Set when the session was told to go: nobody may join any more.
        var isEnding = false
    }

    private(set) var sessions: [Identifier: Session] = [:]
    private let capacity: Int

    init(capacity: Int = Limits.sessionsMax) {
        self.capacity = capacity
    }

    /// Starts a session with its first channel, number 0.
    mutating func create(_ session: Session) -> Status {
        guard sessions.count < capacity else { return .busy }
        guard sessions[session.id] == nil else { return .internalError }
        sessions[session.id] = session
        sessions[session.id]?.channels = [0]
        return .ok
    }

    /// Adds a channel to a session and returns its number, the lowest that is free.
    mutating func join(_ id: Identifier, secret: [UInt8], thumbprint: Digest32) -> Result<UInt16, Refusal> {
        guard let session = sessions[id], !session.isEnding else {
            return .failure(Refusal(.notFound, "there is no such session: start a new one"))
        }
        guard session.secret.equals(secret), session.thumbprint == thumbprint else {
            return .failure(Refusal(.denied, "the session has another secret, or another key began it"))
        }
        guard session.channels.count < Limits.channelsPerSessionMax,
            let number = (0..<UInt16(Limits.channelsPerSessionMax)).first(where: {
                !session.channels.contains($0)
            })
        else {
            return .failure(
                Refusal(
                    .tooManyChannels, "a session has at most \(Limits.channelsPerSessionMax) channels"))
        }
        sessions[id]?.channels.insert(number)
        return .success(number)
    }

    /// Removes a channel; true when it was the session's last, which ends the session.
    mutating func leave(_ id: Identifier, channel: UInt16) -> Bool {
        guard sessions[id]?.channels.remove(channel) != nil, sessions[id]?.channels.isEmpty == true
        else { return false }
        sessions[id] = nil
        return true
    }

    /// Notes whose capability the session uses; the first stays.
    mutating func bind(_ id: Identifier, node: Identifier) {
        if sessions[id]?.node == nil { sessions[id]?.node = node }
    }

    /// Lets nobody join `id` any more; false when there is no such session.
    mutating func end(_ id: Identifier) -> Bool {
        guard sessions[id] != nil else { return false }
        sessions[id]?.isEnding = true
        return true
    }
}

/// Why a client's control request was refused: the status and one sentence for it.
struct Refusal: Error, Hashable {
    let status: Status
    let message: String

    init(_ status: Status, _ message: String) {
        self.status = status
        self.message = message
    }
}
