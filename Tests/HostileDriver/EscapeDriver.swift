import CHostile
import Core
import DriverKit
import Glibc
import Reactor
import Synchronization

/// A driver that tries one way out of its sandbox each time that it is asked for its capacity, and says what
/// came of it in the error that it throws: `escaped`, or `stopped: ` and why.
///
/// Settings: `attempt`; `outside`, a folder of the server with the file `secret` and the socket `socket`;
/// `port`, where someone listens; `abstract`, the name of an abstract socket; `address`, of a word in the
/// server's memory.
final class EscapeDriver: InstalledVolumeDriver {
    static let name = "escape"

    private let settings: [String: String]
    private let attempt: Attempt
    private let folder: FileDescriptor
    /// Made before the sandbox, so that connecting is refused for its own sake.
    private let tcpSocket: FileDescriptor
    private let unixSocket: FileDescriptor

    init(_ environment: DriverEnvironment) throws(StatusError) {
        guard let attempt = environment.settings["attempt"].flatMap(Attempt.init(rawValue:)) else {
            throw StatusError(.badRequest, "the setting attempt names no attempt")
        }
        settings = environment.settings
        self.attempt = attempt
        folder = FileDescriptor(owning: unsafe open(environment.folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC))
        tcpSocket = FileDescriptor(owning: socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0))
        unixSocket = FileDescriptor(owning: socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0))
        if folder.raw < 0 || tcpSocket.raw < 0 || unixSocket.raw < 0 {
            throw StatusError(.ioError, "the attempt could not be prepared")
        }
    }

    func capacity() throws(StatusError) -> PoolCapacity {
        let result = try perform()
        let outcome = result == 0 ? "escaped" : "stopped: \(EscapeDriver.name(errno: -result))"
        throw StatusError(.denied, outcome)
    }

    static func name(errno: Int32) -> String { unsafe String(cString: hostile_error_name(errno)) }

    private func perform() throws(StatusError) -> Int32 {
        let outside = settings["outside"] ?? ""
        let server = getppid()
        switch attempt {
        case .readPasswords: return unsafe hostile_open(AT_FDCWD, "/etc/passwd", O_RDONLY)
        case .readServerFile: return unsafe hostile_open(AT_FDCWD, outside + "/secret", O_RDONLY)
        case .writeServerFolder:
            return unsafe hostile_open(AT_FDCWD, outside + "/escape", O_WRONLY | O_CREAT)
        case .listProcesses: return unsafe hostile_list("/proc")
        case .traverse: return unsafe hostile_open(folder.raw, "../outside/secret", O_RDONLY)
        case .followLink: return unsafe hostile_open(folder.raw, "link", O_RDONLY)
        case .makeLink: return unsafe hostile_make_link(folder.raw, "/etc/passwd", "new-link")
        case .makeDevice: return unsafe hostile_make_device(folder.raw, "device")
        case .mount: return unsafe hostile_mount(outside)
        case .makeTCPSocket: return hostile_socket(AF_INET)
        case .makeUnixSocket: return hostile_socket(AF_UNIX)
        case .connectTCP: return hostile_connect_tcp(tcpSocket.raw, port)
        case .connectUnix: return unsafe hostile_connect_unix(unixSocket.raw, outside + "/socket", 0)
        case .connectAbstract:
            return unsafe hostile_connect_unix(unixSocket.raw, settings["abstract"] ?? "", 1)
        case .connectOnRing: return try connectOnRing()
        case .traceServer: return hostile_ptrace(server)
        case .readServerMemory:
            return hostile_read_memory(server, settings["address"].flatMap { UInt64($0) } ?? 0)
        case .openServerMemory: return hostile_open_memory(server)
        case .takeServerDescriptor: return hostile_take_descriptor(server)
        case .signalServer: return hostile_signal(server)
        case .signalByDescriptor: return hostile_signal_by_descriptor(unixSocket.raw, server)
        case .outliveServer: return hostile_outlive_parent()
        case .becomeDumpable: return hostile_become_dumpable()
        case .execute: return hostile_execute()
        case .fork: return hostile_fork()
        case .vfork: return hostile_vfork()
        case .cloneProcess: return hostile_clone()
        case .clone3Process: return hostile_clone3()
        case .mapCode: return hostile_map_code()
        case .protectCode: return hostile_protect_code()
        case .newRing: return hostile_new_ring()
        case .asynchronousIO: return hostile_asynchronous_io()
        case .becomeRoot: return hostile_become_root()
        case .becomeServerUser: return hostile_become(settings["server-user"].flatMap { UInt32($0) } ?? 0)
        case .newNamespace: return hostile_new_namespace()
        case .raiseLimit: return hostile_raise_limit()
        case .blockDoorbell: return hostile_block_doorbell()
        case .keyring: return hostile_keyring()
        case .bpf: return hostile_bpf()
        case .takeMemory: return hostile_take_memory(Attempt.memoryBytes, 0)
        case .takeSharedMemory: return hostile_take_memory(Attempt.sharedBytes, 1)
        case .makeSharedMemory: return hostile_make_shared_memory()
        case .openMany: return hostile_open_many(Attempt.descriptors)
        case .manyThreads: return hostile_threads(Attempt.threads)
        case .growFile: return unsafe hostile_grow(folder.raw, "large", Attempt.fileBytes)
        case .fillOtherFolder: return unsafe hostile_grow(AT_FDCWD, "/dev/shm/sluice-escape", 1 << 20)
        }
    }

    private var port: Int32 { settings["port"].flatMap { Int32($0) } ?? 0 }

    // MARK: On a ring

    private let reactor = Mutex<ReactorBox?>(nil)

    /// The host's ring, which was made before the sandbox.
    func take(_ reactor: Reactor) { self.reactor.withLock { $0 = ReactorBox(reactor) } }

    /// Connects by io_uring, of which seccomp sees nothing.
    private func connectOnRing() throws(StatusError) -> Int32 {
        guard let box = reactor.withLock({ $0 }) else { throw StatusError(.badRequest, "there is no ring") }
        let outcome = Outcome()
        let fd = tcpSocket.raw
        let address: SocketAddress
        let thread: ReactorThread
        do throws(ReactorError) {
            address = try SocketAddress(text: "127.0.0.1:\(port)")
            thread = try box.reactor.launch { reactor in
                outcome.reactor = reactor.remote
                let target = reactor.register(outcome)
                reactor.connect(fd: fd, address: address, target: target, token: 0)
            }
        } catch { throw StatusError(.ioError, "\(error)") }
        thread.join()
        return outcome.result.load(ordering: .acquiring)
    }
}

