import Core

/// Since when a session has had no connection.
public enum LostConnection: Sendable, Hashable {
    /// Unix seconds.
    case since(UInt64)
    /// Before the server started, at these Unix seconds; when is not on record.
    case beforeStart(UInt64)

    init(_ moment: Moment, isOfEarlierServer: Bool) {
        self = isOfEarlierServer ? .beforeStart(moment.wall) : .since(moment.wall)
    }
}

extension LostConnection: CustomStringConvertible {
    /// What follows "since" in a sentence.
    public var description: String {
        switch self {
        case .since(let time): Timestamp.text(time)
        case .beforeStart(let time): "before the server's start at \(Timestamp.text(time))"
        }
    }
}
