import CFUSE
import Glibc

/// Programs that this process starts: the loop helper, mkfs, mount, and itself in the background.
public enum Subprocess {
    /// How a program ended.
    public struct Result: Sendable {
        /// The exit code, or 128 + the signal that ended it.
        public var code: Int32
        /// What it wrote to standard output, at most 64 KiB.
        public var output: String
        /// What it wrote to standard error, at most 64 KiB; empty when that was not captured.
        public var errors: String
    }

    /// Runs a program (looked up in PATH) to its end and collects what it writes; `started` is told its process id. Blocks.
    public static func run(
        _ arguments: [String], inNewSession: Bool = false, started isStarted: (Int32) -> Void = { _ in }
    ) throws(AttachError) -> Result {
        let output = try pipe()
        let errors: (read: Int32, write: Int32)
        do {
            errors = try pipe()
        } catch {
            close(output.read)
            close(output.write)
            throw error
        }
        let started: Int32
        do {
            defer {
                close(output.write)
                close(errors.write)
            }
            started = try start(
                arguments, output: output.write, errors: errors.write, inNewSession: inNewSession)
        } catch {
            close(output.read)
            close(errors.read)
            throw error
        }
        isStarted(started)
        let collected = collect(output.read, errors.read)
        return Result(
            code: try wait(started), output: String(decoding: collected.0, as: UTF8.self),
            errors: String(decoding: collected.1, as: UTF8.self))
    }

    /// Starts a program and returns its process id. Of this process's descriptors it gets those named:
    /// `output` and `errors` (-1: /dev/null) and `extra` as descriptor 3.
    public static func start(
        _ arguments: [String], output: Int32, errors: Int32, extra: Int32 = -1, inNewSession: Bool = false
    ) throws(AttachError) -> Int32 {
        var vector: [UnsafeMutablePointer<CChar>?] = unsafe arguments.map { unsafe strdup($0) }
        unsafe vector.append(nil)
        defer { unsafe vector.forEach { unsafe free($0) } }
        var process: pid_t = 0
        let result = unsafe sluice_attach_spawn(
            &process, &vector, -1, output, errors, extra, inNewSession ? 1 : 0)
        guard result == 0 else { throw .system(-result, "cannot start \(arguments[0])") }
        return process
    }

    /// Waits for a started program's end and returns its exit code, or 128 + the signal that ended it. Blocks.
    static func wait(_ process: Int32) throws(AttachError) -> Int32 {
        let code = sluice_attach_wait(process)
        guard code >= 0 else { throw .system(-code, "cannot wait for process \(process)") }
        return code
    }

    /// A pipe whose ends no child inherits by itself.
    static func pipe() throws(AttachError) -> (read: Int32, write: Int32) {
        var ends: [Int32] = [-1, -1]
        guard unsafe sluice_attach_pipe(&ends) == 0 else { throw .system(errno, "cannot make a pipe") }
        return (ends[0], ends[1])
    }

    /// Reads both to their ends, keeping at most 64 KiB of each, and closes them.
    private static func collect(_ first: Int32, _ second: Int32) -> ([UInt8], [UInt8]) {
        var entries = [first, second].map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
        var texts: [[UInt8]] = [[], []]
        var chunk = [UInt8](repeating: 0, count: 4096)
        while entries.contains(where: { $0.fd >= 0 }) {
            guard unsafe poll(&entries, 2, -1) > 0 else { continue }
            for index in 0..<2 where entries[index].fd >= 0 && entries[index].revents != 0 {
                let count = unsafe read(entries[index].fd, &chunk, chunk.count)
                if count > 0 {
                    let room = AttachLimits.recordBytesMax - texts[index].count
                    texts[index] += chunk[..<min(count, max(room, 0))]
                } else if count == 0 || errno != EINTR {
                    close(entries[index].fd)
                    entries[index].fd = -1
                }
            }
        }
        return (texts[0], texts[1])
    }
}
