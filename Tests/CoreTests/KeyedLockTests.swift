import Core
import Synchronization
import Testing

/// Who holds a lock next.
@Suite struct KeyedLockTests {
    private final class Order: Sendable {
        private let list = Mutex<[String]>([])
        func note(_ name: String) { list.withLock { $0.append(name) } }
        var all: [String] { list.withLock { $0 } }
    }

    @Test func whatIsUrgentComesBeforeAllThatWait() async {
        let lock = KeyedLock()
        let order = Order()
        let (held, release) = AsyncStream.makeStream(of: Void.self)
        let (begun, begin) = AsyncStream.makeStream(of: Void.self)
        await withTaskGroup(of: Void.self) { group in
            group.addTask {
                await lock.withLock("k") {
                    begin.yield()
                    for await _ in held { break }
                }
            }
            for await _ in begun { break }
            for number in 0..<3 {
                group.addTask { await lock.withLock("k") { order.note("patient \(number)") } }
                while lock.waiting("k") < number + 1 { await Task.yield() }
            }
            for number in 0..<2 {
                group.addTask {
                    await Urgency.$isUrgent.withValue(true) {
                        // As a change does, which is finished also when its client goes away.
                        await Task { await lock.withLock("k") { order.note("urgent \(number)") } }.value
                    }
                }
                while lock.waiting("k") < number + 4 { await Task.yield() }
            }
            release.yield()
        }
        #expect(order.all == ["urgent 0", "urgent 1", "patient 0", "patient 1", "patient 2"])
    }
}
