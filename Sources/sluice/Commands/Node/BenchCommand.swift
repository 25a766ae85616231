import ArgumentParser
import Attach
import Core
import SluiceClient

extension BenchWorkload: ExpressibleByArgument {}

/// `sluice bench`
struct BenchCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bench",
        abstract: "Load a volume over the data channel and measure it; writing destroys what is on it.",
        discussion: """
            A run that writes is refused where the volume holds data, unless --force says that it may be lost.
            Every channel keeps --iodepth requests under way. With --verify, writes carry stamps which are read
            back and checked at the end. Latency is in microseconds with -o json. The load 'mixed' has requests of all
            lengths up to --bs (default: 1MiB), at any place, and checks every byte.

            EXAMPLES:
              sluice bench volume/data --rw randread --bs 4k --iodepth 32 --time 10s
              sluice bench volume/scratch --rw randwrite --bs 64k --channels 4 --verify -o json
              sluice bench volume/scratch --rw mixed --iodepth 64 --channels 4 --total 64MiB --force
            """)

    @OptionGroup var global: GlobalOptions
    @Argument(help: ArgumentHelp("The volume: volume/NAME.", valueName: "volume/name")) var resource:
        ResourceReference
    @Option(help: "What to do: read, write, randread, randwrite, randrw or mixed.") var rw: BenchWorkload
    @Option(
        name: [.customLong("bs"), .customLong("block-size")],
        help: "Bytes of a request, a multiple of 512. Default: 4KiB.")
    var blockSize: ByteCount?
    @Option(name: .customLong("iodepth"), help: "Requests under way on each channel.") var depth = 32
    @Option(help: "Connections to the server.") var channels = 1
    @Option(help: "Threads that share the connections; at most as many.") var threads = 1
    @Option(
        help: ArgumentHelp("For how long a thread looks for answers before it sleeps.", valueName: "us"))
    var poll: UInt64 = 0
    @Option(help: ArgumentHelp("How long to run, such as 10s or 200ms. Default: 10s.", valueName: "time"))
    var time: ShortDurationArgument?
    @Option(help: ArgumentHelp("How much to move at most, such as 1GiB.", valueName: "size")) var total:
        ByteCount?
    @Option(help: ArgumentHelp("Only these bytes of the volume.", valueName: "offset:length"))
    var range: RangeArgument?
    @Option(help: ArgumentHelp("The share of reads of randrw.", valueName: "percent")) var readPercent = 50
    @Option(help: "Decides the random numbers and the stamps.") var seed: UInt64 = 1
    @OptionGroup var token: CapabilityFileOption
    @Flag(help: "Check what was written.") var verify = false
    @Flag(help: "Write also over data that the volume holds, which is lost.") var force = false
    @Option(help: ArgumentHelp("Give up when the connection has been lost for so long.", valueName: "time"))
    var reconnectTimeout = DurationArgument(seconds: 30)

    func validate() throws {
        guard (1...Limits.channelsPerSessionMax).contains(channels) else {
            throw ValidationError("--channels is 1 to \(Limits.channelsPerSessionMax)")
        }
    }

    func run() throws {
        let result: BenchResult
        let configuration = try configuration()
        if rw.writes, !force { try askBeforeWriting(configuration) }
        do throws(BenchError) {
            let shows = Terminal.hasErrorTerminal
            defer { if shows { Terminal.progress("") } }
            // The first signal ends the run, and the next one the command.
            var signals: HeldSignals? = HeldSignals()
            result = try BenchRunner.run(
                configuration: configuration,
                isInterrupted: {
                    guard signals?.taken() != nil else { return false }
                    signals = nil
                    return true
                },
                waiting: { Terminal.note("waiting: \(resource): \($0)") },
                progress: { if shows { Terminal.progress(BenchCommand.bar($0)) } })
        } catch {
            throw Failure(error)
        }
        // Where nothing was done there is nothing that was measured.
        if result.operations > 0 {
            let report = BenchReport(result)
            try global.output.show(report, sentence: Sentence(ownLines: report.text))
        }
        if let mismatch = result.firstMismatch {
            throw Failure(
                .failure,
                "\(result.verifyErrors.counted("block holds", "blocks hold")) the wrong data: \(mismatch)")
        }
        if let error = result.firstError {
            let what =
                switch result.errors {
                case 0: "the volume was lost, with \(error)"
                case 1: "1 request failed, with \(error)"
                case let count: "\(count.counted("request")) failed, the first with \(error)"
                }
            throw Failure(.failure, what)
        }
        if result.operations == 0 {
            guard !result.isInterrupted else { throw Failure(BenchError.interrupted) }
            throw Failure(.failure, "no request was answered: nothing was measured")
        }
        if result.isInterrupted {
            throw Failure(
                .interrupted,
                "interrupted after \(Decimal.text(result.seconds, places: 1)) s"
                    + (verify || rw == .mixed ? "; not all that was written was checked" : ""))
        }
    }

    private func configuration() throws -> BenchConfiguration {
        let bytes = blockSize?.bytes ?? (rw == .mixed ? UInt64(Limits.payloadBytesMax) : 4096)
        guard let blockSize = UInt32(exactly: bytes) else {
            throw ValidationError("--bs is a multiple of 512 up to 1MiB")
        }
        var configuration = BenchConfiguration(volume: try open(), workload: rw)
        configuration.blockSize = blockSize
        configuration.ioDepth = depth
        configuration.channels = channels
        configuration.reactors = threads
        configuration.pollMicroseconds = poll
        configuration.readPercent = readPercent
        configuration.seconds = time.map(\.seconds) ?? (total == nil ? 10 : nil)
        configuration.totalBytes = total?.bytes
        configuration.verify = verify
        configuration.seed = seed
        configuration.range = range.flatMap { ByteRange(offset: $0.offset, length: $0.length) }
        if let fault = configuration.fault { throw ValidationError(fault) }
        return configuration
    }

    /// Has a capability issued that allows what the run does, and nothing else.
    private func open() throws -> VolumeClientOptions {
        let rights = verify && rw.writes ? rw.rights.union(.read) : rw.rights
        let volume = try resource.volumeName()
        let server = try global.nodeServer()
        do throws(AttachError) {
            var access = try VolumeAccess(volume: volume, credentialsFolder: global.folder, server: server)
            access.capabilityFile = token.path
            let capability = try access.issue(rights: rights)
            var options = try access.clientOptions(capability, rights: rights, channels: channels)
            options.reconnectSeconds = reconnectTimeout.seconds
            return options
        } catch {
            throw Failure(error)
        }
    }

    /// Asks where the run may write over data.
    private func askBeforeWriting(_ configuration: BenchConfiguration) throws {
        let extents: [VolumeExtent]?
        do throws(AttachError) {
            extents = try KnownBlocks.ask(
                resource.name, folder: global.folder, server: try server(), range: configuration.range,
                capabilityFile: token.path)
        } catch {
            guard error.reason == .denied else { throw Failure(error) }
            throw Failure(
                .denied,
                "\(resource) may hold data, and the grant does not let this node look; to write over it: --force"
            )
        }
        let data = extents?.filter { !$0.flags.contains(.zero) }
        let bytes = data.map { data in data.reduce(UInt64(0)) { $0 + $1.length } }
        if bytes == 0 { return }
        try Confirmation.ask(
            "\(resource) holds \(bytes.map { "\(ByteCount($0)) of data" } ?? "what nobody knows"), and "
                + "--rw \(rw.rawValue) writes over it",
            name: "\(resource)", otherwise: "the same with --force")
    }

    private func server() throws(AttachError) -> String {
        do { return try global.nodeServer() } catch { throw AttachError(.usage, "\(error)") }
    }

    private static func bar(_ progress: BenchProgress) -> String {
        let width = 30
        let done = min(width, Int(progress.fraction * Double(width)))
        let bar = String(repeating: "█", count: done) + String(repeating: "░", count: width - done)
        let rate = progress.seconds > 0 ? Double(progress.operations) / progress.seconds : 0
        let what = progress.isVerifying ? "checking" : "\(Decimal.grouped(rate)) IOPS"
        return "\(bar) \(Int(progress.fraction * 100))%  \(what)"
    }
}
