import Glibc

// SAFETY: `thread` is written by start and read by join, both of the test's thread.
/// Closes a volume from another thread while requests run.
@safe
final class Closer: @unchecked Sendable {
    private let rig: DriverRig
    private let index: UInt32
    private var thread = pthread_t()

    init(rig: DriverRig, index: UInt32) {
        self.rig = rig
        self.index = index
    }

    func start() {
        let box = unsafe Unmanaged.passRetained(self).toOpaque()
        let result = unsafe pthread_create(
            &thread, nil,
            { argument in
                guard let argument = unsafe argument else { return nil }
                let closer = unsafe Unmanaged<Closer>.fromOpaque(argument).takeRetainedValue()
                try? closer.rig.close(closer.index)
                return nil
            }, box)
        precondition(result == 0, "no thread")
    }

    func join() { pthread_join(thread, nil) }
}
