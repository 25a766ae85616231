import Core
import Simulation
import Wire

@testable import SluiceClient

/// What the application is told, held against all that is known.
extension SimulatedNode {
    /// A request has ended.
    func end(_ completion: ChannelCompletion) {
        guard !isDead else { return }
        let tag = Int(completion.tag)
        let request = requests[tag]
        guard request.isOpen else { return world.fail("a request of client \(number) ended twice") }
        requests[tag].isOpen = false
        defer { mayHaveEnough() }
        let now = world.moment()
        guard completion.status == .ok else { return endFailed(request, completion.status, now) }
        counts.completed += 1
        world.note("is answered", number, Int(request.name))
        switch request.opcode {
        case .read: unsafe read(request, memory + tag * SimulatedNode.bufferBytes, now)
        case .write, .compareAndWrite: written(request, now)
        case .flush:
            for block in 0..<SimulatedDisk.blocks
            where world.disk.medium[block].version < request.needs[block] {
                world.fail("client \(number)'s flush was answered and block \(block) is not durable")
            }
        default: world.fail("nobody asked for \(request.opcode.name)")
        }
    }

    /// - Safety: the request's bytes are at `buffer`.
    @unsafe
    private func read(_ request: SimulatedRequest, _ buffer: UnsafeRawPointer, _ now: UInt64) {
        for block in 0..<request.count where request.life == world.life {
            let name = unsafe BlockBytes.name(buffer + block * SimulatedDisk.blockBytes)
            world.observe(request.first + block, name, start: request.start, end: now, isWrite: false)
            lastSeen[request.first + block] = name
        }
    }

    private func written(_ request: SimulatedRequest, _ now: UInt64) {
        for block in request.first..<request.first + request.count {
            let version = world.version(of: request.name, block: block)
            if version == 0 { world.fail("write \(request.name) was answered and never done") }
            acknowledged[block] = max(acknowledged[block], version)
            lastSeen[block] = request.name
            if request.isForced, world.disk.medium[block].version < version {
                world.fail("block \(block) of forced write \(request.name) is not durable")
            }
            guard request.life == world.life else { continue }
            world.observe(block, request.name, start: request.start, end: now, isWrite: true)
        }
        guard request.opcode == .compareAndWrite, request.life == world.life else { return }
        counts.compared += 1
        let replaced = world.replaced(by: request.name)
        if replaced != request.expected {
            world.fail("write \(request.name) replaced \(replaced), not \(request.expected)")
        }
    }

    private func endFailed(_ request: SimulatedRequest, _ status: Status, _ now: UInt64) {
        counts.failed += 1
        world.note("is told of an error", number, Int(status.rawValue))
        if let wrong = world.scandal(status, request, grant) {
            world.fail("client \(number) heard \(status.name): \(wrong)")
        }
        if request.opcode.isChange { return changeFailed(request, status) }
        // The application knows that what it wrote may be lost.
        if request.opcode == .flush, status != .timedOut {
            acknowledged = [UInt64](repeating: 0, count: SimulatedDisk.blocks)
        }
    }

    private func changeFailed(_ request: SimulatedRequest, _ status: Status) {
        switch status {
        case .timedOut: orphan(request)
        // This side says so itself: the server may still have it.
        case .ioError: world.haunt(request)
        case .miscompare:
            counts.miscompared += 1
            if world.version(of: request.name, block: request.first) > 0 {
                world.fail("write \(request.name) is said not to have been done")
            }
            world.writeFailed(request, isOver: true)
        default:
            if status == .outcomeUnknown { counts.unknown += 1 }
            world.writeFailed(request, isOver: true)
        }
    }
}
