import Core
import Simulation
import Wire

@testable import SluiceClient

/// What the application is told, held against all that is known.
extension SimulatedClient {
    /// A request has ended.
    func end(_ completion: ChannelCompletion) {
        let tag = Int(completion.tag)
        let request = requests[tag]
        guard request.isOpen else { return world.fail("a request of client \(number) ended twice") }
        requests[tag].isOpen = false
        let now = world.moment()
        guard completion.status == .ok else { return endFailed(request, completion.status, now) }
        counts.completed += 1
        world.note("is answered", number, Int(request.name))
        let buffer = unsafe memory + tag * SimulatedClient.bufferBytes
        for block in 0..<request.count where request.life == world.life {
            let name = unsafe BlockBytes.name(buffer + block * SimulatedDisk.blockBytes)
            world.observe(
                request.first + block, name, start: request.start, end: now,
                isWrite: request.opcode == .write)
        }
        switch request.opcode {
        case .write: written(request)
        case .flush:
            for block in 0..<SimulatedDisk.blocks
            where world.disk.medium[block].version < request.needs[block] {
                world.fail("client \(number)'s flush was answered and block \(block) is not durable")
            }
        default: break
        }
    }

    private func written(_ request: SimulatedRequest) {
        for block in request.first..<request.first + request.count {
            let version = world.version(of: request.name, block: block)
            if version == 0 { world.fail("write \(request.name) was answered and never done") }
            acknowledged[block] = max(acknowledged[block], version)
            if request.isForced, world.disk.medium[block].version < version {
                world.fail("block \(block) of forced write \(request.name) is not durable")
            }
        }
    }

    private func endFailed(_ request: SimulatedRequest, _ status: Status, _ now: UInt64) {
        counts.failed += 1
        world.note("is told of an error", number, Int(status.rawValue))
        if let wrong = world.scandal(status, request, grant) {
            world.fail("client \(number) heard \(status.name): \(wrong)")
        }
        switch (request.opcode, status) {
        case (.write, .timedOut): orphan(request)
        // This side says so itself: the server may still have it.
        case (.write, .ioError): world.haunt(request)
        case (.write, _):
            if status == .outcomeUnknown { counts.unknown += 1 }
            world.writeFailed(request, isOver: true)
        case (.flush, .timedOut): break
        // The application knows that what it wrote may be lost.
        case (.flush, _): acknowledged = [UInt64](repeating: 0, count: SimulatedDisk.blocks)
        default: break
        }
    }
}