// SAFETY: handed to one thread, which alone uses it from then on.
/// A reactor on its way to its thread.
private struct ReactorBox: @unchecked Sendable {
    let reactor: Reactor

    init(_ reactor: Reactor) { self.reactor = reactor }
}

// SAFETY: `reactor` is touched on the reactor's thread only.
/// Keeps the one result and ends the reactor.
private final class Outcome: CompletionTarget, @unchecked Sendable {
    let result = Atomic<Int32>(0)
    var reactor: ReactorRemote?

    func completed(token: UInt32, result: Int32, flags: CompletionFlags) {
        self.result.store(result, ordering: .releasing)
        reactor?.stop()
    }
}

/// What a driver of volumes has and this one does not.
extension EscapeDriver {
    private var refusal: StatusError { StatusError(.notSupported, "this driver has no volumes") }

    func createVolume(_ id: Identifier, size: UInt64) throws(StatusError) { throw refusal }
    func resizeVolume(_ id: Identifier, to size: UInt64) throws(StatusError) { throw refusal }
    func deleteVolume(_ id: Identifier) throws(StatusError) {}
    func volumes() throws(StatusError) -> [Identifier: UInt64] { [:] }
    func openVolume(_ id: Identifier, index: UInt32) throws(StatusError) -> VolumeGeometry { throw refusal }
    func closeVolume(_ index: UInt32) {}
    func makeQueue(
        reactor: Reactor, arena: Arena, submissions: SubmissionRing, completions: CompletionRing,
        onCompletions: @escaping () -> Void
    ) throws(StatusError) -> any DriverQueue { throw refusal }
}
