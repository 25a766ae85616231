import Glibc
import Testing

@testable import Reactor

/// A target that hands each completion to a closure.
final class Probe: CompletionTarget {
    var onCompletion: (UInt32, Int32, CompletionFlags) -> Void
    var onDeinit: (() -> Void)?

    init(_ onCompletion: @escaping (UInt32, Int32, CompletionFlags) -> Void = { _, _, _ in }) {
        self.onCompletion = onCompletion
    }

    deinit { onDeinit?() }

    func completed(token: UInt32, result: Int32, flags: CompletionFlags) {
        onCompletion(token, result, flags)
    }
}

/// A batch target that hands each call to a closure.
final class BatchProbe: BatchTarget {
    let onBatchEnd: () -> Void

    init(_ onBatchEnd: @escaping () -> Void) { self.onBatchEnd = onBatchEnd }

    func batchEnded() { onBatchEnd() }
}

/// Runs a reactor on this thread until the body's `finish` is called; fails when that takes longer than
/// `seconds`.
func withReactor(
    _ options: Reactor.Options = .small, seconds: UInt64 = 20,
    _ body: (_ reactor: Reactor, _ finish: @escaping () -> Void) throws -> Void
) throws {
    let reactor = try Reactor(options)
    let remote = reactor.remote
    let watchdog = reactor.register(
        Probe { _, _, _ in
            Issue.record("the reactor did not finish in time")
            remote.stop()
        })
    _ = reactor.setTimer(after: seconds * 1_000_000_000, target: watchdog, token: 0)
    try body(reactor) { remote.stop() }
    reactor.run()
}

extension Reactor.Options {
    /// Small enough that tests in parallel stay cheap.
    static var small: Reactor.Options {
        var options = Reactor.Options()
        options.entries = 64
        options.receiveBufferBytes = 4096
        options.receiveBufferCount = 16
        return options
    }
}

// SAFETY: the memory lives as long as the object; tests keep the object until their operations are over.
/// Memory of a test, freed with it.
@safe final class Memory {
    let bytes: UnsafeMutableRawBufferPointer

    init(_ count: Int, fill: UInt8 = 0) {
        unsafe bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: count, alignment: 4096)
        unsafe bytes.initializeMemory(as: UInt8.self, repeating: fill)
    }

    deinit { unsafe bytes.deallocate() }

    var contents: [UInt8] { unsafe [UInt8](bytes) }
    var readOnly: UnsafeRawBufferPointer { unsafe UnsafeRawBufferPointer(bytes) }
}

func closeAll(_ descriptors: Int32...) {
    for fd in descriptors { _ = Glibc.close(fd) }
}
