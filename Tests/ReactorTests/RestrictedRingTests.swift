import CURing
import Core
import Glibc
import TestSupport
import Testing

@testable import Reactor

@Suite("A ring with restrictions", .serialized, .blocking)
struct RestrictedRingTests {
    private static var restricted: Reactor.Options {
        var options = Reactor.Options.small
        options.isRestricted = true
        return options
    }

    /// The results of the operations that `body` starts, by token.
    private func results(
        _ options: Reactor.Options, count: Int, _ body: (Reactor, TargetID) throws -> Void
    ) throws -> [UInt32: Int32] {
        var results: [UInt32: Int32] = [:]
        try withReactor(options) { reactor, finish in
            let target = reactor.register(
                Probe { token, result, _ in
                    results[token] = result
                    if results.count == count { finish() }
                })
            try body(reactor, target)
        }
        return results
    }

    @Test("I/O on open descriptors works as on any ring")
    func allowed() throws {
        let (end, heldEnd) = try Sockets.pair()
        let file = try unsafe #require(tmpfile())
        defer {
            closeAll(end)
            _ = unsafe fclose(file)
        }
        let fd = unsafe fileno(file)
        let memory = Memory(512, fill: 7)
        let room = Memory(512)
        let results = try results(Self.restricted, count: 7) { reactor, target in
            reactor.noOperation(target: target, token: 0)
            unsafe reactor.write(
                fd: fd, from: memory.readOnly, at: 0, dataSync: true, target: target, token: 1)
            reactor.fsync(fd: fd, dataOnly: true, target: target, token: 2)
            reactor.fallocate(
                fd: fd, mode: .reserve, offset: 4096, length: 4096, target: target, token: 3)
            reactor.poll(fd: end, events: UInt32(POLLIN | POLLHUP), target: target, token: 4)
            reactor.close(fd: heldEnd, target: target, token: 5)
            unsafe reactor.read(fd: fd, into: room.bytes, at: 8192, target: target, token: 6)
        }
        #expect(results[0] == 0 && results[1] == 512 && results[2] == 0)
        #expect([0, -EOPNOTSUPP].contains(results[3]))
        #expect((results[4] ?? 0) & Int32(POLLHUP) != 0 && results[5] == 0 && results[6] == 0)
    }

    @Test("a path is not opened, a socket not used", arguments: [true, false])
    func refused(isRestricted: Bool) throws {
        var options = Reactor.Options.small
        options.isRestricted = isRestricted
        let listener = try Sockets.listen(SocketAddress(text: "127.0.0.1:0"))
        let address = try Sockets.localAddress(fd: listener.raw)
        let client = FileDescriptor(owning: socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0))
        let (near, far) = try Sockets.pair()
        defer { closeAll(near, far) }
        let word = Memory(8, fill: 1)
        let room = Memory(8)
        let path = unsafe strdup("/dev/null")
        defer { unsafe free(path) }
        let results = try results(options, count: 5) { reactor, target in
            reactor.noOperation(target: target, token: 0)
            unsafe Self.replaceLast(reactor) { unsafe io_uring_prep_openat($0, AT_FDCWD, path, O_RDONLY, 0) }
            reactor.connect(fd: client.raw, address: address, target: target, token: 1)
            unsafe reactor.send(fd: near, word.readOnly, target: target, token: 2)
            unsafe reactor.receive(fd: far, into: room.bytes, target: target, token: 3)
            reactor.noOperation(target: target, token: 4)
            unsafe Self.replaceLast(reactor) { unsafe io_uring_prep_socket($0, AF_UNIX, 1, 0, 0) }
        }
        for (token, result) in results {
            if isRestricted {
                #expect(result == -EACCES, "operation \(token)")
            } else {
                #expect(result >= 0, "operation \(token)")
                if token == 0 || token == 4 { closeAll(result) }
            }
        }
    }

    /// Makes another operation of the last one that was prepared; the completion goes to the same target.
    private static func replaceLast(
        _ reactor: Reactor, _ prepare: (UnsafeMutablePointer<io_uring_sqe>) -> Void
    ) {
        let queue = unsafe reactor.ring.pointee.sq
        let entry = unsafe queue.sqes + Int((queue.sqe_tail &- 1) & queue.ring_mask)
        let name = unsafe entry.pointee.user_data
        unsafe prepare(entry)
        unsafe entry.pointee.user_data = name
    }

    @Test("what a ring holds stays open until the ring is gone, whatever the process closes and asks")
    func hold() throws {
        let (end, heldEnd) = try Sockets.pair()
        defer { closeAll(end) }
        var asked: [Int32] = []
        var openWhileRunning = false
        do {
            let reactor = try Reactor(Self.restricted)
            try reactor.hold(fds: [heldEnd])
            closeAll(heldEnd)
            _ = reactor.remote.postWithReactor { (reactor: Reactor) in
                Self.tryToLetGo(reactor, end)
            }
            let thread = try reactor.launch { _ in }
            thread.join()
            (openWhileRunning, asked) = unsafe Self.record
            #expect(!Self.hasEnded(end, milliseconds: 0))
            withExtendedLifetime(reactor) {}
        }
        #expect(openWhileRunning)
        #expect(asked == [-EACCES, -EACCES])
        #expect(Self.hasEnded(end, milliseconds: 20_000))
    }

    // SAFETY: written on the reactor's thread, read when that was joined; the suite is serialized.
    nonisolated(unsafe) private static var record: (isOpen: Bool, results: [Int32]) = (false, [])

    /// What a driver under someone else's control would try, on a ring that runs.
    private static func tryToLetGo(_ reactor: Reactor, _ end: Int32) {
        let ring = unsafe reactor.ring
        let letGo = unsafe io_uring_unregister_files(ring)
        var none: Int32 = -1
        let replaced = unsafe io_uring_register_files_update(ring, 0, &none, 1)
        unsafe record = (!hasEnded(end, milliseconds: 0), [letGo, replaced])
        reactor.remote.stop()
    }

    private static func hasEnded(_ fd: Int32, milliseconds: Int32) -> Bool {
        var entry = pollfd(fd: fd, events: Int16(POLLIN), revents: 0)
        return unsafe poll(&entry, 1, milliseconds) == 1 && entry.revents & Int16(POLLHUP) != 0
    }
}
