import Glibc
import Reactor
import Testing

/// Runs the test's own driver host program as a child, and says what it printed and how it ended.
struct HostileProgram {
    /// Its output, without the last line break.
    let output: String
    let exit: ChildProcess.Exit

    /// The built program, beside the tests' own.
    static let path: String = {
        var buffer = [CChar](repeating: 0, count: 4096)
        let count = unsafe readlink("/proc/self/exe", &buffer, buffer.count - 1)
        let own = String(decoding: buffer.prefix(max(0, count)).map { UInt8(bitPattern: $0) }, as: UTF8.self)
        return String(own.prefix(upTo: own.lastIndex(of: "/") ?? own.startIndex)) + "/HostileDriver"
    }()

    /// Runs it to its end.
    init(_ arguments: [String]) throws {
        let running = try RunningProgram(arguments)
        output = running.readToEnd()
        exit = running.process.wait()
    }

    /// What became of an attempt: what it says itself, or the signal that ended it.
    var outcome: String {
        if case .signalled(let signal) = exit { return "stopped: signal \(signal)" }
        return output
    }
}

/// The program while it runs; killed with this object.
final class RunningProgram {
    let process: ChildProcess
    private let reader: FileDescriptor

    init(executable: String = HostileProgram.path, _ arguments: [String]) throws {
        // Close-on-exec from the start: no other test's child may keep it open.
        let (near, far) = try Sockets.pair()
        reader = FileDescriptor(owning: near)
        let writer = FileDescriptor(owning: far)
        process = try ChildProcess(
            executable: executable, arguments: arguments,
            environment: ["SWIFT_BACKTRACE=enable=no", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
            descriptors: [(writer.raw, 1)])
    }

    /// The next line; nil when the program and all that it started have ended. Fails after a minute.
    func readLine() -> String? { read(until: { $0.last == UInt8(ascii: "\n") }) }

    /// Everything until the program and all that it started have ended.
    func readToEnd() -> String { read(until: { _ in false }) ?? "" }

    /// Whether the program and all that it started let go of the output before so many milliseconds are over.
    func hasEnded(within milliseconds: Int32) -> Bool {
        var entry = pollfd(fd: reader.raw, events: Int16(POLLIN), revents: 0)
        return unsafe poll(&entry, 1, milliseconds) == 1
    }

    private func read(until isEnough: ([UInt8]) -> Bool) -> String? {
        var bytes: [UInt8] = []
        while !isEnough(bytes) {
            var entry = pollfd(fd: reader.raw, events: Int16(POLLIN), revents: 0)
            if unsafe poll(&entry, 1, 60_000) != 1 {
                Issue.record("the program says nothing for a minute")
                return nil
            }
            var byte: UInt8 = 0
            if unsafe Glibc.read(reader.raw, &byte, 1) != 1 { break }
            bytes.append(byte)
        }
        if bytes.isEmpty { return nil }
        if bytes.last == UInt8(ascii: "\n") { bytes.removeLast() }
        return String(decoding: bytes, as: UTF8.self)
    }
}
