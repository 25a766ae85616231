/// Why something was refused or failed: what a frame, a service, a driver and the control plane throw alike, so that a reason goes
/// from where it is found to whoever asked without being written anew.
public struct StatusError: Error, Sendable, Hashable, CustomStringConvertible {
    /// The code that tells kinds of failure apart, in replies of the data channel and in the API.
    public let status: Status
    /// One sentence for a person: what was wrong, and what would be right or what to do where that is known. It holds
    /// nothing secret.
    public let message: String

    /// An error.
    public init(_ status: Status, _ message: String) {
        self.status = status
        self.message = message
    }

    /// The status' name and the message.
    public var description: String { "\(status.name): \(message)" }
}
