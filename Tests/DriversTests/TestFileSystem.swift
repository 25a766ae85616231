import Glibc
import Reactor
import Testing

/// A file system or device of a test's own, which needs root; gone with its last user.
final class TestFileSystem: Sendable {
    /// Where it is mounted, or the device's path.
    let path: String
    private let undo: [[String]]
    private let folder: TestFolder

    private init(path: String, undo: [[String]], folder: TestFolder) {
        self.path = path
        self.undo = undo
        self.folder = folder
    }

    deinit {
        for command in undo { _ = try? TestFileSystem.run(command) }
    }

    /// Whether this process may mount; tests that need it say so where they are skipped.
    static let isAllowed: Bool = {
        guard geteuid() == 0, let made = try? tmpfs(bytes: 1 << 20) else { return false }
        return made.path != ""
    }()

    /// A tmpfs of this size.
    static func tmpfs(bytes: Int) throws -> TestFileSystem {
        let folder = try TestFolder()
        try run(["/bin/mount", "-t", "tmpfs", "-o", "size=\(bytes)", "none", folder.path])
        return TestFileSystem(path: folder.path, undo: [["/bin/umount", "-l", folder.path]], folder: folder)
    }

    /// A file system that has no holes to punch, and no other fallocate(2) either.
    static func ramfs() throws -> TestFileSystem {
        let folder = try TestFolder()
        try run(["/bin/mount", "-t", "ramfs", "none", folder.path])
        return TestFileSystem(path: folder.path, undo: [["/bin/umount", "-l", folder.path]], folder: folder)
    }

    /// A loop device over a sparse file in `parent`.
    static func loop(bytes: Int, in parent: String, sectorBytes: Int = 512) throws -> TestFileSystem {
        let folder = try TestFolder(under: parent)
        let file = folder.path + "/device"
        try run(["/usr/bin/truncate", "-s", "\(bytes)", file])
        let device = try run([
            "/sbin/losetup", "--sector-size", "\(sectorBytes)", "--find", "--show", file,
        ])
        return TestFileSystem(path: device, undo: [["/sbin/losetup", "-d", device]], folder: folder)
    }

    /// An ext4 on a device, mounted, without a journal so that it fails only where data does.
    static func ext4(on device: TestFileSystem) throws -> TestFileSystem {
        let folder = try TestFolder()
        try run([
            "/sbin/mkfs.ext4", "-q", "-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard", device.path,
        ])
        try run(["/bin/mount", device.path, folder.path])
        return TestFileSystem(path: folder.path, undo: [["/bin/umount", "-l", folder.path]], folder: folder)
    }

    struct Failed: Error { let command: [String] }

    /// Runs a command and returns the first line that it prints.
    @discardableResult
    static func run(_ command: [String]) throws -> String {
        // Close-on-exec, or a program that another test starts meanwhile keeps the other end open.
        let (ours, childs) = try Sockets.pair()
        defer { _ = close(ours) }
        let child = try ChildProcess(
            executable: command[0], arguments: Array(command.dropFirst()),
            environment: ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
            descriptors: [(childs, 1)])
        _ = close(childs)
        var output: [UInt8] = []
        var room = [UInt8](repeating: 0, count: 1024)
        while true {
            let count = unsafe read(ours, &room, room.count)
            if count <= 0 { break }
            output += room.prefix(count)
        }
        if child.wait() != .exited(0) { throw Failed(command: command) }
        return String(decoding: output, as: UTF8.self).split(separator: "\n").first.map(String.init) ?? ""
    }
}
