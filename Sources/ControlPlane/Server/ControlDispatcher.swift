import Reactor

/// Runs the handler for each request, on the reactor's thread as long as the handler does not go elsewhere.
actor ControlDispatcher {
    private let handler: any ControlHandler
    private let loop: ControlLoop
    private nonisolated let executor: ReactorExecutor

    nonisolated var unownedExecutor: UnownedSerialExecutor { unsafe executor.asUnownedSerialExecutor() }

    init(handler: any ControlHandler, loop: ControlLoop, executor: ReactorExecutor) {
        self.handler = handler
        self.loop = loop
        self.executor = executor
    }

    /// Starts work on a request. On the reactor's thread.
    nonisolated func start(_ request: ControlRequest, id: ControlRequestID) -> Task<Void, Never> {
        assumeIsolated { $0.makeTask(request, id) }
    }

    private func makeTask(_ request: ControlRequest, _ id: ControlRequestID) -> Task<Void, Never> {
        Task { await self.serve(request, id) }
    }

    private func serve(_ request: ControlRequest, _ id: ControlRequestID) async {
        let response = await handler.respond(to: request)
        let isStreaming = loop.answer(id, response)
        if isStreaming, case .stream(let produce) = response.body {
            loop.turnEnded(id)
            await produce(ControlResponseWriter { bytes in await self.write(bytes, id) })
            loop.write([], id, end: true)
        }
        loop.requestCompleted(id)
    }

    private func write(_ bytes: [UInt8], _ id: ControlRequestID) async -> Bool {
        guard !Task.isCancelled, loop.write(bytes, id, end: false) else { return false }
        guard loop.isBacklogged(id) else { return true }
        return await withCheckedContinuation { loop.whenDrained(id, $0) }
    }
}

/// Names one request of one connection, for as long as the server runs.
struct ControlRequestID: Hashable, Sendable {
    var connection: UInt64
    var stream: Int32
}
