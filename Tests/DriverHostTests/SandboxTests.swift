import Glibc
import HostileDriver
import Reactor
import TestSupport
import Testing

@testable import DriverHost

@Suite("The sandbox of a driver host", .serialized, .blocking)
struct SandboxTests {
    private static let needsRoot: Comment = "needs root"

    /// Whose rights stand behind the walls.
    enum Walls: String, CaseIterable, CustomTestStringConvertible {
        /// As root starts it: a user of its own, the pool's folder as its root.
        case ownUser
        /// The same user as the server and every path in sight: Landlock and seccomp alone.
        case ownUserNot
        /// A server that is not root.
        case ordinary

        var testDescription: String { rawValue }

        var words: [String] {
            switch self {
            case .ownUser: ["user=70001"]
            case .ownUserNot: ["path=/dev/null"]
            case .ordinary: ["as=65534", "path=/dev/null"]
            }
        }

        /// Who has the pool's folder.
        var owner: uid_t {
            switch self {
            case .ownUser: 70001
            case .ownUserNot: 0
            case .ordinary: 65534
            }
        }
    }

    /// What is no wall without a user of its own, by the gaps that `Sandbox.enter` names.
    private static func isOpen(_ attempt: Attempt, _ walls: Walls) -> Bool {
        attempt == .manyThreads && walls == .ownUserNot
    }

    @Test(
        "an attempt works without the sandbox and is stopped within", .enabled(if: geteuid() == 0, needsRoot),
        arguments: Attempt.allCases)
    func attempt(attempt: Attempt) throws {
        let scene = try EscapeScene()
        let control = try HostileProgram(scene.words(attempt, folderOwner: 0) + ["sandbox=none"])
        #expect(control.outcome == "escaped", "without a sandbox")
        #expect(scene.takeTraces() == Self.traces.contains(attempt), "without a sandbox")
        for walls in Walls.allCases where !Self.isOpen(attempt, walls) {
            let run = try HostileProgram(scene.words(attempt, folderOwner: walls.owner) + walls.words)
            #expect(run.outcome == Self.expected(attempt, walls), "\(walls)")
            #expect(!scene.takeTraces(), "\(walls)")
        }
    }

    /// What leaves something behind where it works.
    private static let traces: Set<Attempt> = [.writeServerFolder, .makeLink, .makeDevice]

    /// How each attempt is stopped, so that one which fails for another reason is noticed.
    private static func expected(_ attempt: Attempt, _ walls: Walls) -> String {
        switch attempt {
        case .readPasswords, .readServerFile, .writeServerFolder, .listProcesses, .traverse, .followLink,
            .openServerMemory, .fillOtherFolder:
            // Where the pool's folder is the root, nothing else has a name; elsewhere Landlock refuses.
            walls == .ownUser ? "stopped: ENOENT" : "stopped: EACCES"
        case .connectOnRing: "stopped: EACCES"
        case .clone3Process: "stopped: ENOSYS"
        case .takeMemory: "stopped: ENOMEM"
        case .openMany: "stopped: EMFILE"
        case .manyThreads: "stopped: EAGAIN"
        case .growFile: "stopped: EFBIG"
        case .makeDevice, .mount, .traceServer, .readServerMemory, .execute, .fork, .vfork, .newRing,
            .asynchronousIO, .becomeRoot, .becomeServerUser, .newNamespace, .keyring, .bpf:
            "stopped: signal \(SIGSYS)"
        case .makeLink, .makeTCPSocket, .makeUnixSocket, .connectTCP, .connectUnix,
            .connectAbstract, .takeServerDescriptor, .signalServer, .signalByDescriptor, .outliveServer,
            .becomeDumpable, .cloneProcess, .mapCode, .protectCode, .raiseLimit, .blockDoorbell,
            .takeSharedMemory, .makeSharedMemory:
            "stopped: EPERM"
        }
    }

    @Test(
        "drivers do all of their work within", .enabled(if: geteuid() == 0, needsRoot),
        arguments: ["file", "memory"], Walls.allCases)
    func work(driver: String, walls: Walls) throws {
        let scene = try EscapeScene()
        try scene.give(to: walls == .ownUser ? 0 : walls.owner)
        let run = try HostileProgram(["work", driver, "folder=\(scene.pool)"] + walls.words)
        #expect(run.exit == .exited(0))
        #expect(run.output.hasPrefix("worked"))
        #expect(run.output.contains("gaps") == (walls != .ownUser))
    }

