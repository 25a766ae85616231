import Core
import Glibc
import Synchronization
import TestSupport
import Testing

@testable import Reactor

@Suite("Reactor: operations and dispatch", .serialized, .blocking)
struct ReactorTests {
    @Test("the kernel's best mode is used where it is there")
    func bestMode() throws {
        #expect(try Reactor(.small).mode == "defer-taskrun")
    }

    @Test("an operation completes once, with its token, on its target")
    func noOperation() throws {
        var seen: [UInt32] = []
        try withReactor { reactor, finish in
            let target = reactor.register(
                Probe { token, result, flags in
                    #expect(result == 0 && !flags.more && !flags.hasBuffer)
                    seen.append(token)
                    if seen.count == 3 { finish() }
                })
            for token: UInt32 in [7, 0, .max] { reactor.noOperation(target: target, token: token) }
        }
        #expect(seen == [7, 0, .max])
    }

    @Test("a reactor looks for work only while work usually comes soon")
    func polling() throws {
        var options = Reactor.Options.small
        options.pollNanoseconds = 1_000_000
        // 60 sleeps of 5 ms: each would begin with a millisecond of looking.
        var (left, begun, used) = (60, UInt64(0), UInt64.max)
        try withReactor(options) { reactor, finish in
            let probe = Probe()
            let target = reactor.register(probe)
            probe.onCompletion = { _, _, _ in
                if left == 60 { begun = Self.processorTime() }
                left -= 1
                if left > 0 {
                    _ = reactor.setTimer(after: 5_000_000, target: target, token: 0)
                } else {
                    used = Self.processorTime() - begun
                    finish()
                }
            }
            _ = reactor.setTimer(after: 0, target: target, token: 0)
        }
        #expect(used < 30_000_000)
    }

    /// Nanoseconds that this thread has used.
    private static func processorTime() -> UInt64 {
        var time = timespec()
        unsafe clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }

    @Test("a timer that is due while the reactor looks for work is not late")
    func pollingAndTimers() throws {
        var options = Reactor.Options.small
        options.pollNanoseconds = 5_000_000_000
        let begun = SystemClock.monotonic()
        try withReactor(options) { reactor, finish in
            let target = reactor.register(Probe { _, _, _ in finish() })
            _ = reactor.setTimer(after: 1_000_000, target: target, token: 0)
        }
        #expect(SystemClock.monotonic() - begun < 4_000_000_000)
    }

    @Test("a descriptor that is closed keeps its number until the kernel has taken up what came before")
    func closesInOrder() throws {
        let (near, far) = try Sockets.pair()
        defer { closeAll(far) }
        var own = stat()
        #expect(unsafe fstat(near, &own) == 0)
        let memory = Memory(512, fill: 7)
        var results: [UInt32: Int32] = [:]
        try withReactor { reactor, finish in
            let target = reactor.register(
                Probe { token, result, _ in
                    results[token] = result
                    if results.count == 2 { finish() }
                })
            unsafe reactor.send(fd: near, memory.readOnly, target: target, token: 1)
            reactor.cancelAll(fd: near)
            reactor.close(fd: near, target: target, token: 2)
            // Whoever opens something now gets another one, and none of those bytes.
            var now = stat()
            #expect(unsafe fstat(near, &now) == 0 && now.st_ino == own.st_ino && now.st_dev == own.st_dev)
        }
        #expect(results == [1: 512, 2: 0])
        var bytes = [UInt8](repeating: 0, count: 1024)
        #expect(unsafe recv(far, &bytes, bytes.count, Int32(MSG_DONTWAIT)) == 512)
        #expect(bytes[..<512].allSatisfy { $0 == 7 })
        #expect(unsafe recv(far, &bytes, bytes.count, Int32(MSG_DONTWAIT)) == 0, "it is closed")
    }

