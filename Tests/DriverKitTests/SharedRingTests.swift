import Core
import Glibc
import Testing

@testable import DriverKit

@Suite("Rings between a server and a driver")
struct SharedRingTests {
    @Test("requests and completions have the layout that other processes rely on")
    func layout() {
        #expect(MemoryLayout<DriverRequest>.stride == 64)
        #expect(MemoryLayout<DriverRequest>.offset(of: \.rawOpcode) == 0)
        #expect(MemoryLayout<DriverRequest>.offset(of: \.rawFlags) == 1)
        #expect(MemoryLayout<DriverRequest>.offset(of: \.index) == 4)
        #expect(MemoryLayout<DriverRequest>.offset(of: \.tag) == 8)
        #expect(MemoryLayout<DriverRequest>.offset(of: \.offset) == 16)
        #expect(MemoryLayout<DriverRequest>.offset(of: \.length) == 24)
        #expect(MemoryLayout<DriverRequest>.offset(of: \.buffer) == 32)
        #expect(MemoryLayout<DriverCompletion>.stride == 32)
        #expect(MemoryLayout<DriverCompletion>.offset(of: \.status) == 8)
        #expect(MemoryLayout<DriverCompletion>.offset(of: \.value) == 16)
    }

    @Test("entries come out in order, across many turns of the counts")
    func order() {
        let ring = SubmissionRing(capacity: 8)
        var next: UInt64 = 0
        for tag in 0..<1000 as Range<UInt64> {
            #expect(ring.push(DriverRequest(opcode: .read, index: 1, tag: tag, offset: tag * 2)))
            if tag % 3 == 0 {
                while let request = ring.pop() {
                    #expect(request.tag == next && request.offset == next * 2 && request.opcode == .read)
                    next += 1
                }
            }
        }
        #expect(next == 1000)
        #expect(ring.pop() == nil)
    }

    @Test(
        "however full a ring is when how many are put and taken, the counts add up", arguments: [1, 2, 4, 8])
    func everyDepthAndOrder(capacity: Int) {
        for put in 1...capacity + 1 {
            for take in 1...capacity + 1 {
                let ring = CompletionRing(capacity: capacity)
                var (inside, next, expected): (Int, UInt64, UInt64) = (0, 0, 0)
                for _ in 0..<40 {
                    for _ in 0..<put {
                        let isTaken = ring.push(DriverCompletion(tag: next, status: 0, value: 0))
                        #expect(isTaken == (inside < capacity))
                        if isTaken { (inside, next) = (inside + 1, next + 1) }
                    }
                    for _ in 0..<take {
                        let tag = ring.pop()?.tag
                        #expect(tag == (inside > 0 ? expected : nil))
                        if tag != nil { (inside, expected) = (inside - 1, expected + 1) }
                    }
                    #expect(ring.count == inside && ring.room == capacity - inside && !ring.isBroken)
                }
            }
        }
    }

    @Test("the request that was taken last can be asked for")
    func lastTaken() {
        let ring = SubmissionRing(capacity: 2)
        #expect(ring.lastTaken == nil)
        for tag in 0..<9 as Range<UInt64> {
            #expect(ring.push(DriverRequest(opcode: .read, index: 1, tag: tag)))
            #expect(ring.pop()?.tag == tag && ring.lastTaken?.tag == tag)
        }
    }

    @Test("a full ring refuses, and takes again when something was taken")
    func full() {
        let ring = CompletionRing(capacity: 4)
        for tag in 0..<4 as Range<UInt64> {
            #expect(ring.push(DriverCompletion(tag: tag, status: 0, value: 0)))
        }
        #expect(ring.room == 0 && ring.count == 4)
        #expect(!ring.push(DriverCompletion(tag: 9, status: 0, value: 0)))
        #expect(ring.pop()?.tag == 0)
        #expect(ring.room == 1)
        #expect(ring.push(DriverCompletion(tag: 9, status: 0, value: 0)))
        #expect(!ring.isBroken)
    }

    @Test("a consumer is not led outside the ring by a producer that lies about its count")
    func lyingProducer() {
        let memory = RingMemory(bytes: SharedRing<DriverRequest>.bytesNeeded(capacity: 4))
        let consumer = unsafe SubmissionRing(memory: memory.base, capacity: 4)
        for lie: UInt32 in [5, 1000, .max] {
            unsafe memory.base.storeBytes(of: lie, toByteOffset: 64, as: UInt32.self)
            #expect(consumer.pop() == nil)
            #expect(consumer.count == 0)
            #expect(consumer.isBroken)
        }
    }

    @Test("a producer does not overwrite what was not taken when a consumer lies about its count")
    func lyingConsumer() {
        let memory = RingMemory(bytes: SharedRing<DriverRequest>.bytesNeeded(capacity: 4))
        let producer = unsafe SubmissionRing(memory: memory.base, capacity: 4)
        for tag in 0..<4 as Range<UInt64> {
            #expect(producer.push(DriverRequest(opcode: .read, index: 0, tag: tag)))
        }
        unsafe memory.base.storeBytes(of: UInt32(100), toByteOffset: 0, as: UInt32.self)
        #expect(!producer.push(DriverRequest(opcode: .read, index: 0, tag: 9)))
        #expect(producer.isBroken)
    }

    @Test("one thread's entries arrive whole and in order in another")
    func twoThreads() {
        let memory = RingMemory(bytes: SharedRing<DriverRequest>.bytesNeeded(capacity: 64))
        let total: UInt64 = 200_000
        let producer = Producer(memory: memory, total: total)
        producer.start()
        let consumer = unsafe SubmissionRing(memory: memory.base, capacity: 64)
        var expected: UInt64 = 0
        var isWhole = true
        while expected < total {
            guard let request = consumer.pop() else {
                sched_yield()
                continue
            }
            isWhole =
                isWhole && request.tag == expected && request.buffer == ~expected
                && request.length == expected &* 3
            expected += 1
        }
        producer.join()
        #expect(isWhole)
    }
}

/// Pushes requests from a thread of its own.
// SAFETY: `thread` is written by start and read by join, both of the test's thread.
@safe
private final class Producer: @unchecked Sendable {
    private let memory: RingMemory
    private let total: UInt64
    private var thread = pthread_t()

    init(memory: RingMemory, total: UInt64) {
        self.memory = memory
        self.total = total
    }

    func start() {
        let box = unsafe Unmanaged.passRetained(self).toOpaque()
        let result = unsafe pthread_create(
            &thread, nil,
            { argument in
                guard let argument = unsafe argument else { return nil }
                unsafe Unmanaged<Producer>.fromOpaque(argument).takeRetainedValue().run()
                return nil
            }, box)
        precondition(result == 0, "no thread")
    }

    func join() { pthread_join(thread, nil) }

    private func run() {
        let ring = unsafe SubmissionRing(memory: memory.base, capacity: 64)
        var tag: UInt64 = 0
        while tag < total {
            let request = DriverRequest(opcode: .write, index: 0, tag: tag, length: tag &* 3, buffer: ~tag)
            if ring.push(request) { tag += 1 } else { sched_yield() }
        }
    }
}
