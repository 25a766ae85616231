import CURing
import Glibc

/// A thread that nobody joins.
public enum DetachedThread {
    /// Starts a thread that runs the body and ends. Its name is cut to 15 bytes.
    public static func start(
        name: String, _ body: @escaping @Sendable () -> Void
    ) throws(ReactorError) {
        let box = unsafe Unmanaged.passRetained(Body(name: name, body: body))
        var thread = pthread_t()
        let result = unsafe pthread_create(
            &thread, nil,
            { argument in
                guard let argument = unsafe argument else { return nil }
                let body = unsafe Unmanaged<Body>.fromOpaque(argument).takeRetainedValue()
                unsafe sluice_name_thread(body.name)
                body.body()
                return nil
            }, unsafe box.toOpaque())
        if result != 0 {
            unsafe box.release()
            throw .system(call: "pthread_create", errno: result)
        }
        pthread_detach(thread)
    }

    private final class Body: Sendable {
        let name: String
        let body: @Sendable () -> Void
        init(name: String, body: @escaping @Sendable () -> Void) {
            self.name = name
            self.body = body
        }
    }
}
