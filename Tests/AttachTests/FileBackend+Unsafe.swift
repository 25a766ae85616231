import Core
import Glibc
import Reactor
import Synchronization

@testable import Attach

/// A backend over a local file, with few slots, so that requests queue, and with failures on demand.
@safe final class FileBackend: BlockBackend, CompletionTarget {
    private let reactor: Reactor
    private let descriptor: Int32
    private let slotCount: Int
    private var target: TargetID?
    private var free: [Int]
    private var tags: [UInt64]
    private var counts: [UInt32]
    private var held: Set<Int> = []
    private var expired: Set<Int> = []
    private var lacking: [Int: Status] = [:]
    weak var volume: FuseVolume<FileBackend>?
    let state: Mutex<State>

    struct State: Sendable {
        var failure: Status?
        var requests: [BlockOperation: Int] = [:]
        var largest: UInt32 = 0
        var refusals = 0
        /// Requests are taken and not begun.
        var holds = false
        /// There is no space for writes, which are to wait.
        var isFull = false
        /// Nothing can be discarded.
        var lacksDiscard = false
        var givenUp = 0
    }

    init(reactor: Reactor, path: String, slots: Int) {
        self.reactor = reactor
        descriptor = unsafe open(path, O_RDWR | O_CLOEXEC)
        precondition(descriptor >= 0)
        slotCount = slots
        free = Array(0..<slots)
        tags = Array(repeating: 0, count: slots)
        counts = Array(repeating: 0, count: slots)
        state = Mutex(State())
        target = reactor.register(self)
    }

    func submit(_ request: BlockRequest) -> Bool {
        guard let slot = free.popLast() else {
            state.withLock { $0.refusals += 1 }
            return false
        }
        let (operation, offset, count) = unsafe (request.operation, request.offset, request.count)
        tags[slot] = unsafe request.tag
        counts[slot] = count
        let (failure, lack) = state.withLock {
            $0.requests[operation, default: 0] += 1
            $0.largest = max($0.largest, operation == .read || operation == .write ? count : 0)
            let lack: Status? =
                switch operation {
                case .discard where $0.lacksDiscard: .notSupported
                case .write where $0.isFull: .noSpaceYet
                default: nil
                }
            return ($0.failure, lack)
        }
        lacking[slot] = lack
        if state.withLock({ $0.holds }) {
            held.insert(slot)
            return true
        }
        let (token, target) = (UInt32(slot), target!)
        guard failure == nil, lack == nil else {
            reactor.noOperation(target: target, token: token)
            return true
        }
        switch operation {
        case .read:
            let buffer = unsafe UnsafeMutableRawBufferPointer(start: request.buffer, count: Int(count))
            unsafe reactor.read(fd: descriptor, into: buffer, at: offset, target: target, token: token)
        case .write:
            let buffer = unsafe UnsafeRawBufferPointer(start: request.buffer, count: Int(count))
            unsafe reactor.write(fd: descriptor, from: buffer, at: offset, target: target, token: token)
        case .flush: reactor.fsync(fd: descriptor, dataOnly: true, target: target, token: token)
        case .discard, .writeZeroes:
            let mode: FileAllocation = operation == .discard ? .punchHole : .zeroRange
            reactor.fallocate(
                fd: descriptor, mode: mode, offset: offset, length: UInt64(count), target: target,
                token: token)
        }
        return true
    }

    func giveUp(tag: UInt64) {
        for slot in held where tags[slot] == tag {
            state.withLock { $0.givenUp += 1 }
            held.remove(slot)
            expired.insert(slot)
            reactor.noOperation(target: target!, token: UInt32(slot))
        }
    }

    func completed(token: UInt32, result: Int32, flags: CompletionFlags) {
        let slot = Int(token)
        if expired.remove(slot) != nil {
            free.append(slot)
            volume?.completed(tag: tags[slot], status: .timedOut)
            return
        }
        free.append(slot)
        if let lack = lacking.removeValue(forKey: slot) {
            volume?.completed(tag: tags[slot], status: lack)
            return
        }
        let status = state.withLock { $0.failure } ?? (result < 0 ? .fromDevice(errno: -result) : .ok)
        volume?.completed(tag: tags[slot], status: status)
    }

    func close() {
        if let target { reactor.unregister(target) }
        Glibc.close(descriptor)
    }
}
