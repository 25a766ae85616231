import Core
import DriverKit
import Simulation
import Testing

@testable import Services

@Suite struct FairQueueTests {
    private static let second: UInt64 = 1_000_000_000

    /// The tag says whose request it is.
    private func request(_ flow: UInt32, _ number: UInt64 = 0) -> DriverRequest {
        DriverRequest(opcode: .read, index: 0, tag: UInt64(flow) << 32 | number)
    }

    private func owner(_ request: DriverRequest) -> UInt32 { UInt32(request.tag >> 32) }

    private func queue(flows: UInt32 = 4, window: FairQueue.Window = FairQueue.Window()) -> FairQueue {
        var queue = FairQueue(window: window)
        queue.prepare(flows - 1)
        return queue
    }

    private func add(
        _ queue: inout FairQueue, _ flow: UInt32, count: Int, bytes: UInt32 = 4096, now: UInt64 = 0
    ) {
        for number in 0..<count {
            queue.touch(flow, now: now)
            queue.append(request(flow, UInt64(number)), flow: flow, bytes: bytes)
        }
    }

    private func drain(_ queue: inout FairQueue) -> [UInt32] {
        var owners: [UInt32] = []
        while let next = queue.next(now: 1) { owners.append(owner(next)) }
        return owners
    }

    @Test func aSessionThatIsAloneGetsWhatADriverTakes() {
        var queue = queue()
        add(&queue, 0, count: 1000)
        #expect(drain(&queue).count == Limits.sessionRequestsAlone)
        queue.completed(flow: 0, bytes: 4096, now: 1)
        #expect(drain(&queue) == [0])
        #expect(queue.count == 1000 - Limits.sessionRequestsAlone - 1)
    }

    @Test func requestsOfOneSessionStayInOrder() {
        var queue = queue()
        add(&queue, 2, count: 100)
        var numbers: [UInt64] = []
        while let next = queue.next(now: 1) { numbers.append(next.tag & 0xFFFF_FFFF) }
        #expect(numbers == Array(0..<100))
        #expect(queue.isEmpty)
    }

    /// Whatever sizes, flows and depths: as long as what the driver has comes back, everything comes out, and each question
    /// has an answer.
    @Test(arguments: [1, 2, 3, 8], [1, 2, 64, 1000])
    func everythingComesOutWhateverWaits(_ flows: UInt32, _ depth: Int) {
        for bytes: UInt32 in [0, 1, 512, 4096, 16 << 10, (1 << 20) - 512, 1 << 20, 4 << 20] {
            for inOrder in [true, false] {
                var queue = queue(flows: flows)
                var now: UInt64 = 1
                for flow in 0..<flows {
                    add(&queue, flow, count: depth, bytes: flow == 0 ? bytes : 512, now: now)
                }
                var inDriver: [UInt32] = []
                var out = 0
                while out < Int(flows) * depth {
                    while let next = queue.next(now: now) { inDriver.append(owner(next)) }
                    guard !inDriver.isEmpty else {
                        Issue.record("\(queue.count) wait, and the driver has nothing")
                        return
                    }
                    // Some of what it has, or all.
                    for _ in 0..<max(inDriver.count / 2, 1) {
                        let flow = inOrder ? inDriver.removeFirst() : inDriver.removeLast()
                        now += 30_000
                        queue.completed(flow: flow, bytes: flow == 0 ? bytes : 512, now: now)
                        out += 1
                    }
                }
                #expect(queue.isEmpty && queue.next(now: now) == nil)
            }
        }
    }

    @Test func aNewcomerIsNextHoweverMuchWaits() {
        var queue = queue()
        add(&queue, 0, count: 1000)
        _ = drain(&queue)
        add(&queue, 1, count: 1)
        #expect(drain(&queue) == [1])
    }

    @Test func whoSharesHasABoundedPartOfTheDriver() {
        var queue = queue()
        add(&queue, 1, count: 1)
        add(&queue, 0, count: 1000)
        let given = drain(&queue)
        #expect(given.count { $0 == 0 } == Limits.sharedRequests / 2)
        // What is large is bounded by its bytes.
        var large = self.queue()
        add(&large, 1, count: 1)
        add(&large, 0, count: 100, bytes: 1 << 18)
        #expect(drain(&large).count { $0 == 0 } == Limits.sharedBytes / 2 / (1 << 18))
        // One request may always go, however large.
        var huge = self.queue()
        add(&huge, 1, count: 1)
        add(&huge, 0, count: 3, bytes: 1 << 24)
        #expect(drain(&huge).count { $0 == 0 } == 1)
    }

