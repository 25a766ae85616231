import Core
import DriverKit
import Glibc
import Reactor
import Synchronization

/// A reactor that was made before the sandbox was entered, and has no thread yet.
struct PreparedReactor {
    let reactor: Reactor

    /// - Parameter held: what the ring keeps open until nothing of it is left.
    init(number: Int, held: [Int32]) throws(ReactorError) {
        var options = Reactor.Options()
        options.name = "driver-\(number)"
        options.entries = 1024
        options.receiveBufferCount = 1
        options.receiveBufferBytes = 4096
        options.isRestricted = true
        reactor = try Reactor(options)
        try reactor.hold(fds: held)
    }
}

/// One thread of a driver host, which serves one queue.
final class HostReactor: Sendable {
    /// What lives on the thread.
    private final class Side {
        var reactor: Reactor?
        var queue: HostQueue?
    }

    private struct Confined: @unchecked Sendable {
        // SAFETY: touched only by work posted to the reactor's thread.
        let side = Side()
    }

    private let thread: ReactorThread
    private let confined: Confined

    init(_ prepared: PreparedReactor) throws(ReactorError) {
        let confined = Confined()
        self.confined = confined
        thread = try prepared.reactor.launch { reactor in
            confined.side.reactor = reactor
        }
    }

    /// Starts to serve a lane; returns when it does.
    func serve(
        driver: any Driver, arena: Arena, lane: Lane, bell: consuming Doorbell, serverBell: consuming Doorbell
    ) throws(StatusError) {
        let parts = HostQueue.Parts(
            driver: driver, arena: arena, lane: lane, bell: bell, serverBell: serverBell)
        let failure = Mutex<StatusError?>(nil)
        onThread { side in
            guard let reactor = side.reactor, side.queue == nil else {
                failure.withLock { $0 = StatusError(.badRequest, "the queue is served already") }
                return
            }
            do throws(StatusError) { side.queue = try HostQueue(parts, reactor: reactor) } catch {
                failure.withLock { $0 = error }
            }
        }
        if let error = failure.withLock({ $0 }) { throw error }
    }

    /// Tells the queue that volumes were opened, resized or closed; returns when it knows.
    func volumesChanged(_ indices: [UInt32]) {
        onThread { side in
            for index in indices { side.queue?.volumeChanged(index) }
        }
    }

    private func onThread(_ body: @escaping @Sendable (Side) -> Void) {
        let done = ThreadSemaphore()
        let confined = confined
        thread.remote.post {
            body(confined.side)
            done.signal()
        }
        done.wait()
    }
}
