import CURing
import Glibc

/// A thread that nobody joins.
public enum DetachedThread {
    /// Starts a thread that runs the body and ends.
    ///
    /// - Parameters:
    ///   - name: what tools show; cut to 15 bytes.
    ///   - stackBytes: its stack; the process's default if nil.
    /// - Throws: `system` when the kernel or a limit (RLIMIT_NPROC, memory) gives no thread: whoever serves others says
    ///   so and goes on.
    public static func start(
        name: String, stackBytes: Int? = nil, _ body: @escaping @Sendable () -> Void
    ) throws(ReactorError) {
        pthread_detach(
            try SystemThread.start(stackBytes: stackBytes) {
                unsafe sluice_name_thread(name)
                body()
            })
    }
}

/// The one place that makes threads.
enum SystemThread {
    /// What the new thread runs; not `Sendable`, since it is handed over once.
    private final class Body {
        let run: () -> Void
        init(_ run: @escaping () -> Void) { self.run = run }
    }

    /// Starts a thread, which is to be joined or detached by the caller.
    static func start(stackBytes: Int? = nil, _ body: @escaping () -> Void) throws(ReactorError) -> pthread_t
    {
        var attributes = pthread_attr_t()
        unsafe pthread_attr_init(&attributes)
        defer { unsafe pthread_attr_destroy(&attributes) }
        if let stackBytes { unsafe pthread_attr_setstacksize(&attributes, stackBytes) }
        var thread = pthread_t()
        let box = unsafe Unmanaged.passRetained(Body(body))
        let result = unsafe pthread_create(
            &thread, &attributes,
            { argument in
                guard let argument = unsafe argument else { return nil }
                unsafe Unmanaged<Body>.fromOpaque(argument).takeRetainedValue().run()
                return nil
            }, unsafe box.toOpaque())
        guard result == 0 else {
            unsafe box.release()
            throw .system(call: "pthread_create", errno: result)
        }
        return thread
    }
}
