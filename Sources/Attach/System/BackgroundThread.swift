import Reactor

/// Threads for what may block, with small stacks, since all of this process's memory is locked. Nobody waits for them.
enum BackgroundThread {
    /// Starts one.
    ///
    /// - Throws: `system` when there is no thread to be had.
    static func start(_ name: String, _ body: @escaping @Sendable () -> Void) throws(AttachError) {
        do throws(ReactorError) {
            try DetachedThread.start(name: name, stackBytes: AttachLimits.stackBytes, body)
        } catch { throw AttachError(.system, "no thread to work on: \(error)") }
    }
}

/// Runs the body on a thread of its own, or says at once why it cannot.
func inBackground(
    _ name: String, _ body: @escaping @Sendable () -> Void, otherwise failed: (AttachError) -> Void
) {
    do throws(AttachError) { try BackgroundThread.start(name, body) } catch { failed(error) }
}
