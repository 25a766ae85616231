import Core

/// Something that the control plane asks of the services, and the type of what answers it.
///
/// The actions there are, in extensions by what they are about, are the services' whole interface for the control plane.
///
/// Actions that take authority away (`revokeCapability`, `removeNode`, `setNode` and `updateVolume` with a new
/// epoch, `fenceVolume`, `endSession`, `deleteVolume`) return when they are in force on every reactor: every
/// further request is refused, and the requests that were in flight have ended or will never run. A driver in a
/// process of its own delays that by five seconds at most, as long as the kernel can end the process.
public struct ServiceAction<Answer: Sendable>: Sendable {
    /// The action's name with its labels, such as `fenceVolume(_:reason:)`, for whoever stands in for the services.
    public let name: String
    fileprivate let body: @Sendable (IOServices) async throws(StatusError) -> Answer

    /// What `body` does.
    init(
        _ name: String = #function,
        _ body: @escaping @Sendable (IOServices) async throws(StatusError) -> Answer
    ) {
        self.name = name
        self.body = body
    }
}

extension IOServices {
    /// Performs an action. Never blocks the calling thread; drivers are called on their pool's thread.
    @discardableResult
    public func perform<Answer: Sendable>(
        _ action: ServiceAction<Answer>
    ) async throws(StatusError) -> Answer {
        try await action.body(self)
    }
}