    @Test func aSessionThatIsAloneAgainGetsEverythingAgain() {
        var queue = queue()
        add(&queue, 1, count: 1, now: 0)
        add(&queue, 0, count: 1000, now: 0)
        #expect(drain(&queue).count < 100)
        let later = 3 * Limits.fairPeriodNanoseconds
        add(&queue, 0, count: 1, now: later)
        // However long the driver needs for what the other wanted, it is there.
        #expect(drain(&queue).isEmpty)
        queue.completed(flow: 1, bytes: 4096, now: later)
        add(&queue, 0, count: 1, now: later)
        #expect(drain(&queue).count == Limits.sessionRequestsAlone - Limits.sharedRequests / 2)
    }

    @Test func bytesAreSharedNotRequests() {
        // Without a window, so that the order alone decides.
        let open = FairQueue.Window(sharedRequests: 1 << 20, sharedBytes: 1 << 40)
        var queue = queue(window: open)
        add(&queue, 0, count: 500, bytes: 128 << 10)
        add(&queue, 1, count: 20_000, bytes: 4096)
        var costs = [0, 0]
        for _ in 0..<5000 {
            guard let next = queue.next(now: 1) else { break }
            costs[Int(owner(next))] += (owner(next) == 0 ? 128 << 10 : 4096) + Limits.fairRequestCost
        }
        #expect(abs(costs[0] - costs[1]) <= 2 * ((128 << 10) + Limits.fairQuantumBytes))
    }

    @Test func aSessionThatComesAgainAndAgainDoesNotStarveOthers() {
        let open = FairQueue.Window(sharedRequests: 1 << 20, sharedBytes: 1 << 40)
        var queue = queue(window: open)
        add(&queue, 0, count: 1000, bytes: 64 << 10)
        var taken = [0, 0]
        for _ in 0..<400 {
            add(&queue, 1, count: 1, bytes: 64 << 10)
            // It always wants one more as soon as it got one.
            while let next = queue.next(now: 1) {
                taken[Int(owner(next))] += 1
                if owner(next) == 1 { break }
            }
        }
        #expect(taken[0] * 3 > taken[1])
    }

    @Test func whatIsWithdrawnIsNotGiven() {
        var queue = queue()
        add(&queue, 0, count: 10)
        add(&queue, 1, count: 3)
        let withdrawn = queue.withdraw { $0 >> 32 == 0 && $0 % 2 == 0 || $0 >> 32 == 1 }
        #expect(withdrawn.count == 8)
        var left: [UInt64] = []
        while let next = queue.next(now: 1) { left.append(next.tag) }
        #expect(left == [1, 3, 5, 7, 9])
        for _ in withdrawn.prefix(5) { queue.completed(flow: 0, bytes: 4096, now: 1) }
        for _ in 0..<3 { queue.completed(flow: 1, bytes: 4096, now: 1) }
        add(&queue, 0, count: 1)
        #expect(drain(&queue) == [0])
        #expect(queue.isEmpty)
    }

    @Test func creditsLeaveRoomForOthers() {
        var queue = queue(flows: 8)
        let arena = 1 << 20
        var used = 0
        func take(_ flow: UInt32) -> Bool {
            queue.touch(flow, now: 0)
            guard queue.mayTake(4096, flow: flow, free: arena - used), used + 4096 <= arena else {
                return false
            }
            queue.charge(4096, flow: flow)
            used += 4096
            return true
        }
        // Alone: everything.
        while take(0) {}
        #expect(used == arena)
        while used > 0 {
            queue.charge(-4096, flow: 0)
            used -= 4096
        }
        // In company: of three that take all they can, each a quarter, and a quarter is left.
        for flow in UInt32(1)...3 { _ = take(flow) }
        while [1, 2, 3].map({ take($0) }).contains(true) {}
        #expect(arena - used >= arena / 4 - 3 * 4096)
        #expect(take(4), "a newcomer finds room")
    }

