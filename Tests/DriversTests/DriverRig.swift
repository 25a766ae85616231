import Core
import DriverKit
import Glibc
import Reactor
import Synchronization
import Testing

@testable import Drivers

// SAFETY: `side` is touched on the reactor's thread only; the arena by the test's thread only while no
// request of its is under way; `Drivers` are Sendable.
/// A driver, one queue of it on a reactor of its own, and a way to use both from a test's thread.
@safe
final class DriverRig: @unchecked Sendable {
    /// What lives on the reactor's thread.
    private final class Side {
        let submissions = SubmissionRing(capacity: 512)
        let completions = CompletionRing(capacity: 512)
        var queue: (any DriverQueue)?
        var waiting: [DriverRequest] = []
        var batch: Batch?
    }

    /// Requests that were given to the queue together.
    final class Batch: Sendable {
        fileprivate let results = Mutex<[UInt64: DriverCompletion]>([:])
        fileprivate let count: Int
        fileprivate let done = TestSignal()

        fileprivate init(count: Int) { self.count = count }

        /// Waits for all completions, in the requests' order.
        func wait() throws -> [DriverCompletion] {
            try done.wait()
            return try results.withLock { results in
                try (0..<UInt64(count)).map { try #require(results[$0]) }
            }
        }
    }

    let driver: any VolumeDriver
    let arena: Arena
    let allocator: ArenaAllocator
    private let thread: ReactorThread
    private let side = Side()

    init(_ driver: any VolumeDriver, arenaBytes: Int = 16 << 20) throws {
        self.driver = driver
        let arena = try Arena(bytes: arenaBytes)
        self.arena = arena
        allocator = ArenaAllocator(arena: arena)
        let side = side
        let ready = TestSignal()
        let failure = Mutex<StatusError?>(nil)
        // SAFETY: from here on only the reactor's thread touches it.
        nonisolated(unsafe) let confined = side
        var options = Reactor.Options()
        options.entries = 256
        options.receiveBufferCount = 1
        options.receiveBufferBytes = 4096
        thread = try Reactor.start(options) { reactor in
            let side = unsafe confined
            do throws(StatusError) {
                side.queue = try driver.makeQueue(
                    reactor: reactor, arena: arena, submissions: side.submissions,
                    completions: side.completions,
                    onCompletions: { DriverRig.collect(side) })
            } catch { failure.withLock { $0 = error } }
            ready.raise()
        }
        try ready.wait()
        if let error = failure.withLock({ $0 }) { throw error }
    }

    /// Ends the queue and its reactor.
    func stop() throws {
        try onReactor { side in
            side.queue?.stop()
            side.queue = nil
        }
        thread.remote.stop()
        thread.join()
    }

    private func onReactor(_ body: @escaping @Sendable (Side) -> Void) throws {
        let done = TestSignal()
        thread.remote.post { [self] in
            body(side)
            done.raise()
        }
        try done.wait()
    }

    /// Opens a volume under an index and tells the queue.
    @discardableResult
    func open(_ id: Identifier, index: UInt32) throws -> VolumeGeometry {
        let geometry = try driver.openVolume(id, index: index)
        try changed(index)
        return geometry
    }

    /// Closes an index and tells the queue.
    func close(_ index: UInt32) throws {
        driver.closeVolume(index)
        try changed(index)
    }

    /// Tells the queue that a volume changed.
    func changed(_ index: UInt32) throws {
        try onReactor { $0.queue?.indexChanged(index) }
    }

    /// Puts all requests into the ring at once and waits for all completions, in the requests' order. Tags
    /// are set here.
    func perform(_ requests: [DriverRequest]) throws -> [DriverCompletion] {
        try begin(requests).wait()
    }

    /// Puts all requests into the ring at once. One batch at a time.
    func begin(_ requests: [DriverRequest]) -> Batch {
        let batch = Batch(count: requests.count)
        var tagged = requests
        for index in tagged.indices { tagged[index].tag = UInt64(index) }
        let all = tagged
        thread.remote.post { [self] in
            side.batch = batch
            side.waiting = all
            DriverRig.submit(side)
        }
        return batch
    }

    /// The statuses of what is done of a batch, by request; after two rounds of the reactor.
    func statuses(_ batch: Batch) throws -> [Int: Status] {
        for _ in 0..<2 { try onReactor { _ in } }
        return batch.results.withLock { results in
            var statuses: [Int: Status] = [:]
            for (tag, completion) in results { statuses[Int(tag)] = Status(rawValue: completion.status) }
            return statuses
        }
    }

