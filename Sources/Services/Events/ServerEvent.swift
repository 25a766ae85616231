import DriverKit

/// Something that happened on the server and that an administrator may want to hear of.
public struct ServerEvent: Sendable, Hashable {
    /// What happened.
    public struct Kind: RawRepresentable, Sendable, CaseIterable, Hashable {
        /// The name, such as `pool.full`.
        public let rawValue: String

        init(_ rawValue: String) { self.rawValue = rawValue }

        /// The kind with this name; nil when there is none.
        public init?(rawValue: String) {
            guard let kind = Kind.allCases.first(where: { $0.rawValue == rawValue }) else { return nil }
            self = kind
        }

        /// All of them.
        public static let allCases = ofServer + ofResources

        /// Those that are of no kind of resource that nodes use.
        private static let ofServer: [Kind] = [
            .driverStarting, .driverRunning, .driverRecovering, .driverUpgrading, .driverQuarantined,
            .driverStopped, .capabilityRevoked, .poolNearFull, .poolFull, .poolHasSpace, .poolFailed,
            .poolWorks, .poolCreated, .poolDeleted, .poolForgotten, .poolNotStarted, .nodeRemoved,
            .serverStarted, .serverCrashed, .serverStopped, .reactorStands, .reactorGoesOn, .serverEnded,
            .requestRefused, .certificateRenewed, .certificateExpiring, .certificateExpired, .adminAdded,
            .adminRenewed, .adminRevoked, .sessionStarted, .sessionLost, .sessionDisconnected,
            .sessionResumed, .sessionEnded, .logLosing, .logRecovered,
        ]

        /// A pool's first driver host is being started.
        public static let driverStarting = Kind("driver.starting")
        /// A pool's driver host serves.
        public static let driverRunning = Kind("driver.running")
        /// A pool's driver host was lost; the next one is being started.
        public static let driverRecovering = Kind("driver.recovering")
        /// A newer driver host takes over.
        public static let driverUpgrading = Kind("driver.upgrading")
        /// Too many driver hosts were lost.
        public static let driverQuarantined = Kind("driver.quarantined")
        /// A pool's driver host was ended for good.
        public static let driverStopped = Kind("driver.stopped")
        /// A capability was revoked.
        public static let capabilityRevoked = Kind("capability.revoked")
        /// A pool has little space left for what was promised of it.
        public static let poolNearFull = Kind("pool.near-full")
        /// A pool has no space left: writes that want some wait or fail.
        public static let poolFull = Kind("pool.full")
        /// A pool has space again.
        public static let poolHasSpace = Kind("pool.has-space")
        /// A pool's device is gone or cannot be asked.
        public static let poolFailed = Kind("pool.failed")
        /// A pool's device answers again.
        public static let poolWorks = Kind("pool.works")
        /// There is another pool.
        public static let poolCreated = Kind("pool.created")
        /// A pool was deleted.
        public static let poolDeleted = Kind("pool.deleted")
        /// A pool was deleted while it did not run: what lies in its folder or on its device stays there.
        public static let poolForgotten = Kind("pool.forgotten")
        /// A pool did not start with the server.
        public static let poolNotStarted = Kind("pool.not-started")
        /// A node was removed, and its access with it.
        public static let nodeRemoved = Kind("node.removed")
        /// The server takes requests.
        public static let serverStarted = Kind("server.started")
        /// The server's run before this one did not end in order: it crashed, was killed, or the machine went down.
        public static let serverCrashed = Kind("server.crashed")
        /// The server ends in order.
        public static let serverStopped = Kind("server.stopped")
        /// A reactor does not turn: the requests of all its channels, or the control API, wait.
        public static let reactorStands = Kind("reactor.stands")
        /// A reactor that stood turns again.
        public static let reactorGoesOn = Kind("reactor.goes-on")
        /// The server before this one was ended by its watchdog, because a reactor stood.
        public static let serverEnded = Kind("server.ended")
        /// A request is answered as failed, because the server stood at it before.
        public static let requestRefused = Kind("request.refused")
        /// The server renewed a certificate of its own.
        public static let certificateRenewed = Kind("certificate.renewed")
        /// A certificate is near its end and was not renewed, or cannot be kept.
        public static let certificateExpiring = Kind("certificate.expiring")
        /// A certificate has ended.
        public static let certificateExpired = Kind("certificate.expired")
        /// There is another administrator.
        public static let adminAdded = Kind("admin.added")
        /// An administrator has a new certificate.
        public static let adminRenewed = Kind("admin.renewed")
        /// An administrator's certificates no longer count.
        public static let adminRevoked = Kind("admin.revoked")
        /// A client began a session on the data channel.
        public static let sessionStarted = Kind("session.started")
        /// A session has lost its last connection, and is kept for a while.
        public static let sessionLost = Kind("session.lost")
        /// Somebody has ended the connections of a session, whose client may go on with it.
        public static let sessionDisconnected = Kind("session.disconnected")
        /// A session that was lost has a connection again.
        public static let sessionResumed = Kind("session.resumed")
        /// A session is gone.
        public static let sessionEnded = Kind("session.ended")
        /// Log lines are being lost: whoever reads the log does not, or its disk is full.
        public static let logLosing = Kind("log.losing")
        /// Log lines are written again.
        public static let logRecovered = Kind("log.recovered")

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
