import ArgumentParser
import Glibc
import Logging
import Logs
import Reactor
import Synchronization

/// `sluiced serve`: runs the server until SIGTERM or SIGINT.
struct ServeCommand: AsyncParsableCommand {
    static let endingSignals: [Int32] = [SIGTERM, SIGINT]

    static let configuration = CommandConfiguration(
        commandName: "serve",
        abstract: "Runs the I/O server until SIGTERM or SIGINT.",
        discussion: """
            Every setting can come from a YAML file, from the environment and from a flag; the later wins:
              sluice: { control: ["0.0.0.0:7480"], channel: ["0.0.0.0:7481"], reactors: 2 }
              SLUICE_CONTROL=0.0.0.0:7480 SLUICE_CHANNEL=0.0.0.0:7481 SLUICE_REACTORS=2
            SLUICE_POLL (poll) is for how many microseconds a reactor with work under way looks for more before it sleeps
            (default: 50, at most 1000; 0 for a server that shares its processors with others), SLUICE_CPUS (cpus) the CPUs
            that its reactors run on, in their order (default: any).
            SLUICE_SESSION_LINGER (session.linger) is how many seconds a session that may write nothing outlives its last
            connection (default: 300).
            SLUICE_STOP_SECONDS (stop.seconds) is how long the server may take to end after SIGTERM (default: 50): what hangs
            then is said in the log, and the process ends all the same.
            SLUICE_WATCHDOG (watchdog) is for how many seconds a thread of the server may do nothing that it should before the
            server ends itself with exit code 70, so that a service manager starts it again and clients go on (default: 5; 0
            for never). After half a second it is in the log, the events and the metrics.
            SLUICE_LOG_FORMAT (log.format) is the form of log lines: text, or json, one object a line.
            A setting that does not exist or is not what it must be is refused; 'sluiced check-config' says what holds.
            Port 0 lets the system choose; DIR/run/endpoints.json says what it chose. Sockets that a service manager hands
            over as "control" and "data" (sd_listen_fds(3)) take the place of the addresses.

            EXAMPLE
              sluiced serve --data /var/lib/sluice --control 192.0.2.10:7480 --channel 192.0.2.10:7481
            """)

    @Option(help: "The data folder that 'sluiced init' made.") var data: String
    @OptionGroup var options: SettingsOptions

    func run() async throws {
        let settings = try options.load()
        let log = try LogSink(
            descriptor: LogSink.standardError(), format: settings.logFormat, label: "sluiced")
        LoggingSystem.bootstrap { log.handler($0) }
        let words = LastWords(log)
        defer { words.write() }
        let logger = Logger(label: "sluiced")
        for warning in settings.warnings { logger.warning("\(warning)") }
        let starting = Atomic<Bool>(true)
        let told = AsyncStream.makeStream(of: Int32.self)
        let signals = try Self.hearSignals { number in
            if starting.load(ordering: .acquiring) { Self.end(number, words, logger) }
            told.continuation.yield(number)
        }
        let daemon = try await Daemon.start(
            data: data, settings: settings, inherited: try ServiceManager.sockets(), log: log,
            words: words
        ) {
            starting.store(false, ordering: .releasing)
        }
        for await _ in told.stream { break }
        let (seconds, ending) = (settings.stopSeconds, daemon.ending)
        signals.remote.postWithReactor { reactor in
            StopBound.start(on: reactor, seconds: seconds, witness: ending, words: words, logger: logger)
        }
        await daemon.stop()
        signals.remote.stop()
        signals.join()
    }

    /// A thread that hears the signals which end the server. They are blocked everywhere else: without it nothing would end
    /// the server.
    private static func hearSignals(
        _ heard: @escaping @Sendable (Int32) -> Void
    ) throws(ReactorError) -> ReactorThread {
        let hears = OneShot<Result<Void, ReactorError>>()
        let thread = try Reactor.start(signalReactor) { reactor in
            do throws(ReactorError) {
                try Signals.forward(endingSignals, on: reactor, handler: heard)
                hears.give(.success(()))
            } catch { hears.give(.failure(error)) }
        }
        try hears.take().get()
        return thread
    }

    /// Ends a server that is told to end while it starts, which may wait for a device that hangs: it serves nobody yet, and
    /// what it has begun the next start goes on with.
    private static func end(_ number: Int32, _ words: LastWords, _ logger: Logger) -> Never {
        logger.notice("stopped, while it was being started", metadata: ["signal": "\(number)"])
        words.write()
        _exit(0)
    }

    private static var signalReactor: Reactor.Options {
        var options = Reactor.Options()
        options.name = "signals"
        options.entries = 8
        options.receiveBufferBytes = 4096
        options.receiveBufferCount = 1
        return options
    }
}

extension LogFormat: ExpressibleByArgument {}
