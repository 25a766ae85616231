import Core
import DriverKit

/// Requests of one reactor to a memory pool: copies, done at once.
final class MemoryQueue: DriverQueue {
    private let driver: MemoryDriver
    private let queue: CheckedQueue
    private let onCompletions: () -> Void
    private var volumes = OpenIndices<MemoryVolume>()

    init(
        driver: MemoryDriver, arena: Arena, submissions: SubmissionRing, completions: CompletionRing,
        onCompletions: @escaping () -> Void
    ) {
        self.driver = driver
        queue = CheckedQueue(arena: arena, submissions: submissions, completions: completions)
        self.onCompletions = onCompletions
    }

    func process() {
        var room = queue.room
        let hadRoom = room
        while room > 0, let next = queue.next({ volumes[$0].map { ($0, $0.geometry) } }) {
            switch next {
            case .valid(let request, let opcode, let volume): perform(request, opcode, volume)
            case .refused(let tag, let status): queue.complete(tag, status, 0)
            }
            room -= 1
        }
        if room != hadRoom { onCompletions() }
    }

    @inline(__always)
    private func perform(_ request: DriverRequest, _ opcode: DriverOpcode, _ volume: MemoryVolume) {
        // The check vouches for the buffers of these; other operations have none.
        if opcode == .blockStatus {
            var map = unsafe BlockMapWriter(
                buffer: queue.arena.base + Int(request.buffer), length: request.length)
            unsafe volume.map(request, &map)
            return unsafe queue.complete(request.tag, .ok, map.covered, mapBytes: UInt32(map.bytes))
        }
        let hasBuffer = opcode == .read || opcode == .write
        let status = unsafe volume.perform(
            opcode, request, buffer: queue.arena.base + (hasBuffer ? Int(request.buffer) : 0))
        queue.complete(request.tag, status, request.length)
    }

    func indexChanged(_ index: UInt32) {
        volumes.set(index, driver.openVolume(index))
    }

    func stop() {
        volumes.removeAll()
    }
}
