import Core
import Glibc
import Synchronization
import Testing

extension TestClient {
    /// Whether something arrives, or the connection ends, within this time.
    func hasInput(withinMilliseconds milliseconds: Int32) -> Bool {
        var descriptor = pollfd(fd: fd, events: Int16(POLLIN), revents: 0)
        return unsafe poll(&descriptor, 1, milliseconds) > 0
    }
}

/// Lets this process have as many descriptors as it may.
func raiseDescriptorLimit() throws {
    var limit = rlimit()
    #expect(unsafe getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0)
    limit.rlim_cur = limit.rlim_max
    #expect(unsafe setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0)
    try #require(limit.rlim_cur >= 8192, "the test needs 8,192 descriptors")
}

/// A thread of its own for something that blocks.
final class Thread: Sendable {
    private final class Start: @unchecked Sendable {
        // SAFETY: written before the thread starts and read by it alone, apart from `error`, read after join.
        let body: () throws -> Void
        var error: (any Error)?
        init(_ body: @escaping () throws -> Void) { self.body = body }
    }

    private let start: Start
    private let thread: Mutex<pthread_t>

    init(_ body: @escaping () throws -> Void) {
        let start = Start(body)
        self.start = start
        var thread = pthread_t()
        let argument = unsafe Unmanaged.passRetained(start).toOpaque()
        let result = unsafe pthread_create(
            &thread, nil,
            { argument -> UnsafeMutableRawPointer? in
                guard let argument = unsafe argument else { return nil }
                let start = unsafe Unmanaged<Start>.fromOpaque(argument).takeRetainedValue()
                do { try start.body() } catch { start.error = error }
                return nil
            }, argument)
        precondition(result == 0, "a thread cannot be started")
        self.thread = Mutex(thread)
    }

    func join() throws {
        _ = thread.withLock { pthread_join($0, nil) }
        if let error = start.error { throw error }
    }
}
