import Core
import Glibc

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
        do throws(AttachError) {
            print(try perform(Array(arguments.dropFirst(2))))
            return 0
        } catch {
            print("\(error.reason.rawValue) \(error.message)")
            return 1
        }
    }

    private static func perform(_ arguments: [String]) throws(AttachError) -> String {
        switch arguments.first {
        case "attach" where arguments.count == 5:
            return try LoopDevice.attach(
                file: arguments[1], blockSize: UInt32(arguments[2]) ?? 512, isReadOnly: arguments[3] == "ro",
                name: arguments[4])
        case "resize" where arguments.count == 4:
            return String(
                try LoopDevice.refreshSize(device: arguments[1], file: arguments[2], name: arguments[3]))
        case "release" where arguments.count == 5:
            try LoopDevice.release(
                device: arguments[1], name: arguments[2], isForced: arguments[3] == "force",
                folder: arguments[4])
            try FuseMount.remove(arguments[4])
            return ""
        default:
            throw AttachError(.usage, "'\(command)' is used by sluice itself")
        }
    }

    /// Makes a loop device over a file, in a helper process, and returns its path.
    static func attach(
        file: String, blockSize: UInt32, isReadOnly: Bool, mark: String
    ) throws(AttachError) -> String {
        try call(["attach", file, "\(blockSize)", isReadOnly ? "ro" : "rw", mark])
    }

    /// Takes over the file's new size, in a helper process, and returns it in bytes.
    static func resize(device: String, file: String, mark: String) throws(AttachError) -> UInt64 {
        UInt64(try call(["resize", device, file, mark])) ?? 0
    }

    /// Gives the loop device up and takes the FUSE mount away, in a helper process.
    static func release(device: String, mark: String, isForced: Bool, folder: String) throws(AttachError) {
        _ = try call(["release", device, mark, isForced ? "force" : "flush", folder])
    }

    private static func call(_ arguments: [String]) throws(AttachError) -> String {
        let result = try Subprocess.run([ownExecutable, command] + arguments)
        let text = String(result.output.prefix { $0 != "\n" })
        guard result.code != 0 else { return text }
        let parts = text.split(separator: " ", maxSplits: 1)
        guard parts.count == 2, let reason = AttachError.Reason(rawValue: String(parts[0])) else {
            throw AttachError(
                .system,
                "the helper process for the loop device ended with \(result.code): \(text) \(result.errors)")
        }
        throw AttachError(reason, String(parts[1]))
    }
}
