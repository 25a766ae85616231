/// Runs an actor's jobs on a reactor's thread, between its wake-ups. For the control plane.
///
/// An actor names it with `nonisolated var unownedExecutor: UnownedSerialExecutor`; it must keep the executor
/// alive.
public final class ReactorExecutor: SerialExecutor {
    private let remote: ReactorRemote

    init(remote: ReactorRemote) {
        self.remote = remote
    }

    /// Takes a job from any thread.
    public func enqueue(_ job: consuming ExecutorJob) {
        remote.enqueue(UnownedJob(job), executor: self)
    }

    /// Stops the process when the caller is not on the reactor's thread.
    public func checkIsolated() {
        precondition(remote.isCurrentThread, "not on the reactor's thread")
    }

    /// Whether the caller is on the reactor's thread.
    public func isIsolatingCurrentContext() -> Bool? { remote.isCurrentThread }
}
