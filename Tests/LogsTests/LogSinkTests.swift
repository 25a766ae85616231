import Core
import Glibc
import Logging
import Synchronization
import Testing

@testable import Logs

/// A pipe whose writing end a sink has.
private final class Pipe: Sendable {
    let reading: Int32
    let writing: Int32

    init() {
        var ends: [Int32] = [-1, -1]
        precondition(unsafe pipe(&ends) == 0)
        (reading, writing) = (ends[0], ends[1])
    }

    /// What comes until a text has come, which is to be in the last of it.
    func read(until end: String) -> String {
        var all: [UInt8] = []
        var bytes = [UInt8](repeating: 0, count: 65536)
        while !String(decoding: all.suffix(2000), as: UTF8.self).contains(end) {
            let count = unsafe Glibc.read(reading, &bytes, bytes.count)
            guard count > 0 else { break }
            all += bytes[..<count]
        }
        return String(decoding: all, as: UTF8.self)
    }
}

/// How many lines a text has.
private func lineCount(_ text: String) -> Int {
    text.utf8.reduce(0) { $1 == UInt8(ascii: "\n") ? $0 + 1 : $0 }
}

@Suite(.timeLimit(.minutes(1))) struct LogSinkTests {
    private let notices = Notices()

    private final class Notices: Sendable {
        let all = Mutex<[LogSink.Notice]>([])
    }

    private func logger(_ sink: LogSink) -> Logger { Logger(label: "sluiced", factory: { sink.handler($0) }) }

    private func sink(_ descriptor: Int32, _ format: LogFormat = .text) throws -> LogSink {
        let sink = try LogSink(descriptor: descriptor, format: format, label: "log")
        sink.tell { [notices] notice in notices.all.withLock { $0.append(notice) } }
        return sink
    }

    @Test func whatIsLoggedIsWritten() throws {
        let pipe = Pipe()
        let sink = try sink(pipe.writing)
        var logger = logger(sink)
        logger[metadataKey: "pool"] = "a"
        logger.notice("driver host", metadata: ["why": "killed by signal 9"])
        logger.debug("not shown")
        #expect(
            pipe.read(until: "\n").hasSuffix(
                " notice sluiced driver host pool=a why=\"killed by signal 9\"\n"))
        sink.finish()
        #expect(sink.report.written == 1 && sink.report.lost == 0)
    }

    /// The pipe of a supervisor that stopped reading; before, every thread that logged stood.
    @Test func aReaderThatDoesNotReadStopsNobodyAndWhatIsLostIsSaid() throws {
        let pipe = Pipe()
        let sink = try sink(pipe.writing)
        let logger = logger(sink)
        let count = 6000
        for number in 0..<count {
            logger.notice(
                "volume created",
                metadata: [
                    "by": "admin:admin", "number": "\(number)",
                    "text": "\(String(repeating: "x", count: 900))",
                ])
        }
        let stuck = sink.report
        #expect(stuck.lost > 0 && stuck.losingSince != nil)
        #expect(stuck.waitingBytes <= 2 * Limits.logQueueBytesMax)
        #expect(notices.all.withLock { $0 } == [.losing("the log's reader does not read")])

        let text = pipe.read(until: "log lines were lost")
        let lines = lineCount(text) - 1
        #expect(text.suffix(300).contains("lines=\(count - lines) "), "each is written or counted")
        sink.finish()
        #expect(sink.report.lost == UInt64(count - lines) && sink.report.losingSince == nil)
        #expect(notices.all.withLock { $0.last } == .recovered(lost: UInt64(count - lines)))
    }

    @Test func aReaderThatGoesAwayEndsNobody() throws {
        _ = signal(SIGPIPE, SIG_IGN)
        let pipe = Pipe()
        let sink = try sink(pipe.writing)
        close(pipe.reading)
        for number in 0..<50 { logger(sink).notice("line \(number)") }
        sink.finish()
        #expect(sink.report.written == 0 && sink.report.lost == 50)
        #expect(notices.all.withLock { $0 } == [.losing("Broken pipe")])
    }

    @Test func aFullDiskLosesLinesAndSaysSo() throws {
        let full = unsafe open("/dev/full", O_WRONLY)
        let sink = try sink(full)
        logger(sink).notice("a line")
        sink.finish()
        #expect(sink.report.lost == 1 && sink.report.losingSince != nil)
    }

    @Test func aDescriptorThatTakesLinesAgainIsToldWhatItMissed() throws {
        _ = signal(SIGPIPE, SIG_IGN)
        let pipe = Pipe()
        let sink = try sink(pipe.writing)
        let gone = Pipe()
        close(gone.reading)
        let kept = dup(pipe.writing)
        dup2(gone.writing, pipe.writing)
        for number in 0..<50 { logger(sink).notice("line \(number)") }
        while sink.report.lost < 50 {}
        dup2(kept, pipe.writing)
        logger(sink).notice("back")
        let text = pipe.read(until: "log lines were lost")
        #expect(text.contains("notice sluiced back") && text.contains("lines=50 "))
        #expect(text.contains("reason=\"Broken pipe\"") && lineCount(text) == 2)
        sink.finish()
        #expect(sink.report.losingSince == nil && sink.report.lost == 50)
    }

    @Test func aDescriptorThatDoesNotBlockLosesNothing() throws {
        let pipe = Pipe()
        _ = fcntl(pipe.writing, F_SETFL, O_NONBLOCK)
        let sink = try sink(pipe.writing)
        for number in 0..<800 {
            logger(sink).notice(
                "volume created",
                metadata: [
                    "by": "admin:admin", "number": "\(number)",
                    "text": "\(String(repeating: "x", count: 900))",
                ])
        }
        logger(sink).notice("the end")
        #expect(lineCount(pipe.read(until: "the end")) == 801 && sink.report.lost == 0)
        sink.finish()
    }

    @Test func theEndIsNotHeldUpByAReader() throws {
        let pipe = Pipe()
        let sink = try sink(pipe.writing)
        for _ in 0..<100 {
            logger(sink).notice("m", metadata: ["a": "\(String(repeating: "x", count: 1000))"])
        }
        sink.finish(milliseconds: 10)
    }

    @Test func aFloodIsCutAndCounted() throws {
        let pipe = Pipe()
        let sink = try sink(pipe.writing)
        for number in 0..<5000 {
            logger(sink).notice("request refused", metadata: ["by": "node:bad", "number": "\(number)"])
        }
        logger(sink).notice("request refused", metadata: ["by": "node:good"])
        sink.finish()
        let text = pipe.read(until: "log lines were left out source=node:bad")
        #expect(text.contains("by=node:good"))
        #expect(lineCount(text) <= 2 * Limits.logBurstLines)
        let report = sink.report
        #expect(report.leftOut > 4000 && report.written + report.leftOut >= 5001 && report.lost == 0)
    }
}
