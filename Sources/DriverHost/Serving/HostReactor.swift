import Core
import DriverKit
import Glibc
import Reactor

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
        var queue: HostQueue?
    }

    private struct Confined: @unchecked Sendable {
        // SAFETY: touched only by work posted to the reactor's thread.
        let side = Side()
    }

    private let thread: ReactorThread
    private let confined: Confined

    init(_ prepared: PreparedReactor) throws(ReactorError) {
        confined = Confined()
        thread = try prepared.reactor.launch { _ in }
    }

    /// Starts to serve a lane; returns when it does.
    func serve(
        driver: any PoolDriver, arena: Arena, lane: Lane, bell: consuming Doorbell,
        serverBell: consuming Doorbell
    ) throws(StatusError) {
        let parts = HostQueue.Parts(
            driver: driver, arena: arena, lane: lane, bell: bell, serverBell: serverBell)
        let served = try onThread { side, reactor -> Result<Void, StatusError> in
            guard side.queue == nil else {
                return .failure(StatusError(.badRequest, "the queue is served already"))
            }
            do throws(StatusError) { side.queue = try HostQueue(parts, reactor: reactor) } catch {
                return .failure(error)
            }
            return .success(())
        }
        try served.get()
    }

    /// Tells the queue that what these indices name was opened, resized or closed; returns when it knows.
    func indicesChanged(_ indices: [UInt32]) throws(StatusError) {
        try onThread { side, _ in
            for index in indices { side.queue?.indexChanged(index) }
        }
    }

    private func onThread<Value: Sendable>(
        _ body: @escaping @Sendable (Side, Reactor) -> Value
    ) throws(StatusError) -> Value {
        let confined = confined
        let answer = thread.remote.call { reactor in body(confined.side, reactor) }
        guard let answer else { throw StatusError(.driverFailed, "the queue's thread has ended") }
        return answer
    }
}
