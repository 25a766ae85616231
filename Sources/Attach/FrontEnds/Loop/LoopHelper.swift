import Core
import FoundationEssentials
import Glibc
import Reactor

/// The process that does for a serving process what that must never do itself: touch its own mount and
/// device.
///
/// A serving process that waited for its own device, and were killed then, could never end: the thread that
/// waits would keep /dev/fuse open, and so keep the wait from ending.
public enum LoopHelper {
    /// The hidden first argument.
    static let command = "internal-loop"

    /// This program's file.
    public static var ownExecutable: String {
        guard let path = TextFile.link("/proc/self/exe"), unsafe access(path, X_OK) == 0 else {
            return "/proc/self/exe"
        }
        return path
    }

    /// Runs the helper and returns its exit code when the arguments (the program's name first) ask for it.
    /// The first thing in `main`.
    public static func run(_ arguments: [String]) -> Int32? {
        guard arguments.count > 1, arguments[1] == command else { return nil }
        // Whoever waits for the answer may go away, and what was made is then to be taken back.
        Signals.ignoreBrokenPipes()
        do throws(AttachError) {
            let arguments = Array(arguments.dropFirst(2))
            if arguments.first == "attach", arguments.count == 5 {
                try attach(arguments)
            } else {
                print(try perform(arguments))
            }
            return 0
        } catch {
            print("\(error.reason.rawValue) \(error.message)")
            return 1
        }
    }

    /// Makes a loop device for whoever takes the answer: one that nobody knows of would stay.
    private static func attach(_ arguments: [String]) throws(AttachError) {
        let made = try LoopDevice.attach(
            file: arguments[1], blockSize: UInt32(arguments[2]) ?? 512, isReadOnly: arguments[3] == "ro",
            name: arguments[4])
        if HelperAnswer.give(text(made) + "\n", to: STDOUT_FILENO) { return }
        let loop = LoopOwner(device: made.device, mark: arguments[4], folder: "", identity: made.identity)
        try LoopDevice.release(loop, isForced: true)
    }

    private static func perform(_ arguments: [String]) throws(AttachError) -> String {
        switch arguments.first {
        case "resize" where arguments.count == 6:
            return String(try LoopDevice.refreshSize(owner(arguments[2...]), file: arguments[1]))
        case "flush" where arguments.count == 5:
            try LoopDevice.flush(owner(arguments[1...]))
            return ""
        case "release" where arguments.count == 6:
            let loop = owner(arguments[2...])
            let note = try LoopDevice.release(loop, isForced: arguments[1] == "force")
            try FuseMount.remove(loop.folder)
            return note ?? ""
        default:
            throw AttachError(.usage, "'\(command)' is used by sluice itself")
        }
    }

    /// Begins to make a loop device over a file, in a helper process, whose answer is for `made`.
    static func attaching(
        file: String, blockSize: UInt32, isReadOnly: Bool, mark: String
    ) throws(AttachError) -> HelperProcess {
        try HelperProcess(["attach", file, "\(blockSize)", isReadOnly ? "ro" : "rw", mark])
    }

    /// The device that was made.
    static func made(_ answer: String) throws(AttachError) -> LoopDevice.Made {
        guard let made = try? JSONDecoder().decode(LoopDevice.Made.self, from: Data(answer.utf8)) else {
            throw AttachError(.system, "the helper process for the loop device answered '\(answer)'")
        }
        return made
    }

    /// Takes over the file's new size, in a helper process, and returns it in bytes.
    static func resize(_ loop: LoopOwner, file: String) throws(AttachError) -> UInt64 {
        UInt64(try call(["resize", file] + arguments(loop))) ?? 0
    }

    /// Writes back what the kernel holds for the device, in a helper process: this one can be ended meanwhile.
    static func flush(_ loop: LoopOwner) throws(AttachError) { _ = try call(["flush"] + arguments(loop)) }

    /// The same, not waited for.
    static func flushing(_ loop: LoopOwner) throws(AttachError) -> HelperProcess {
        try HelperProcess(["flush"] + arguments(loop))
    }

    /// Begins to give the loop device up and to take the FUSE mount away, in a helper process. Its answer is who keeps
    /// the device; empty when it is gone.
    static func release(_ loop: LoopOwner, isForced: Bool) throws(AttachError) -> HelperProcess {
        try HelperProcess(["release", isForced ? "force" : "flush"] + arguments(loop))
    }

    private static func call(_ arguments: [String]) throws(AttachError) -> String {
        let helper = try HelperProcess(arguments)
        while true {
            if let answer = try helper.answer(within: -1) { return answer }
        }
    }

    // MARK: a device on a command line

    private static func arguments(_ loop: LoopOwner) -> [String] {
        [loop.device, loop.mark, loop.folder, loop.identity.map { text($0) } ?? "-"]
    }

    private static func owner(_ arguments: ArraySlice<String>) -> LoopOwner {
        let parts = Array(arguments)
        return LoopOwner(
            device: parts[0], mark: parts[1], folder: parts[2],
            identity: try? JSONDecoder().decode(LoopIdentity.self, from: Data(parts[3].utf8)))
    }

    private static func text(_ value: some Encodable) -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        return (try? encoder.encode(value)).map { String(decoding: $0, as: UTF8.self) } ?? ""
    }
}

/// A helper process at work. One thread.
final class HelperProcess {
    let process: Int32
    private let output: Int32
    private var bytes: [UInt8] = []

    /// Starts it, in a session of its own: what ends this process from the keyboard does not leave its work half done.
    init(_ arguments: [String]) throws(AttachError) {
        let pipe = try Subprocess.pipe()
        defer { close(pipe.write) }
        output = pipe.read
        do {
            process = try Subprocess.start(
                [LoopHelper.ownExecutable, LoopHelper.command] + arguments, output: pipe.write,
                errors: pipe.write,
                inNewSession: true)
        } catch {
            close(pipe.read)
            throw error
        }
    }

    deinit { close(output) }

    /// What it answered; nil when it is still at work after so many milliseconds (-1: it is waited for as long as it
    /// takes). Not to be called again after an answer.
    ///
    /// - Throws: the error that it failed with.
    func answer(within milliseconds: Int32) throws(AttachError) -> String? {
        let deadline = SystemClock.monotonic() + UInt64(max(milliseconds, 0)) * 1_000_000
        var chunk = [UInt8](repeating: 0, count: 4096)
        while true {
            let now = SystemClock.monotonic()
            let left = milliseconds < 0 ? -1 : Int32((deadline - min(now, deadline)) / 1_000_000)
            var entry = pollfd(fd: output, events: Int16(POLLIN), revents: 0)
            let ready = unsafe poll(&entry, 1, left)
            if ready == 0 { return nil }
            guard ready > 0 else { continue }
            let count = unsafe read(output, &chunk, chunk.count)
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { break }
            bytes += chunk[..<min(count, max(AttachLimits.recordBytesMax - bytes.count, 0))]
        }
        return try Self.parse(String(decoding: bytes, as: UTF8.self), code: try Subprocess.wait(process))
    }

    private static func parse(_ output: String, code: Int32) throws(AttachError) -> String {
        let text = String(output.prefix { $0 != "\n" })
        guard code != 0 else { return text }
        let parts = text.split(separator: " ", maxSplits: 1)
        guard parts.count == 2, let reason = AttachError.Reason(rawValue: String(parts[0])) else {
            throw AttachError(
                .system, "the helper process for the loop device ended with \(code): \(output.prefix(1000))")
        }
        throw AttachError(reason, String(parts[1]))
    }
}
