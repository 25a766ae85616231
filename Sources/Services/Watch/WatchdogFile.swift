import Core
import Glibc

/// The file in which the watchdog writes down, before it ends the server, what the server stood at.
///
/// A line is there as soon as the kernel has it, which is enough: what it is about ends the process, not the machine.
public struct WatchdogFile: Sendable {
    /// Where it is.
    public let path: String

    /// A file that may or may not be there.
    public init(path: String) { self.path = path }

    /// The records, the oldest first; what is not understood is left out. Only the latest are kept.
    public func load() -> [WatchdogRecord] {
        let fd = unsafe open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)
        guard fd >= 0 else { return [] }
        var bytes = [UInt8](repeating: 0, count: Limits.watchdogFileBytesMax)
        let count = unsafe read(fd, &bytes, bytes.count)
        close(fd)
        guard count > 0 else { return [] }
        let text = String(decoding: bytes[..<count], as: UTF8.self)
        let records = text.split(separator: "\n").compactMap { WatchdogRecord(line: $0) }
        let kept = records.suffix(Limits.watchdogRecordsMax)
        if kept.count < records.count || count == bytes.count { rewrite(kept) }
        return Array(kept)
    }

    /// Adds a record. It waits for nobody but the file system.
    public func append(_ record: WatchdogRecord) {
        let fd = unsafe open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard fd >= 0 else { return }
        let text = record.line + "\n"
        _ = unsafe write(fd, text, text.utf8.count)
        close(fd)
    }

    private func rewrite(_ records: ArraySlice<WatchdogRecord>) {
        let draft = path + ".new"
        let fd = unsafe open(draft, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard fd >= 0 else { return }
        let text = records.map { $0.line + "\n" }.joined()
        let isWritten = unsafe write(fd, text, text.utf8.count) == text.utf8.count
        close(fd)
        // A file that cannot be made smaller is read up to its bound.
        _ = isWritten ? unsafe rename(draft, path) : unsafe unlink(draft)
    }
}

extension Limits {
    /// Of the file of what servers stood at, so many bytes are read.
    static let watchdogFileBytesMax = 64 << 10
    /// So many records of it are kept.
    static let watchdogRecordsMax = 100
}
