import Core
import Glibc

/// A line of a mount table, /proc/PID/mountinfo (proc(5)).
public struct MountPoint: Sendable, Hashable {
    /// Major and minor number of the mounted device, `7:0`.
    public var deviceNumber: String
    /// The folder it is mounted on.
    public var folder: String
    /// The file system, `ext4`.
    public var kind: String
    /// The mounted device, `/dev/loop0`.
    public var source: String
}

/// Mount tables.
public enum MountTable {
    /// What is mounted, as this process sees it.
    public static func read() -> [MountPoint] { read(process: "self") }

    static func read(process: String) -> [MountPoint] {
        guard let text = TextFile.read("/proc/\(process)/mountinfo") else { return [] }
        return parse(text)
    }

    /// Reads a mount table; a line that is none is left out.
    static func parse(_ text: String) -> [MountPoint] {
        text.split(separator: "\n").compactMap { line in
            let fields = line.split(separator: " ", omittingEmptySubsequences: true)
            guard let separator = fields.firstIndex(of: "-"), separator >= 6, fields.count > separator + 2
            else {
                return nil
            }
            return MountPoint(
                deviceNumber: String(fields[2]), folder: unescape(fields[4]),
                kind: String(fields[separator + 1]),
                source: unescape(fields[separator + 2]))
        }
    }

    /// `\040` and its like, three octal digits, stand for a byte that would break the line.
    static func unescape(_ text: Substring) -> String {
        let bytes = Array(text.utf8)
        var result: [UInt8] = []
        var index = 0
        while index < bytes.count {
            if bytes[index] == UInt8(ascii: "\\"), index + 3 < bytes.count,
                let code = UInt8(String(decoding: bytes[(index + 1)...(index + 3)], as: UTF8.self), radix: 8)
            {
                result.append(code)
                index += 4
            } else {
                result.append(bytes[index])
                index += 1
            }
        }
        return String(decoding: result, as: UTF8.self)
    }
}

/// Small files, such as those of /proc and /sys.
enum TextFile {
    /// The whole file as text, at most 16 MiB; nil when it cannot be read.
    static func read(_ path: String) -> String? {
        bytes(path).map { String(decoding: $0, as: UTF8.self) }
    }

    static func bytes(_ path: String) -> [UInt8]? {
        let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        return bytes(descriptor: descriptor, max: 16 << 20)
    }

    /// What is left to read from a descriptor, at most `max` bytes; nil on an error.
    static func bytes(descriptor: Int32, max: Int) -> [UInt8]? {
        var result: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 16 << 10)
        while result.count < max {
            let count = unsafe Glibc.read(descriptor, &chunk, min(chunk.count, max - result.count))
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else { return nil }
            if count == 0 { break }
            result += chunk[..<count]
        }
        return result
    }

    /// The target of a symbolic link, without following it further.
    static func link(_ path: String) -> String? {
        var buffer = [UInt8](repeating: 0, count: Int(PATH_MAX))
        let count = unsafe buffer.withUnsafeMutableBytes { bytes in
            unsafe readlink(path, bytes.baseAddress!.assumingMemoryBound(to: CChar.self), bytes.count)
        }
        return count < 0 ? nil : String(decoding: buffer[..<count], as: UTF8.self)
    }

    /// The names in a folder, without `.` and `..`; empty when it cannot be read.
    static func names(in folder: String) -> [String] {
        guard let stream = unsafe opendir(folder) else { return [] }
        defer { unsafe closedir(stream) }
        var result: [String] = []
        while let entry = unsafe Glibc.readdir(stream) {
            let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) { pointer in
                unsafe String(cString: UnsafeRawPointer(pointer).assumingMemoryBound(to: CChar.self))
            }
            if name != ".", name != ".." { result.append(name) }
        }
        return result
    }
}
