import Core
import Glibc
import TestSupport
import Testing

@testable import Reactor

@Suite("What a reactor program needs of the system", .serialized, .blocking)
struct SystemTests {
    @Test(
        "an address is read and written in the same form",
        arguments: ["127.0.0.1:7481", "0.0.0.0:0", "[::1]:65535", "[2001:db8::1]:80", "unix:/run/x.sock"])
    func address(text: String) throws {
        #expect(try SocketAddress(text: text).description == text)
    }

    @Test(
        "what is not an address is refused with the right form",
        arguments: [
            "", "localhost:80", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1", "::1:80",
            "[::1]",
            "[127.0.0.1]:80", "1.2.3:80", "unix:", "127.0.0.1:+80", "127.0.0.1:080000",
            "unix:/" + String(repeating: "x", count: 108),
        ])
    func badAddress(text: String) {
        #expect(throws: ReactorError.badAddress(text)) { try SocketAddress(text: text) }
    }

    @Test("two listeners on one port: the second is told why")
    func portTaken() throws {
        let first = try Sockets.listen(SocketAddress(text: "127.0.0.1:0"))
        let address = try Sockets.localAddress(fd: first.raw)
        #expect(throws: ReactorError.system(call: "bind \(address)", errno: EADDRINUSE)) {
            _ = try Sockets.listen(address)
        }
    }

    @Test(
        "all addresses of IPv6 are those of IPv4, too, unless another listener has these",
        .enabled(if: Sockets.hasIPv6))
    func bothFamilies() throws {
        let every = try SocketAddress(text: "[::]:0")
        let listener = try Sockets.listen(every)
        let port = try Sockets.localAddress(fd: listener.raw).port
        for host in ["127.0.0.1", "::1"] {
            let client = try Sockets.connect(try SocketAddress(host: host, port: port))
            let accepted = try Sockets.accept(fd: listener.raw)
            let peer = try Sockets.peerAddress(fd: accepted.raw)
            #expect(peer == (try Sockets.localAddress(fd: client.raw)) && peer.host == host)
            #expect(try Sockets.localAddress(fd: accepted.raw).host == host)
        }
        let v4 = try Sockets.listen(SocketAddress(text: "0.0.0.0:0"))
        let other = try SocketAddress(host: "::", port: Sockets.localAddress(fd: v4.raw).port)
        let both = [try Sockets.localAddress(fd: v4.raw), other]
        #expect(throws: ReactorError.system(call: "bind \(other)", errno: EADDRINUSE)) {
            _ = try Sockets.listen(other)
        }
        let v6 = try Sockets.listen(other, beside: both)
        let client = try Sockets.connect(try SocketAddress(host: "::1", port: other.port))
        #expect(try Sockets.peerAddress(fd: client.raw).host == "::1")
        _ = try Sockets.accept(fd: v6.raw)
    }

    @Test("shared memory is zeroed, of fixed size, and seen through a second mapping")
    func sharedMemory() throws {
        let memory = try SharedMemory(name: "test", bytes: 5000)
        #expect(memory.bytes == 8192)
        unsafe memory.base.storeBytes(of: 77, toByteOffset: 4100, as: UInt8.self)
        let other = try SharedMemory(mapping: memory.descriptor.duplicate(), bytes: 8192)
        #expect(unsafe other.base.load(fromByteOffset: 4100, as: UInt8.self) == 77)
        #expect(unsafe other.base.load(fromByteOffset: 0, as: UInt64.self) == 0)
        #expect(ftruncate(memory.descriptor.raw, 0) == -1)
        #expect(throws: ReactorError.self) {
            _ = try SharedMemory(mapping: memory.descriptor.duplicate(), bytes: 8193)
        }
    }

    @Test("a child's status and its signal are told apart")
    func childProcess() throws {
        var exits: [ChildProcess.Exit] = []
        try withReactor { reactor, finish in
            let shell = try ChildProcess(executable: "/bin/sh", arguments: ["-c", "exit 7"], environment: [])
            shell.onExit(reactor: reactor) { exit in
                exits.append(exit)
                if exits.count == 2 { finish() }
            }
            let sleeper = try ChildProcess(executable: "/bin/sleep", arguments: ["100"], environment: [])
            sleeper.onExit(reactor: reactor) { exit in
                exits.append(exit)
                if exits.count == 2 { finish() }
            }
            sleeper.signal(SIGTERM)
        }
        #expect(Set(exits) == [.exited(7), .signalled(SIGTERM)])
    }

    @Test("a program that is not there is an error, not a child")
    func noProgram() {
        #expect(throws: ReactorError.system(call: "posix_spawn /no/such", errno: ENOENT)) {
            _ = try ChildProcess(executable: "/no/such", arguments: [], environment: [])
        }
    }

    @Test("a child that nobody waits for is killed with its owner")
    func abandoned() throws {
        let processID = try ChildProcess(executable: "/bin/sleep", arguments: ["100"], environment: [])
            .processID
        #expect(kill(processID, 0) == -1)
    }

    @Test("blocked signals arrive on the reactor")
    func signals() throws {
        Signals.block([SIGUSR2])
        var seen: [Int32] = []
        try withReactor { reactor, finish in
            try Signals.forward([SIGUSR2], on: reactor) { signal in
                seen.append(signal)
                finish()
            }
            _ = pthread_kill(pthread_self(), SIGUSR2)
        }
        #expect(seen == [SIGUSR2])
    }

    @Test("every failure to set up io_uring names what to do")
    func remedies() {
        #expect(ReactorError.fromSetup(errno: ENOSYS) == .notInKernel)
        #expect(ReactorError.fromSetup(errno: EPERM) == .forbidden)
        #expect(ReactorError.fromSetup(errno: ENOMEM) == .lockedMemory)
        #expect(ReactorError.forbidden.description.contains("seccomp"))
        #expect(ReactorError.disabledBySysctl(value: 2).description.contains("kernel.io_uring_disabled=0"))
        #expect(ReactorError.lockedMemory.description.contains("RLIMIT_MEMLOCK"))
        #expect(
            ReactorError.system(call: "open", errno: ENOENT).description == "open: No such file or directory")
    }

    @Test("random bytes and clocks answer")
    func sources() {
        let random = SystemRandom()
        #expect(random.bytes(0).isEmpty)
        #expect(random.bytes(1000) != random.bytes(1000))
        let first = SystemClock().now()
        #expect(SystemClock().now() >= first)
        #expect(SystemWallClock().now() > 1_600_000_000)
    }
}
