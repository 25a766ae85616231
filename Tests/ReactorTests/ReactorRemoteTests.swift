import Core
import Glibc
import Synchronization
import TestSupport
import Testing

@testable import Reactor

@Suite("ReactorRemote: from other threads", .serialized, .blocking)
struct ReactorRemoteTests {
    @Test("posted work runs on the reactor's thread, in the order of each poster")
    func post() throws {
        let log = Mutex<[Int]>([])
        let thread = try Reactor.start(.small) { _ in }
        let remote = thread.remote
        #expect(!remote.isCurrentThread)
        for number in 0..<1000 {
            remote.post {
                if remote.isCurrentThread { log.withLock { $0.append(number) } }
                if number == 999 { remote.stop() }
            }
        }
        thread.join()
        #expect(log.withLock { $0 } == Array(0..<1000))
        #expect(remote.post {} == false)
    }

    @Test("a sleeping reactor is woken by each post")
    func wake() throws {
        let count = Atomic<Int>(0)
        let thread = try Reactor.start(.small) { _ in }
        let remote = thread.remote
        for round in 1...200 {
            remote.post { count.add(1, ordering: .sequentiallyConsistent) }
            while count.load(ordering: .sequentiallyConsistent) < round { sched_yield() }
        }
        remote.stop()
        thread.join()
        #expect(count.load(ordering: .relaxed) == 200)
    }

    @Test("an idle reactor uses no CPU time and makes no system calls")
    func idle() throws {
        let before = Mutex<UInt64>(0)
        let after = Mutex<UInt64>(0)
        let thread = try Reactor.start(.small) { _ in }
        thread.remote.post { before.withLock { $0 = switches() } }
        while before.withLock({ $0 == 0 }) { sched_yield() }
        usleep(300_000)  // the interval that is measured
        thread.remote.post { after.withLock { $0 = switches() } }
        while after.withLock({ $0 == 0 }) { sched_yield() }
        thread.remote.stop()
        thread.join()
        // One sleep, ended by the second post; one more may fall between the first post and its sleep.
        #expect(after.withLock { $0 } - before.withLock { $0 } <= 2)
    }

    @Test("an actor on the executor runs on the reactor's thread")
    func executor() async throws {
        let thread = try Reactor.start(.small) { _ in }
        let counter = Counter(executor: thread.executor, remote: thread.remote)
        await withTaskGroup(of: Void.self) { group in
            for _ in 0..<100 { group.addTask { await counter.count() } }
        }
        #expect(await counter.value == 100)
        #expect(await counter.strayed == false)
        thread.remote.stop()
        await joined(thread)
        // Tasks that outlive their reactor are not stranded.
        #expect(await counter.value == 100)
    }

    private func joined(_ thread: ReactorThread) async {
        await withCheckedContinuation { (continuation: CheckedContinuation<Void, Never>) in
            thread.join()
            continuation.resume()
        }
    }
}

/// `RUSAGE_THREAD`, which the Glibc module lacks.
private let ofThisThread: Int32 = 1

/// Voluntary context switches of the calling thread: how often it slept.
private func switches() -> UInt64 {
    var usage = rusage()
    unsafe getrusage(ofThisThread, &usage)
    return UInt64(usage.ru_nvcsw) + 1
}

private actor Counter {
    let executor: ReactorExecutor
    let remote: ReactorRemote
    var value = 0
    var strayed = false

    init(executor: ReactorExecutor, remote: ReactorRemote) {
        self.executor = executor
        self.remote = remote
    }

    nonisolated var unownedExecutor: UnownedSerialExecutor { unsafe executor.asUnownedSerialExecutor() }

    func count() {
        value += 1
        if !remote.isCurrentThread { strayed = true }
    }
}