    /// A driver that serves one request after the other, a session that floods it, and one that wants a
    /// request now and then.
    @Test(arguments: [UInt32(4096), 128 << 10])
    func inASimulationAFloodDelaysItself(bytes: UInt32) {
        var random = SplitMix(seed: 7)
        var queue = queue()
        var driver: [(flow: UInt32, bytes: UInt32)] = []
        var (now, waits, begun): (UInt64, [UInt64], UInt64?) = (0, [], nil)
        var nextAt: UInt64 = 0
        var flooded = 0
        while waits.count < 2000 {
            // A memory-like device: 1 us and 5 GB/s.
            while flooded < 1000 {
                queue.touch(0, now: now)
                queue.append(request(0), flow: 0, bytes: bytes)
                flooded += 1
            }
            if begun == nil, now >= nextAt {
                begun = now
                queue.touch(1, now: now)
                queue.append(request(1), flow: 1, bytes: 4096)
            }
            while let next = queue.next(now: now + 1) {
                driver.append((owner(next), owner(next) == 0 ? bytes : 4096))
            }
            let done = driver.removeFirst()
            now += 1000 + UInt64(done.bytes) / 5
            queue.completed(flow: done.flow, bytes: done.bytes, now: now + 1)
            if done.flow == 0 {
                flooded -= 1
            } else if let start = begun {
                waits.append(now - start)
                begun = nil
                nextAt = now + random.next() % 200_000
            }
        }
        // The first meets what was given while nobody else was there.
        let longest = waits.dropFirst().max() ?? 0
        let share = UInt64(Limits.sharedBytes / 2 / 5 + Limits.sharedRequests / 2 * 1000 + 2000)
        #expect(longest <= share)
        // The window follows the delay: not many wait longer than what is borne, and a request of the flood.
        let borne = Limits.delayNanosecondsMin + 2000 + UInt64(bytes) / 5 + 1000
        #expect(waits.suffix(1000).count { $0 > borne } < 200)
    }

    @Test func onlyOfAFastDriverALoneRequestIsExpectedSoon() {
        for (delay, isExpected) in [(Limits.loneDelayMax, true), (Limits.loneDelayMax + 1, false)] {
            var queue = queue()
            // The first shows how long it takes.
            add(&queue, 0, count: 1)
            _ = queue.next(now: 1)
            queue.completed(flow: 0, bytes: 4096, now: 1 + delay)
            #expect(!queue.expectsLoneRequest)
            add(&queue, 0, count: 1)
            _ = queue.next(now: 1 + delay)
            #expect(queue.expectsLoneRequest == isExpected)
            // Two are not lone.
            add(&queue, 0, count: 1)
            _ = queue.next(now: 2 + delay)
            #expect(!queue.expectsLoneRequest)
        }
    }

    @Test func aWindowFollowsTheDelayOfLoneRequests() {
        var window = DelayWindow()
        var now: UInt64 = 1
        // The first find it small.
        window.note(delay: 8_000_000, isShared: true, now: now)
        #expect(window.part(of: 64, now: now) == 4)
        for _ in 0..<100 { window.note(delay: 8_000_000, isShared: true, now: now) }
        #expect(window.part(of: 64, now: now) == 64)
        // What takes long while nobody else is there is how the device is.
        for _ in 0..<100 { window.note(delay: 8_000_000, isShared: false, now: now) }
        for _ in 0..<100 { window.note(delay: 9_000_000, isShared: true, now: now) }
        #expect(window.part(of: 64, now: now) == 64)
        // A queue shows.
        for _ in 0..<100 { window.note(delay: 30_000_000, isShared: true, now: now) }
        #expect(window.part(of: 64, now: now) == 4)
        for _ in 0..<1000 { window.note(delay: 9_000_000, isShared: true, now: now) }
        #expect(window.part(of: 64, now: now) == 64)
        // A device that has become slower is so after two periods.
        for _ in 0..<3 {
            now += Limits.delayPeriodNanoseconds
            for _ in 0..<1000 { window.note(delay: 30_000_000, isShared: true, now: now) }
        }
        #expect(window.part(of: 64, now: now) == 64)
        // Nobody who is gone keeps it small.
        for _ in 0..<100 { window.note(delay: 90_000_000, isShared: true, now: now) }
        #expect(window.part(of: 64, now: now) == 4)
        #expect(window.part(of: 64, now: now + Limits.delayValidNanoseconds) == 64)
    }
}
