import Core
import DriverKit
import Glibc
import Reactor

// SAFETY: apart from `rulesChanged`, which is posted to it, everything happens on the reactor's thread.
/// Requests of one reactor to a fault pool: each is judged by the rules and handed on to the wrapped driver's
/// queue, or not.
@safe
final class FaultQueue: DriverQueue, CompletionTarget, BatchTarget, @unchecked Sendable {
    /// A piece that is being put back after a power cut.
    private struct RunningRestore {
        var piece: UnflushedWrites.Restore
        var operation: Int32
        var logged: UInt64
    }

    private let driver: FaultDriver
    private let reactor: Reactor
    private let queue: CheckedQueue
    private let onCompletions: () -> Void
    /// To the wrapped driver, with the buffers of the requests.
    private let inner = FaultLane()
    /// To the wrapped driver, with the buffers of `UnflushedWrites`.
    private let undo = FaultLane()
    private var operations: [FaultOperation]
    private var volumes = OpenIndices<FaultDriver.OpenVolume>()
    private var freeHead: Int32 = 0
    private var inFlight = 0
    private var waitingRestores: [(piece: UnflushedWrites.Restore, operation: Int32)] = []
    private var runningRestores: [UInt64: RunningRestore] = [:]
    private var nextRestore: UInt64 = 0
    private var cuts: [Int32: UnflushedWrites.Cut] = [:]
    private var isPumping = false
    private var isScheduled = false
    private var target: TargetID?

    /// Tags of restores are above all indices of operations.
    private static let restoreTag: UInt64 = 1 << 32

    init(
        driver: FaultDriver, reactor: Reactor, arena: Arena, submissions: SubmissionRing,
        completions: CompletionRing, onCompletions: @escaping () -> Void
    ) {
        self.driver = driver
        self.reactor = reactor
        queue = CheckedQueue(arena: arena, submissions: submissions, completions: completions)
        self.onCompletions = onCompletions
        operations = (1...Limits.faultOperationsMax).map { next in
            FaultOperation(nextFree: next < Limits.faultOperationsMax ? Int32(next) : -1)
        }
    }

    func start() throws(StatusError) {
        let pump = { [weak self] () -> Void in self?.pump() }
        try inner.open(driver.inner, reactor: reactor, arena: queue.arena, onCompletions: pump)
        try undo.open(driver.inner, reactor: reactor, arena: driver.unflushed.arena, onCompletions: pump)
        target = reactor.register(self)
    }

    func stop() {
        inner.stop()
        undo.stop()
        if let target { reactor.unregister(target) }
        target = nil
    }

    func indexChanged(_ index: UInt32) {
        inner.queue?.indexChanged(index)
        undo.queue?.indexChanged(index)
        volumes.set(index, driver.openVolume(index))
    }

    func process() { pump() }

    /// Other rules hold: what hung goes on. Posted to the reactor's thread.
    func rulesChanged() {
        guard target != nil else { return }
        for index in operations.indices where operations[index].phase == .hung { begin(Int32(index)) }
        pump()
    }

    /// Moves everything on that can move. The wrapped driver may call back from within.
    private func pump() {
        guard !isPumping, target != nil else { return }
        isPumping = true
        repeat {
            while let completion = inner.completions.pop() { innerCompleted(completion) }
            while let completion = undo.completions.pop() { undoCompleted(completion) }
            while freeHead >= 0, queue.room > inFlight,
                let next = queue.next({ volumes[$0].map { ($0, $0.geometry) } })
            {
                switch next {
                case .valid(let request, let opcode, let volume): admit(request, opcode, volume)
                case .refused(let tag, let status): complete(tag, status, 0)
                }
            }
            startRestores()
        } while inner.run() || undo.run()
        isPumping = false
    }

    // MARK: Requests

    private func admit(
        _ request: DriverRequest, _ opcode: DriverOpcode, _ volume: FaultDriver.OpenVolume
    ) {
        if volume.openedAtCut != driver.cuts { return complete(request.tag, .ioError, 0) }
        let decision = driver.decide(opcode)
        let index = freeHead
        let slot = Int(index)
        freeHead = operations[slot].nextFree
        inFlight += 1
        operations[slot] = FaultOperation(nextFree: -1)
        operations[slot].request = request
        operations[slot].length = request.length
        operations[slot].volume = volume.id
        operations[slot].openedAtCut = volume.openedAtCut
        guard let decision else { return begin(index) }
        operations[slot].draw = decision.draw
        inject(decision, into: index, blockSize: UInt64(volume.geometry.blockSize))
    }

