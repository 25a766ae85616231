import Glibc
import HostileDriver
import Reactor
import Testing

// SAFETY: the word is allocated by init, freed by deinit, and never read here.
/// What a driver would like to get at: a file of the server, its sockets, its memory; and a pool's folder.
@safe
final class EscapeScene {
    private let root: String
    private let listener: FileDescriptor
    private let unixListener: FileDescriptor
    private let abstractListener: FileDescriptor
    private let port: Int
    private let abstractName: String
    private let word: UnsafeMutablePointer<UInt64>

    /// The pool's folder.
    var pool: String { root + "/pool" }
    private var outside: String { root + "/outside" }

    init() throws {
        root = "/tmp/sluice-escape-\(getpid())-\(UInt64.random(in: 0 ... .max))"
        abstractName = "sluice-escape-\(getpid())-\(UInt64.random(in: 0 ... .max))"
        unsafe word = UnsafeMutablePointer<UInt64>.allocate(capacity: 1)
        unsafe word.initialize(to: 0x5EC2E7)
        listener = try Sockets.listen(SocketAddress(text: "127.0.0.1:0"))
        port = Int(try Sockets.localAddress(fd: listener.raw).description.split(separator: ":")[1]) ?? 0
        for path in [root, root + "/pool", root + "/outside"] {
            try #require(unsafe mkdir(path, 0o755) == 0)
        }
        let secret = FileDescriptor(
            owning: unsafe open(root + "/outside/secret", O_WRONLY | O_CREAT | O_CLOEXEC, 0o644))
        try #require(unsafe write(secret.raw, "secret", 6) == 6)
        try #require(unsafe symlink("../outside/secret", root + "/pool/link") == 0)
        unixListener = try EscapeScene.listen(root + "/outside/socket", isAbstract: false)
        abstractListener = try EscapeScene.listen(abstractName, isAbstract: true)
        try #require(unsafe chmod(root + "/outside/socket", 0o777) == 0)
    }

    deinit {
        unsafe word.deallocate()
        _ = try? ChildProcess(executable: "/bin/rm", arguments: ["-rf", root], environment: []).wait()
    }

    private static func listen(_ name: String, isAbstract: Bool) throws -> FileDescriptor {
        let made = FileDescriptor(
            owning: socket(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0))
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let bytes = (isAbstract ? [0] : []) + Array(name.utf8)
        try #require(bytes.count < MemoryLayout.size(ofValue: address.sun_path))
        unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: bytes) }
        let length = socklen_t(2 + bytes.count + (isAbstract ? 0 : 1))
        let bound = unsafe withUnsafePointer(to: &address) {
            unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { unsafe bind(made.raw, $0, length) }
        }
        try #require(bound == 0 && Glibc.listen(made.raw, 16) == 0)
        return made
    }

    /// Gives the pool's folder to a user.
    func give(to user: uid_t) throws { try #require(unsafe chown(pool, user, user) == 0) }

    /// The program's arguments for an attempt.
    func words(_ attempt: Attempt, folderOwner: uid_t) throws -> [String] {
        try give(to: folderOwner)
        return [
            "escape", attempt.rawValue, "folder=\(pool)", "outside=\(outside)", "port=\(port)",
            "abstract=\(abstractName)", "address=\(unsafe UInt(bitPattern: word))",
        ]
    }

    /// Whether something is in the folders that no attempt may make; removes it.
    func takeTraces() -> Bool {
        var found = false
        for path in [
            outside + "/escape", pool + "/new-link", pool + "/device", pool + "/large",
            "/dev/shm/sluice-escape",
        ] where unsafe unlink(path) == 0 { found = true }
        return found
    }
}
