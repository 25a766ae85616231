import DriverKit

/// Something that happened on the server and that an administrator may want to hear of.
public struct ServerEvent: Sendable, Hashable {
    /// What happened.
    public enum Kind: String, Sendable, CaseIterable, Hashable {
        /// A pool's first driver host is being started.
        case driverStarting = "driver.starting"
        /// A pool's driver host serves.
        case driverRunning = "driver.running"
        /// A pool's driver host was lost; the next one is being started.
        case driverRecovering = "driver.recovering"
        /// A newer driver host takes over.
        case driverUpgrading = "driver.upgrading"
        /// Too many driver hosts were lost.
        case driverQuarantined = "driver.quarantined"
        /// A pool's driver host was ended for good.
        case driverStopped = "driver.stopped"
        /// A capability was revoked.
        case capabilityRevoked = "capability.revoked"
        /// Everybody who had a volume open was cut off.
        case volumeFenced = "volume.fenced"
        /// A pool has little space left for what was promised of it.
        case poolNearFull = "pool.near-full"
        /// A pool has no space left: writes that want some wait or fail.
        case poolFull = "pool.full"
        /// A pool has space again.
        case poolHasSpace = "pool.has-space"
        /// A pool's device is gone or cannot be asked.
        case poolFailed = "pool.failed"
        /// A pool's device answers again.
        case poolWorks = "pool.works"
        /// There is another volume, which may still have to be prepared.
        case volumeCreated = "volume.created"
        /// A volume was deleted, and what it held with it.
        case volumeDeleted = "volume.deleted"
        /// A volume that was being made can be used.
        case volumeReady = "volume.ready"
        /// A volume that was being made cannot be.
        case volumeFailed = "volume.failed"
        /// A volume is larger.
        case volumeGrown = "volume.grown"
        /// A volume was to be larger and cannot be; it is what it was.
        case volumeNotGrown = "volume.not-grown"
        /// A volume was deleted while its pool did not run: what it held stays on its device.
        case volumeForgotten = "volume.forgotten"
        /// There is another pool.
        case poolCreated = "pool.created"
        /// A pool was deleted.
        case poolDeleted = "pool.deleted"
        /// A pool was deleted while it did not run: what lies in its folder or on its device stays there.
        case poolForgotten = "pool.forgotten"
        /// A pool did not start with the server.
        case poolNotStarted = "pool.not-started"
        /// A node was removed, and its access with it.
        case nodeRemoved = "node.removed"
        /// The server takes requests.
        case serverStarted = "server.started"
        /// The server's run before this one did not end in order: it crashed, was killed, or the machine went down.
        case serverCrashed = "server.crashed"
        /// The server ends in order.
        case serverStopped = "server.stopped"
        /// What a volume held was lost with the server's last run.
        case volumeEmptied = "volume.emptied"
        /// A reactor does not turn: the requests of all its channels, or the control API, wait.
        case reactorStands = "reactor.stands"
        /// A reactor that stood turns again.
        case reactorGoesOn = "reactor.goes-on"
        /// The server before this one was ended by its watchdog, because a reactor stood.
        case serverEnded = "server.ended"
        /// A request is answered as failed, because the server stood at it before.
        case requestRefused = "request.refused"
        /// The server renewed a certificate of its own.
        case certificateRenewed = "certificate.renewed"
        /// A certificate is near its end and was not renewed, or cannot be kept.
        case certificateExpiring = "certificate.expiring"
        /// A certificate has ended.
        case certificateExpired = "certificate.expired"
        /// There is another administrator.
        case adminAdded = "admin.added"
        /// An administrator has a new certificate.
        case adminRenewed = "admin.renewed"
        /// An administrator's certificates no longer count.
        case adminRevoked = "admin.revoked"
        /// A volume's device has failed requests.
        case volumeErrors = "volume.errors"
        /// A client began a session on the data channel.
        case sessionStarted = "session.started"
        /// A session has lost its last connection, and is kept for a while.
        case sessionLost = "session.lost"
        /// Somebody has ended the connections of a session, whose client may go on with it.
        case sessionDisconnected = "session.disconnected"
        /// A session that was lost has a connection again.
        case sessionResumed = "session.resumed"
        /// A session is gone.
        case sessionEnded = "session.ended"
        /// Log lines are being lost: whoever reads the log does not, or its disk is full.
        case logLosing = "log.losing"
        /// Log lines are written again.
        case logRecovered = "log.recovered"

        /// What a driver host came to.
        init(_ state: DriverHostReport.State) {
            self =
                switch state {
                case .starting: .driverStarting
                case .running: .driverRunning
                case .recovering: .driverRecovering
                case .upgrading: .driverUpgrading
                case .quarantined: .driverQuarantined
                case .stopped: .driverStopped
                }
        }
    }

    /// Grows from event to event, also over restarts of the server, as long as its clock does.
    public let id: UInt64
    /// Unix seconds.
    public let at: UInt64
    /// What happened.
    public let kind: Kind
    /// To what, such as `pool/default`.
    public let subject: String
    /// In words for a person; may hold text that a client chose.
    public let message: String
    /// The client that caused it, such as `node:compute-1`; nil where the server or an administrator did.
    public let by: String?

    /// An event.
    public init(id: UInt64, at: UInt64, kind: Kind, subject: String, message: String, by: String? = nil) {
        self.id = id
        self.at = at
        self.kind = kind
        self.subject = subject
        self.message = message
        self.by = by
    }
}