    /// The status of one request.
    func status(_ request: DriverRequest) throws -> Status? {
        Status(rawValue: try perform([request])[0].status)
    }

    private static func submit(_ side: Side) {
        var moved = 0
        while moved < side.waiting.count, side.submissions.push(side.waiting[moved]) { moved += 1 }
        side.waiting.removeFirst(moved)
        side.queue?.process()
        collect(side)
    }

    private static func collect(_ side: Side) {
        guard let batch = side.batch else { return }
        var got = false
        while let completion = side.completions.pop() {
            got = true
            let count = batch.results.withLock { results in
                if results.updateValue(completion, forKey: completion.tag) != nil {
                    Issue.record("a request was completed twice")
                }
                return results.count
            }
            if count == batch.count { batch.done.raise() }
        }
        if got && !side.waiting.isEmpty { submit(side) }
    }

    // MARK: Data

    func fill(_ buffer: ArenaBuffer, _ bytes: [UInt8]) {
        precondition(bytes.count <= Int(buffer.bytes), "more bytes than the buffer has")
        unsafe (arena.base + Int(buffer.offset)).copyMemory(from: bytes, byteCount: bytes.count)
    }

    func bytes(_ buffer: ArenaBuffer, _ count: Int) -> [UInt8] {
        unsafe [UInt8](UnsafeRawBufferPointer(start: arena.base + Int(buffer.offset), count: count))
    }

    /// Writes bytes at an offset.
    func write(
        _ bytes: [UInt8], at offset: UInt64, volume: UInt32 = 0, flags: DriverFlags = []
    ) throws -> Status? {
        let buffer = try #require(allocator.allocate(bytes.count))
        defer { allocator.free(buffer) }
        fill(buffer, bytes)
        return try status(
            DriverRequest(
                opcode: .write, flags: flags, index: volume, tag: 0, offset: offset,
                length: UInt64(bytes.count),
                buffer: buffer.offset))
    }

    /// Reads bytes at an offset; the status must be ok.
    func read(_ count: Int, at offset: UInt64, volume: UInt32 = 0) throws -> [UInt8] {
        let buffer = try #require(allocator.allocate(count))
        defer { allocator.free(buffer) }
        // What was in the buffer before must not show.
        fill(buffer, [UInt8](repeating: 0xEE, count: count))
        let status = try status(
            DriverRequest(
                opcode: .read, index: volume, tag: 0, offset: offset, length: UInt64(count),
                buffer: buffer.offset))
        #expect(status == .ok)
        return bytes(buffer, count)
    }

    /// A request without data.
    func range(
        _ opcode: DriverOpcode, at offset: UInt64 = 0, _ length: UInt64 = 0, volume: UInt32 = 0,
        flags: DriverFlags = []
    ) throws -> Status? {
        try status(
            DriverRequest(
                opcode: opcode, flags: flags, index: volume, tag: 0, offset: offset, length: length))
    }
}

/// Lets one thread wait for another, for at most a minute.
final class TestSignal: Sendable {
    struct Late: Error {}
    private let semaphore = ThreadSemaphore()

    func raise() { semaphore.signal() }

    func wait() throws {
        guard semaphore.wait(milliseconds: 60_000) else { throw Late() }
        // It stays raised.
        semaphore.signal()
    }
}

/// A folder that goes with its last user.
final class TestFolder: Sendable {
    let path: String

    init(under parent: String = "/tmp") throws {
        path = "\(parent)/sluice-drivers-\(getpid())-\(UInt64.random(in: 0 ... .max))"
        try #require(unsafe mkdir(path, 0o700) == 0)
    }

    deinit {
        _ = try? ChildProcess(executable: "/bin/rm", arguments: ["-rf", path], environment: []).wait()
    }
}

/// Compares as fast in a debug build as in a release build.
func areEqual(_ left: [UInt8], _ right: [UInt8]) -> Bool {
    unsafe left.count == right.count && memcmp(left, right, left.count) == 0
}

/// Whether all bytes are this one.
func areAll(_ bytes: [UInt8], _ byte: UInt8) -> Bool {
    areEqual(bytes, [UInt8](repeating: byte, count: bytes.count))
}

extension Identifier {
    /// An identifier for tests.
    static func test(_ number: UInt64) -> Identifier { Identifier(high: 0x7E57, low: number) }
}
