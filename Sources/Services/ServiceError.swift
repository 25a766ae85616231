import Core

/// Why a service action was refused or failed.
public struct ServiceError: Error, Sendable, Hashable, CustomStringConvertible {
    /// The status that tells kinds of failure apart.
    public let status: Status
    /// One sentence for a person, with the fix where there is one.
    public let message: String

    /// An error.
    public init(_ status: Status, _ message: String) {
        self.status = status
        self.message = message
    }

    /// The status' name and the message.
    public var description: String { "\(status.name): \(message)" }
}