    @Test("more operations than the submission queue holds all complete")
    func fullSubmissionQueue() throws {
        var seen = Set<UInt32>()
        try withReactor { reactor, finish in
            let probe = Probe()
            let target = reactor.register(probe)
            probe.onCompletion = { token, _, _ in
                if token == 0 {
                    for next: UInt32 in 1...1000 { reactor.noOperation(target: target, token: next) }
                }
                seen.insert(token)
                if seen.count == 1001 { finish() }
            }
            reactor.noOperation(target: target, token: 0)
        }
        #expect(seen.count == 1001)
    }

    @Test("more completions than the completion queue holds are all delivered")
    func completionOverflow() throws {
        var ended = 0
        var pairs: [(near: Int32, far: Int32)] = []
        try withReactor { reactor, finish in
            let probe = Probe()
            let target = reactor.register(probe)
            let count = 1200
            for _ in 0..<count {
                let (near, far) = try Sockets.pair()
                pairs.append((near, far))
            }
            probe.onCompletion = { token, result, _ in
                if token == .max {
                    // More polls become ready at once than the 256 completion entries can take.
                    for (_, far) in pairs { #expect(unsafe Glibc.write(far, "x", 1) == 1) }
                    return
                }
                #expect(result & Int32(POLLIN) != 0)
                ended += 1
                if ended == count { finish() }
            }
            for (index, pair) in pairs.enumerated() {
                reactor.poll(fd: pair.near, events: UInt32(POLLIN), target: target, token: UInt32(index))
            }
            reactor.noOperation(target: target, token: .max)
        }
        for (near, far) in pairs { closeAll(near, far) }
        #expect(ended == 1200)
    }

    @Test("bytes are received in order, whatever the sizes they were sent in")
    func echo() throws {
        let (near, far) = try Sockets.pair()
        defer { closeAll(near, far) }
        let total = 300_000
        let memory = Memory(total)
        for index in 0..<total { unsafe memory.bytes[index] = UInt8(truncatingIfNeeded: index &* 31 >> 3) }
        var received: [UInt8] = []
        try withReactor { reactor, finish in
            let receiver = Probe()
            let target = reactor.register(receiver)
            receiver.onCompletion = { _, result, flags in
                if result == -ECANCELED { return }
                #expect(result > 0 && flags.hasBuffer && flags.more)
                unsafe received.append(contentsOf: reactor.receiveBuffer(flags, count: Int(result)))
                reactor.recycle(flags)
                if received.count == total { finish() }
            }
            reactor.receiveMultishot(fd: near, target: target, token: 1)
            let sender = reactor.register(Probe { _, result, _ in #expect(result == Int32(total)) })
            unsafe reactor.send(fd: far, memory.readOnly, target: sender, token: 2)
        }
        #expect(received == memory.contents)
    }

    @Test("a receive that runs out of buffers goes on when they come back, unseen by its target")
    func buffersExhausted() throws {
        let (near, far) = try Sockets.pair()
        defer { closeAll(near, far) }
        let total = 200_000
        let memory = Memory(total, fill: 9)
        var held: [CompletionFlags] = []
        var count = 0
        var pauses = 0
        try withReactor { reactor, finish in
            let receiver = Probe()
            let target = reactor.register(receiver)
            let releaser = Probe()
            let releaserID = reactor.register(releaser)
            releaser.onCompletion = { _, _, _ in
                pauses += 1
                for flags in held { reactor.recycle(flags) }
                held.removeAll()
            }
            receiver.onCompletion = { _, result, flags in
                if result == -ECANCELED { return }
                #expect(result > 0 && flags.more)
                count += Int(result)
                held.append(flags)
                if count == total {
                    finish()
                } else if held.count == 16 {
                    _ = reactor.setTimer(after: 1_000_000, target: releaserID, token: 0)
                }
            }
            reactor.receiveMultishot(fd: near, target: target, token: 1)
            let sender = reactor.register(Probe())
            unsafe reactor.send(fd: far, memory.readOnly, target: sender, token: 2)
        }
        #expect(count == total)
        #expect(pauses > 1)
    }

    @Test("the end of a stream is a result of 0 without more")
    func endOfStream() throws {
        let (near, far) = try Sockets.pair()
        defer { closeAll(near) }
        var results: [Int32] = []
        try withReactor { reactor, finish in
            let target = reactor.register(
                Probe { _, result, flags in
                    results.append(result)
                    if flags.hasBuffer { reactor.recycle(flags) }
                    if !flags.more { finish() }
                })
            reactor.receiveMultishot(fd: near, target: target, token: 1)
            closeAll(far)
        }
        #expect(results == [0])
    }

    @Test("a listener accepts many connections with one operation, and tells its address")
    func accept() throws {
        let listener = try Sockets.listen(SocketAddress(text: "127.0.0.1:0"))
        let address = try Sockets.localAddress(fd: listener.raw)
        #expect(address.port != 0)
        var accepted: [Int32] = []
        var connected = 0
        try withReactor { reactor, finish in
            let acceptor = reactor.register(
                Probe { _, result, flags in
                    if result == -ECANCELED { return }
                    #expect(result >= 0 && flags.more)
                    accepted.append(result)
                    if accepted.count == 5 && connected == 5 { finish() }
                })
            reactor.acceptMultishot(fd: listener.raw, target: acceptor, token: 1)
            let connector = reactor.register(
                Probe { _, result, _ in
                    #expect(result == 0)
                    connected += 1
                    if accepted.count == 5 && connected == 5 { finish() }
                })
            for token: UInt32 in 0..<5 {
                let socket = try Sockets.stream(family: address.family).take()
                reactor.connect(fd: socket, address: address, target: connector, token: token)
            }
        }
        #expect(accepted.count == 5)
        for fd in accepted { closeAll(fd) }
    }

    @Test("connecting to a closed port fails with the kernel's errno")
    func refused() throws {
        let listener = try Sockets.listen(SocketAddress(text: "127.0.0.1:0"))
        let address = try Sockets.localAddress(fd: listener.raw)
        try listener.close()
        var results: [Int32] = []
        let socket = try Sockets.stream(family: address.family)
        try withReactor { reactor, finish in
            let target = reactor.register(
                Probe { _, result, _ in
                    results.append(result)
                    finish()
                })
            reactor.connect(fd: socket.raw, address: address, target: target, token: 0)
        }
        #expect(results == [-ECONNREFUSED])
    }

    @Test("a file is written, made durable, changed in allocation and read back")
    func file() throws {
        let path = "/tmp/sluice-reactor-\(getpid())-\(UInt32.random(in: 0 ... .max))"
        let file = FileDescriptor(owning: unsafe open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600))
        unsafe unlink(path)
        let data = Memory(8192, fill: 5)
        let back = Memory(8192, fill: 1)
        var results: [Int32] = []
        try withReactor { reactor, finish in
            let probe = Probe()
            let target = reactor.register(probe)
            probe.onCompletion = { token, result, _ in
                results.append(result)
                switch token {
                case 0: reactor.fsync(fd: file.raw, dataOnly: true, target: target, token: 1)
                case 1:
                    reactor.fallocate(
                        fd: file.raw, mode: .punchHole, offset: 4096, length: 4096, target: target, token: 2)
                case 2: unsafe reactor.read(fd: file.raw, into: back.bytes, at: 0, target: target, token: 3)
                default: finish()
                }
            }
            unsafe reactor.write(
                fd: file.raw, from: data.readOnly, at: 0, dataSync: true, target: target, token: 0)
        }
        #expect(results == [8192, 0, 0, 8192])
        #expect(back.contents == [UInt8](repeating: 5, count: 4096) + [UInt8](repeating: 0, count: 4096))
    }

    @Test("timers fire in the order of their deadlines, cancelled ones never")
    func timers() throws {
        var fired: [UInt32] = []
        try withReactor { reactor, finish in
            let target = reactor.register(
                Probe { token, result, _ in
                    #expect(result == 0)
                    fired.append(token)
                    if fired.count == 3 { finish() }
                })
            _ = reactor.setTimer(after: 3_000_000, target: target, token: 3)
            _ = reactor.setTimer(after: 1_000_000, target: target, token: 1)
            let cancelled = reactor.setTimer(after: 1_500_000, target: target, token: 9)
            _ = reactor.setTimer(after: 2_000_000, target: target, token: 2)
            reactor.cancelTimer(cancelled)
            reactor.cancelTimer(cancelled)
        }
        #expect(fired == [1, 2, 3])
    }

    @Test("a target's timers do not fire after it was unregistered")
    func timerOfUnregistered() throws {
        var fired = 0
        try withReactor { reactor, finish in
            let gone = reactor.register(Probe { _, _, _ in fired += 1 })
            _ = reactor.setTimer(after: 0, target: gone, token: 0)
            reactor.unregister(gone)
            let end = reactor.register(Probe { _, _, _ in finish() })
            _ = reactor.setTimer(after: 1_000_000, target: end, token: 0)
        }
        #expect(fired == 0)
    }

    @Test(
        "batch ends run after all completions of a wake-up, and those asked for meanwhile in the same round")
    func batchEnds() throws {
        var log: [String] = []
        try withReactor { reactor, finish in
            let inner = BatchProbe {
                log.append("inner")
                finish()
            }
            let outer = BatchProbe {
                log.append("outer")
                reactor.atBatchEnd(inner)
            }
            let target = reactor.register(
                Probe { token, _, _ in
                    log.append("completion \(token)")
                    if token == 0 { reactor.atBatchEnd(outer) }
                })
            reactor.noOperation(target: target, token: 0)
            reactor.noOperation(target: target, token: 1)
        }
        #expect(log == ["completion 0", "completion 1", "outer", "inner"])
    }

    @Test("a target lives until its last operation has completed, and no longer")
    func lifetime() throws {
        let (near, far) = try Sockets.pair()
        defer { closeAll(near, far) }
        var log: [String] = []
        try withReactor { reactor, finish in
            do {
                let probe = Probe { _, result, _ in log.append("completed \(result)") }
                probe.onDeinit = {
                    log.append("released")
                    finish()
                }
                let target = reactor.register(probe)
                reactor.receiveMultishot(fd: near, target: target, token: 1)
                reactor.unregister(target)
            }
            log.append("unregistered")
        }
        #expect(log == ["unregistered", "completed \(-ECANCELED)", "released"])
    }

    @Test("cancelling ends a multishot operation and a plain one with ECANCELED")
    func cancel() throws {
        let (near, far) = try Sockets.pair()
        defer { closeAll(near, far) }
        let memory = Memory(64)
        var results: [UInt32: Int32] = [:]
        try withReactor { reactor, finish in
            let target = reactor.register(
                Probe { token, result, flags in
                    #expect(!flags.more)
                    results[token] = result
                    if results.count == 3 { finish() }
                })
            reactor.receiveMultishot(fd: near, target: target, token: 1)
            unsafe reactor.receive(fd: far, into: memory.bytes, target: target, token: 2)
            reactor.poll(fd: far, events: UInt32(POLLIN), target: target, token: 3)
            reactor.cancel(target: target, token: 1)
            reactor.cancelAll(fd: far)
        }
        #expect(results == [1: -ECANCELED, 2: -ECANCELED, 3: -ECANCELED])
    }

    @Test("stopping cancels what is in flight and delivers it before run returns")
    func stopDrains() throws {
        let (near, far) = try Sockets.pair()
        defer { closeAll(near, far) }
        var results: [UInt32: Int32] = [:]
        var released = false
        try withReactor { reactor, finish in
            let probe = Probe()
            let target = reactor.register(probe)
            probe.onDeinit = { released = true }
            probe.onCompletion = { [unowned probe] token, result, _ in
                _ = probe
                results[token] = result
                if token == 0 { finish() }
                // Starting anew while stopping is refused, and says so.
                if token == 1 { reactor.poll(fd: near, events: UInt32(POLLIN), target: target, token: 2) }
            }
            reactor.receiveMultishot(fd: near, target: target, token: 1)
            reactor.noOperation(target: target, token: 0)
        }
        #expect(results == [0: 0, 1: -ECANCELED, 2: -ECANCELED])
        #expect(released)
    }
}