    @Test(
        "within, there is no privilege, no network and no way to more",
        .enabled(if: geteuid() == 0, needsRoot))
    func identity() throws {
        let scene = try EscapeScene()
        let program = try RunningProgram(["wait", "-", "folder=\(scene.pool)", "user=70001"])
        #expect(program.readLine() == "waiting")
        let process = program.process.processID
        let status = try Self.status(of: process)
        #expect(status["Uid"] == "70001 70001 70001 70001" && status["Gid"] == status["Uid"])
        #expect(status["Groups"] == "")
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            #expect(status[set] == "0000000000000000", "\(set)")
        }
        #expect(status["NoNewPrivs"] == "1" && status["Seccomp"] == "2")
        for space in ["net", "ipc", "uts"] {
            let theirs = Self.link("/proc/\(process)/ns/\(space)")
            #expect(!theirs.isEmpty && theirs != Self.link("/proc/self/ns/\(space)"), "\(space)")
        }
        #expect(Self.link("/proc/\(process)/root") == scene.pool)
        #expect(Self.link("/proc/\(process)/cwd") == scene.pool)
        var folder = stat()
        #expect(unsafe stat(scene.pool, &folder) == 0 && folder.st_uid == 70001)
    }

    @Test("a network driver keeps the network, and only that", .enabled(if: geteuid() == 0, needsRoot))
    func network() throws {
        let scene = try EscapeScene()
        for attempt in [Attempt.makeTCPSocket, .connectTCP] {
            let run = try HostileProgram(
                scene.words(attempt, folderOwner: 70001) + ["user=70001", "network"])
            #expect(run.outcome == "escaped", "\(attempt)")
        }
        for attempt in [Attempt.makeUnixSocket, .readPasswords, .connectAbstract, .connectOnRing, .fork] {
            let run = try HostileProgram(
                scene.words(attempt, folderOwner: 70001) + ["user=70001", "network"])
            #expect(run.outcome.hasPrefix("stopped"), "\(attempt)")
        }
    }

    @Test("a host ends with the server, however that ends")
    func parent() throws {
        let scene = try EscapeScene()
        let server = try RunningProgram(["parent", HostileProgram.path, "folder=\(scene.pool)"])
        #expect(server.readLine() == "waiting")
        server.process.signal(SIGKILL)
        #expect(server.process.wait() == .signalled(SIGKILL))
        // The host has the pipe too: this returns when it is gone.
        #expect(server.readToEnd() == "")
    }

    @Test("a host whose server has ended already does not start")
    func orphan() throws {
        let scene = try EscapeScene()
        let run = try HostileProgram(["wait", "-", "folder=\(scene.pool)", "parent=1"])
        #expect(run.exit == .exited(1))
        #expect(run.output == SandboxError.orphaned.description)
    }

    @Test("what the sandbox cannot do is said", .enabled(if: geteuid() == 0, needsRoot))
    func gaps() throws {
        let scene = try EscapeScene()
        let root = try HostileProgram(["gaps", "-", "folder=\(scene.pool)", "user=70001"])
        #expect(root.output == "")
        try scene.give(to: 65534)
        let ordinary = try HostileProgram(["gaps", "-", "folder=\(scene.pool)", "as=65534"])
        #expect(ordinary.output.contains("not root"))
    }

    private static func status(of process: Int32) throws -> [String: String] {
        var status: [String: String] = [:]
        for line in try readFile("/proc/\(process)/status").split(separator: "\n") {
            let parts = line.split(separator: ":", maxSplits: 1)
            status[String(parts[0])] =
                parts.count < 2 ? "" : parts[1].split(whereSeparator: \.isWhitespace).joined(separator: " ")
        }
        return status
    }

    private static func readFile(_ path: String) throws -> String {
        let file = FileDescriptor(owning: unsafe open(path, O_RDONLY | O_CLOEXEC))
        var bytes = [UInt8](repeating: 0, count: 65536)
        let count = unsafe read(file.raw, &bytes, bytes.count)
        try #require(count > 0)
        return String(decoding: bytes.prefix(count), as: UTF8.self)
    }

    private static func link(_ path: String) -> String {
        var buffer = [CChar](repeating: 0, count: 4096)
        let count = unsafe readlink(path, &buffer, buffer.count - 1)
        return String(decoding: buffer.prefix(max(0, count)).map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}
