import Core
import DriverKit

/// Requests of one reactor to a memory pool: copies, done at once.
final class MemoryQueue: DriverQueue {
    private let driver: MemoryDriver
    private let arena: Arena
    private let submissions: SubmissionRing
    private let completions: CompletionRing
    private let onCompletions: () -> Void
    /// By volume index.
    private var volumes: [MemoryVolume?] = []

    init(
        driver: MemoryDriver, arena: Arena, submissions: SubmissionRing, completions: CompletionRing,
        onCompletions: @escaping () -> Void
    ) {
        self.driver = driver
        self.arena = arena
        self.submissions = submissions
        self.completions = completions
        self.onCompletions = onCompletions
    }

    func process() {
        var room = completions.room
        let hadRoom = room
        while room > 0, let request = submissions.pop() {
            var done = DriverCompletion(tag: request.tag, status: 0, value: request.length)
            let status = perform(request, &done)
            if status != .ok {
                done = DriverCompletion(tag: request.tag, status: status.rawValue, value: 0)
            }
            let pushed = completions.push(done)
            precondition(pushed || completions.isBroken, "the completion ring had room")
            room -= 1
        }
        if room != hadRoom { onCompletions() }
    }

    @inline(__always)
    private func perform(_ request: DriverRequest, _ done: inout DriverCompletion) -> Status {
        let index = Int(request.volume)
        guard index < volumes.count, let volume = volumes[index] else { return .badHandle }
        let status = volume.geometry.check(request, arenaBytes: arena.bytes)
        guard status == .ok, let opcode = request.opcode else { return status }
        // The check vouches for the buffers of these; other operations have none.
        if opcode == .blockStatus {
            var map = unsafe BlockMapWriter(
                buffer: arena.base + Int(request.buffer), length: request.length)
            unsafe volume.map(request, &map)
            done.value = unsafe map.covered
            done.mapBytes = unsafe UInt32(map.bytes)
            return .ok
        }
        let hasBuffer = opcode == .read || opcode == .write
        return unsafe volume.perform(
            opcode, request, buffer: arena.base + (hasBuffer ? Int(request.buffer) : 0))
    }

    func volumeChanged(_ index: UInt32) {
        let volume = driver.openVolume(index)
        if Int(index) >= volumes.count {
            guard volume != nil, index < Limits.openVolumesPerPoolMax else { return }
            volumes.append(contentsOf: repeatElement(nil, count: Int(index) + 1 - volumes.count))
        }
        volumes[Int(index)] = volume
    }

    func stop() {
        volumes.removeAll()
    }
}
