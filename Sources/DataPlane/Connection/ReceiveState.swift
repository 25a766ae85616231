/// How a connection gets what its peer sends: all of it as it comes, or, metered, piece by piece in its turn.
///
/// A value without I/O: each change returns what is to be asked of the kernel, or of the shard's turns.
struct ReceiveState {
    /// What the kernel has.
    private enum Operation {
        case none
        /// It gives what arrives, again and again.
        case receive
        /// That, until the kernel hears that it is to end.
        case cancelled
    }

    /// What waits for the turn of its session.
    enum Turn {
        case none
        /// To receive a piece.
        case piece
        /// To take up what has arrived already.
        case arrived
    }

    /// What is to be done.
    enum Action: Equatable {
        case nothing
        /// Ask the kernel for all that arrives.
        case receive
        /// Have the kernel end that.
        case cancel
        /// Wait for a turn.
        case waitForTurn
    }

    private var operation = Operation.none
    private(set) var turn = Turn.none
    /// Whether it is received from piece by piece, because it sends much and others are there.
    private(set) var isMetered = false
    /// Whether the kernel is to say when there is something to receive.
    private(set) var isPolled = false

    /// Whether the kernel gives what arrives.
    var isReceiving: Bool {
        switch operation {
        case .none: false
        case .receive, .cancelled: true
        }
    }

    /// Whether what has arrived waits for a turn.
    var isPutOff: Bool { if case .arrived = turn { true } else { false } }

    /// More is wanted of the peer. `mayMeter`: its channel is established; `hasMuch`: it waits for its turn from now on.
    mutating func more(mayMeter: Bool, hasMuch: Bool) -> Action {
        if isReceiving { return .nothing }
        if hasMuch { isMetered = true }
        if isMetered, mayMeter {
            guard case .none = turn, !isPolled else { return .nothing }
            turn = .piece
            return .waitForTurn
        }
        operation = .receive
        return .receive
    }

    /// Others would wait for what it sends.
    mutating func meter() -> Action {
        if isMetered { return .nothing }
        isMetered = true
        return pause()
    }

    /// It sends little, or is alone.
    mutating func unmeter() { isMetered = false }

    /// Nothing more is wanted now.
    mutating func pause() -> Action {
        guard case .receive = operation else { return .nothing }
        operation = .cancelled
        return .cancel
    }

    /// What has arrived has to wait: the wake-up has taken up as many requests as others can be made to wait for.
    mutating func putOff() -> Action {
        let isWaiting = if case .none = turn { false } else { true }
        turn = .arrived
        return isWaiting ? .nothing : .waitForTurn
    }

    /// Its turn has come: for what.
    mutating func takeTurn() -> Turn {
        defer { turn = .none }
        return turn
    }

    /// The kernel is asked to say when there is something.
    mutating func poll() { isPolled = true }

    /// It has said so.
    mutating func polled() { isPolled = false }

    /// The kernel gives nothing more.
    mutating func ended() { operation = .none }
}