    private func inject(_ decision: FaultSchedule.Decision, into index: Int32, blockSize: UInt64) {
        let slot = Int(index)
        switch decision.fault {
        case .error(let status): finish(index, status)
        case .delay(let nanoseconds):
            guard let target else { return }
            operations[slot].phase = .delayed
            _ = reactor.setTimer(after: nanoseconds, target: target, token: UInt32(index))
        case .hang: operations[slot].phase = .hung
        case .spin(let nanoseconds):
            // Each round asks the clock: a loop that does nothing for ever is left out by the compiler.
            let end = SystemClock.monotonic().addingSaturated(nanoseconds)
            while SystemClock.monotonic() < end {}
            begin(index)
        case .crash:
            if decision.draw & 1 == 0 { crash() }
            operations[slot].fault = decision.fault
            begin(index)
        case .torn:
            let kept = decision.draw % (operations[slot].length / blockSize)
            operations[slot].length = kept * blockSize
            operations[slot].fault = decision.fault
            if kept == 0 { afterwards(index, .ok) } else { begin(index) }
        case .bitFlip:
            operations[slot].fault = decision.fault
            if operations[slot].request.opcode == .write { flipBit(operations[slot]) }
            begin(index)
        case .powerCut(let crashes): cutPower(index, decision, crashes, blockSize)
        }
    }

    /// Lets the request go on to the wrapped driver.
    private func begin(_ index: Int32) {
        let slot = Int(index)
        if operations[slot].openedAtCut != driver.cuts { return finish(index, .ioError) }
        let request = operations[slot].request
        if request.opcode == .flush { operations[slot].flushMark = driver.unflushed.flushBegins() }
        if operations[slot].changesData {
            let ticket = driver.unflushed.begin(
                volume: operations[slot].volume, index: request.index, offset: request.offset,
                length: operations[slot].length)
            operations[slot].ticket = ticket.id
            if let image = ticket.image {
                operations[slot].phase = .image
                undo.push(
                    DriverRequest(
                        opcode: .read, index: request.index, tag: UInt64(index), offset: request.offset,
                        length: operations[slot].length, buffer: image.offset))
                return
            }
        }
        forward(index)
    }

    private func forward(_ index: Int32) {
        let slot = Int(index)
        let request = operations[slot].forwarded(tag: UInt64(index))
        operations[slot].phase = .inner
        if let log = driver.log, request.opcode != .read, request.opcode != .blockStatus {
            let memory = unsafe request.opcode == .write ? queue.arena.base + Int(request.buffer) : nil
            let payload = unsafe memory.map {
                unsafe UnsafeRawBufferPointer(start: $0, count: Int(request.length))
            }
            guard
                let number = unsafe log.begin(request, volume: operations[slot].volume, payload: payload)
            else { return innerCompleted(index, .ioError) }
            operations[slot].logged = number
        }
        inner.push(request)
    }

    private func innerCompleted(_ completion: DriverCompletion) {
        operations[Int(completion.tag)].map = (completion.value, completion.mapBytes)
        innerCompleted(Int32(completion.tag), Status(rawValue: completion.status) ?? .driverFailed)
    }

    private func innerCompleted(_ index: Int32, _ result: Status) {
        let slot = Int(index)
        let operation = operations[slot]
        var status = result
        if operation.logged != 0, let log = driver.log {
            let said = log.end(
                operation.logged, operation.request, volume: operation.volume, status: status.rawValue)
            if !said { status = .ioError }
        }
        if operation.ticket != 0 {
            driver.unflushed.end(
                operation.ticket, isDurable: status == .ok && operation.request.flags.contains(.fua))
        } else if operation.request.opcode == .flush && status == .ok {
            driver.unflushed.flushed(volume: operation.volume, mark: operation.flushMark)
        }
        afterwards(index, status)
    }

