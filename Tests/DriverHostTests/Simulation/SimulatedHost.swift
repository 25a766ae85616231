import Core
import DriverKit
import Simulation

/// What survives every host: the page cache of the device's system, and the medium below it.
struct SimulatedDevice {
    static let blocks = 32
    static let blockBytes: UInt64 = 512

    /// What reads see.
    var cache = [UInt64](repeating: 0, count: blocks)
    /// What a flush has made durable.
    var medium = [UInt64](repeating: 0, count: blocks)

    mutating func flush(_ range: Range<Int>) {
        for block in range { medium[block] = cache[block] }
    }
}

/// A completion on its way, and whether it is a lie.
struct SimulatedCompletion {
    var completion: DriverCompletion
    var isLie = false
}

/// A host's end of one lane.
struct SimulatedRings {
    /// An operation in the kernel: its blocks are done one at a time, in any order.
    struct Operation {
        var request: DriverRequest
        /// A bit for each block that is still to be done.
        var left: UInt8
        var status = Status.ok
        /// A flush, or what makes a FUA write durable, is still to be done.
        var mustSync: Bool
    }

    var submissions: [DriverRequest] = []
    var operations: [Operation] = []
    var completions: [SimulatedCompletion] = []
    var lastTag: UInt64 = 0
}

/// A driver host: it does what it is given in any order, a block at a time, until it dies anywhere.
final class SimulatedHost {
    enum Life {
        case starting
        case ready
        /// The process is dead or dying: what is in the kernel goes on.
        case dead
        case gone
    }

    let number: Int
    let readyAt: UInt64
    let startFails: Bool
    var life = Life.starting
    var wasAttached = false
    var isHung = false
    /// Its end was reported.
    var isLost = false
    var lanes: [SimulatedRings]

    init(number: Int, readyAt: UInt64, startFails: Bool, lanes: Int) {
        self.number = number
        self.readyAt = readyAt
        self.startFails = startFails
        self.lanes = [SimulatedRings](repeating: SimulatedRings(), count: lanes)
    }

    /// One step of work on a lane; false when there is nothing to do.
    func work(
        lane: Int, device: inout SimulatedDevice, arena: inout [UInt64], random: inout SplitMix,
        faults: Bool
    ) -> Bool {
        let isAlive = life == .ready && !isHung
        if isAlive, !lanes[lane].submissions.isEmpty, random.once(in: 3) || lanes[lane].operations.isEmpty {
            take(lane, fails: faults && random.once(in: 60))
            return true
        }
        let count = lanes[lane].operations.count
        // A process that is stopped has its operations done all the same, but tells nobody.
        guard count > 0, life != .gone else { return false }
        let index = random.below(count)
        if lanes[lane].operations[index].left != 0 {
            // Several blocks at once, as a device would.
            var steps = 1 + random.below(4)
            while steps > 0, lanes[lane].operations[index].left != 0 {
                transfer(lane, index, &device, &arena, &random)
                steps -= 1
            }
            return true
        }
        if lanes[lane].operations[index].mustSync {
            sync(lane, index, &device)
            return true
        }
        guard isAlive else { return false }
        complete(lane, index)
        return true
    }

    private func take(_ lane: Int, fails: Bool) {
        let request = lanes[lane].submissions.removeFirst()
        let isFlush = request.opcode == .flush
        let count = isFlush ? 0 : request.length / SimulatedDevice.blockBytes
        var operation = SimulatedRings.Operation(
            request: request, left: UInt8(truncatingIfNeeded: (1 << count) - 1),
            mustSync: isFlush || request.flags.contains(.fua))
        if fails {
            operation.status = .mediumError
            operation.mustSync = false
        }
        lanes[lane].operations.append(operation)
    }

    private func transfer(
        _ lane: Int, _ index: Int, _ device: inout SimulatedDevice, _ arena: inout [UInt64],
        _ random: inout SplitMix
    ) {
        let request = lanes[lane].operations[index].request
        let left = lanes[lane].operations[index].left
        // From either end, so that what is left undone lies anywhere.
        let bit = random.once(in: 2) ? left.trailingZeroBitCount : 7 - left.leadingZeroBitCount
        lanes[lane].operations[index].left &= ~(1 << UInt8(bit))
        let block = Int(request.offset / SimulatedDevice.blockBytes) + bit
        switch request.opcode {
        case .read: arena[Int(request.buffer) + bit] = device.cache[block]
        case .write: device.cache[block] = arena[Int(request.buffer) + bit]
        case .writeZeroes, .discard: device.cache[block] = request.buffer
        case .flush, .blockStatus, nil: break
        }
    }

    private func sync(_ lane: Int, _ index: Int, _ device: inout SimulatedDevice) {
        let request = lanes[lane].operations[index].request
        lanes[lane].operations[index].mustSync = false
        if request.opcode == .flush {
            device.flush(0..<SimulatedDevice.blocks)
        } else {
            let first = Int(request.offset / SimulatedDevice.blockBytes)
            device.flush(first..<first + Int(request.length / SimulatedDevice.blockBytes))
        }
    }

    private func complete(_ lane: Int, _ index: Int) {
        let operation = lanes[lane].operations.remove(at: index)
        let isMap = operation.request.opcode == .blockStatus && operation.status == .ok
        var value = operation.status == .ok ? operation.request.length : 0
        // What fits into an answer need not be all.
        if isMap { value = max(SimulatedDevice.blockBytes, value / 2) }
        lanes[lane].lastTag = operation.request.tag
        lanes[lane].completions.append(
            SimulatedCompletion(
                completion: DriverCompletion(
                    tag: operation.request.tag, status: operation.status.rawValue, value: value,
                    mapBytes: isMap ? 16 : 0)))
    }

    /// Says something that is not true.
    func lie(lane: Int, oldTag: UInt64, random: inout SplitMix) {
        var said = DriverCompletion(tag: random.next(), status: 0, value: 512)
        let count = lanes[lane].operations.count
        let live = count > 0 ? lanes[lane].operations[random.below(count)].request : nil
        switch random.below(5) {
        case 0: if lanes[lane].lastTag != 0 { said.tag = lanes[lane].lastTag }
        case 1: if oldTag != 0 { said.tag = oldTag }
        case 2:
            if let live {
                said = DriverCompletion(tag: live.tag, status: Status.revoked.rawValue, value: 0)
            }
        case 3:
            if let live { said = DriverCompletion(tag: live.tag, status: 0, value: live.length + 512) }
        default: if let live { said.tag = live.tag ^ (1 << UInt64(random.below(64))) }
        }
        lanes[lane].completions.append(SimulatedCompletion(completion: said, isLie: true))
    }

    /// Whether it may still do what the request asks, or some of it.
    func mayDo(_ request: DriverRequest, lane: Int) -> Bool {
        if life == .gone || request.opcode == .flush { return false }
        func isIt(_ other: DriverRequest) -> Bool {
            other.rawOpcode == request.rawOpcode && other.buffer == request.buffer
        }
        if lanes[lane].operations.contains(where: { $0.left != 0 && isIt($0.request) }) { return true }
        return life == .ready && lanes[lane].submissions.contains(where: isIt)
    }

    /// Whether it may still touch the arena buffer that begins here.
    func mayTouch(buffer: UInt64, lane: Int) -> Bool {
        if life == .gone { return false }
        for operation in lanes[lane].operations where operation.left != 0 {
            let request = operation.request
            if request.opcode == .read || request.opcode == .write, request.buffer == buffer { return true }
        }
        return false
    }
}
