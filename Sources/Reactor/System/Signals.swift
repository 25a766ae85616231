import CURing
import Glibc

/// Signals as events of a reactor.
public enum Signals {
    /// Blocks the signals in this thread and in all that it starts later. Call it first thing in `main`.
    public static func block(_ signals: [Int32]) {
        var set = signalSet(signals)
        unsafe pthread_sigmask(SIG_BLOCK, &set, nil)
    }

    /// Has writes to a pipe or socket that nobody reads any more fail with EPIPE, in place of ending the process
    /// (`pipe(7)`). Programs that are started later are not concerned.
    public static func ignoreBrokenPipes() {
        _ = signal(SIGPIPE, SIG_IGN)
    }

    /// Calls the handler on the reactor's thread for each of these signals; they must be blocked in every
    /// thread.
    public static func forward(
        _ signals: [Int32], on reactor: Reactor, handler: @escaping (Int32) -> Void
    ) throws(ReactorError) {
        var set = signalSet(signals)
        let flags = Int32(SFD_CLOEXEC | SFD_NONBLOCK)
        let descriptor = unsafe FileDescriptor(owning: try checked("signalfd", signalfd(-1, &set, flags)))
        let source = SignalSource(reactor: reactor, descriptor: descriptor, handler: handler)
        let target = reactor.register(source)
        reactor.pollMultishot(fd: source.descriptor.raw, events: UInt32(POLLIN), target: target, token: 0)
        source.drain()
    }

    private static func signalSet(_ signals: [Int32]) -> sigset_t {
        var set = sigset_t()
        unsafe sigemptyset(&set)
        for signal in signals { unsafe sigaddset(&set, signal) }
        return set
    }
}

/// Reads the signal descriptor empty at each edge.
private final class SignalSource: CompletionTarget {
    let descriptor: FileDescriptor
    private let handler: (Int32) -> Void

    init(reactor: Reactor, descriptor: consuming FileDescriptor, handler: @escaping (Int32) -> Void) {
        self.descriptor = descriptor
        self.handler = handler
    }

    func completed(token: UInt32, result: Int32, flags: CompletionFlags) {
        if result > 0 { drain() }
    }

    func drain() {
        var info = signalfd_siginfo()
        let size = MemoryLayout<signalfd_siginfo>.size
        while unsafe read(descriptor.raw, &info, size) == size {
            handler(Int32(info.ssi_signo))
        }
    }
}