    /// The request was done: what the fault makes of it.
    private func afterwards(_ index: Int32, _ result: Status) {
        let operation = operations[Int(index)]
        var status = result
        switch operation.fault {
        case .crash, .torn(crash: true): crash()
        case .torn(crash: false): status = status == .ok ? .ioError : status
        case .bitFlip:
            // The owner of a write finds its buffer as it was, should it write that again.
            if operation.request.opcode == .write || status == .ok { flipBit(operation) }
        case .error, .delay, .hang, .spin, .powerCut, nil: break
        }
        if operation.openedAtCut != driver.cuts { status = .ioError }
        finish(index, status)
    }

    private func flipBit(_ operation: FaultOperation) {
        let (byte, mask) = operation.flippedBit
        let place = unsafe (queue.arena.base + Int(operation.request.buffer + byte)).assumingMemoryBound(
            to: UInt8.self)
        unsafe place.pointee ^= mask
    }

    private func crash() -> Never { abort() }

    private func finish(_ index: Int32, _ status: Status) {
        let slot = Int(index)
        let request = operations[slot].request
        let map = operations[slot].map
        operations[slot].phase = .free
        operations[slot].nextFree = freeHead
        freeHead = index
        inFlight -= 1
        switch request.opcode {
        case .flush: complete(request.tag, status, 0)
        case .blockStatus: complete(request.tag, status, map.covered, mapBytes: map.bytes)
        default: complete(request.tag, status, request.length)
        }
    }

    private func complete(_ tag: UInt64, _ status: Status, _ length: UInt64, mapBytes: UInt32 = 0) {
        queue.complete(tag, status, length, mapBytes: mapBytes)
        if !isScheduled {
            isScheduled = true
            reactor.atBatchEnd(self)
        }
    }

    func batchEnded() {
        isScheduled = false
        onCompletions()
        if queue.hasRequests { pump() }
    }

    /// A delay is over.
    func completed(token: UInt32, result: Int32, flags: CompletionFlags) {
        guard target != nil, operations[Int(token)].phase == .delayed else { return }
        begin(Int32(token))
        pump()
    }

    // MARK: Power cuts

    private func cutPower(
        _ index: Int32, _ decision: FaultSchedule.Decision, _ crashes: Bool, _ blockSize: UInt64
    ) {
        driver.powerFails()
        let cut = driver.unflushed.cut(draw: decision.draw, blockSize: blockSize)
        operations[Int(index)].phase = .cut
        operations[Int(index)].fault = .powerCut(crash: crashes)
        operations[Int(index)].restores = cut.restores.count
        cuts[index] = cut
        waitingRestores += cut.restores.map { ($0, index) }
        if cut.restores.isEmpty { cutEnded(index) }
    }

    private func startRestores() {
        while runningRestores.count < Limits.faultRestoresMax,
            let (piece, operation) = waitingRestores.popLast()
        {
            let tag = FaultQueue.restoreTag + nextRestore
            nextRestore += 1
            let request = DriverRequest(
                opcode: .write, index: piece.index, tag: tag, offset: piece.offset, length: piece.length,
                buffer: piece.buffer)
            let bytes = unsafe UnsafeRawBufferPointer(
                start: driver.unflushed.arena.base + Int(piece.buffer), count: Int(piece.length))
            let logged = unsafe driver.log?.begin(request, volume: piece.volume, payload: bytes) ?? 0
            runningRestores[tag] = RunningRestore(piece: piece, operation: operation, logged: logged)
            undo.push(request)
        }
    }

    private func undoCompleted(_ completion: DriverCompletion) {
        guard let restore = runningRestores.removeValue(forKey: completion.tag) else {
            let index = Int32(completion.tag)
            driver.unflushed.imageRead(
                operations[Int(index)].ticket, succeeded: completion.status == Status.ok.rawValue)
            return forward(index)
        }
        if restore.logged != 0, let log = driver.log {
            let request = DriverRequest(
                opcode: .write, index: restore.piece.index, tag: 0, offset: restore.piece.offset,
                length: restore.piece.length)
            _ = log.end(restore.logged, request, volume: restore.piece.volume, status: completion.status)
        }
        let slot = Int(restore.operation)
        operations[slot].restores -= 1
        if operations[slot].restores == 0 { cutEnded(restore.operation) }
    }

    private func cutEnded(_ index: Int32) {
        if let cut = cuts.removeValue(forKey: index) { driver.unflushed.cutEnded(cut) }
        if operations[Int(index)].fault == .powerCut(crash: true) { crash() }
        finish(index, .ioError)
    }
}
