import Core
import Synchronization
import Wire

/// What the users of a volume wait for, as far as the server or the connection says so. Any thread.
public final class VolumeObstacle: Sendable {
    private struct State {
        var driver: String?
        var connection: String?
    }

    private let state = Mutex(State())

    /// Nothing is in the way.
    public init() {}

    /// One sentence without a full stop; nil where nothing is known to be in the way. What is wrong with the connection
    /// goes first: without it nothing else is heard.
    public var words: String? { state.withLock { $0.connection ?? $0.driver } }

    /// The server said something; what is not about the volume's driver changes nothing.
    public func heard(_ event: ChannelEvent) {
        switch event {
        case .driverRecovering, .driverQuarantined: state.withLock { $0.driver = event.driverIsAway }
        case .resized, .revoked, .expiring, .draining: break
        }
    }

    /// The session goes on with a connection, which tells anew what the driver is at.
    public func resumed() { state.withLock { $0 = State() } }

    /// A connection is lost, or answers nothing; nil when all work again.
    public func connectionIs(away words: String?) { state.withLock { $0.connection = words } }
}

/// Who notes what a volume's client says of what keeps the server from answering.
protocol ObstacleWatcher: VolumeClientDelegate {
    /// Where it is noted.
    var obstacle: VolumeObstacle { get }
}

extension ObstacleWatcher {
    func volumeEvent(_ volume: VolumeClient, _ event: ChannelEvent) { obstacle.heard(event) }

    func volumeInterrupted(_ volume: VolumeClient, _ reason: ChannelError) {
        obstacle.connectionIs(away: reason.description)
    }

    func volumeIsUnanswered(_ volume: VolumeClient, forNanoseconds silence: UInt64) {
        obstacle.connectionIs(away: "the server takes what is sent and answers nothing")
    }

    func volumeIsAnswered(_ volume: VolumeClient) { obstacle.connectionIs(away: nil) }

    func volumeResumed(_ volume: VolumeClient, afterNanoseconds pause: UInt64, repeated: Int) {
        obstacle.resumed()
    }
}

extension ChannelEvent {
    /// What is wrong with the volume's driver and who ends that, in words; nil where nothing is, or the event is about
    /// something else.
    public var driverIsAway: String? {
        switch self {
        case .driverRecovering(_, true): "the volume's driver is being restarted"
        case .driverQuarantined(_, let reason):
            "the volume's pool is quarantined (\(reason)), until an administrator restarts it: "
                + "sluice pool restart"
        case .driverRecovering, .resized, .revoked, .expiring, .draining: nil
        }
    }
}

/// When to say what is waited for: after two seconds in which nothing has come, and each reason once.
struct WaitingVoice {
    /// From when on silence is worth a word, in nanoseconds.
    static let silentNanoseconds: UInt64 = 2_000_000_000

    private var progress: UInt64 = 0
    private var since: UInt64
    private var said: String?

    /// Nothing has come yet; `now` is the monotonic time in nanoseconds.
    init(now: UInt64) { since = now }

    /// What is to be said now; nil for nothing.
    ///
    /// - Parameter progress: any number that changes when something comes.
    mutating func look(progress: UInt64, _ words: String, now: UInt64) -> String? {
        if progress != self.progress { (self.progress, since, said) = (progress, now, nil) }
        guard now.subtractingSaturated(since) >= Self.silentNanoseconds, words != said else { return nil }
        said = words
        return words
    }
}
