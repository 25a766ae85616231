import Core

extension ServiceAction<[SessionInfo]> {
    /// The sessions there are, in order of their start.
    public static var listSessions: Self { Self { await $0.sessions() } }
}

extension ServiceAction<Statistics> {
    /// Counters since the start.
    public static var statistics: Self { Self { await $0.statistics() } }
}

extension ServiceAction<Void> {
    /// Takes in sessions of before a restart of the server, and who wrote to which volume last; once, when volumes are
    /// published and before the first channel comes.
    public static func restoreSessions(
        _ sessions: [SavedSession], writers: [Identifier: VolumeWriter]
    ) -> Self {
        Self { $0.restore(sessions, writers: writers) }
    }

    /// Ends the connections of a session, whose client may go on with it.
    public static func disconnectSession(_ id: Identifier, reason: String) -> Self {
        Self { services throws(StatusError) in try await services.disconnect(id, reason: reason) }
    }

    /// Ends a session for good: what it has under way has ended or never runs, and nothing is kept of it.
    public static func endSession(_ id: Identifier, reason: String) -> Self {
        Self { services throws(StatusError) in try await services.endSession(id, reason: reason) }
    }

    /// Takes no new session, tells all that are there, and with somewhere else to go sends them there in the end; nil
    /// calls it off.
    public static func drain(_ drain: Drain?) -> Self { Self { await $0.set(drain) } }
}
