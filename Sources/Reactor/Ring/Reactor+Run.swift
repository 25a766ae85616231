import CURing
import Core
import Glibc

extension Reactor {
    /// Runs until `remote.stop()`: then cancels every operation, delivers the completions, releases the
    /// targets and returns.
    public func run() {
        start()
        remote.adoptThread()
        pulse.thread(isThere: true)
        while !remote.isStopRequested {
            turn(longestWait: -1)
        }
        drain()
        pulse.thread(isThere: false)
    }

    /// Binds the ring to this thread.
    func start() {
        if unsafe state.pointee.isStarted { return }
        unsafe state.pointee.isStarted = true
        let enabled = unsafe sluice_ring_enable(ring)
        precondition(enabled == 0, "io_uring_enable_rings: \(ReactorError.text(errno: -enabled))")
        if unsafe io_uring_register_ring_fd(ring) == 1 {
            unsafe state.pointee.registeredDescriptor = unsafe ring.pointee.enter_ring_fd
        }
        pollMultishot(
            fd: remote.wakeDescriptor, events: UInt32(POLLIN), target: Reactor.internalTarget, token: 0)
    }

    /// One wake-up: dispatches what is there, runs what is due, submits, and waits for more.
    private func turn(longestWait: Int64) {
        unsafe state.pointee.turns &+= 1
        pulse.turn(unsafe state.pointee.turns)
        dispatchAll()
        poll()
        fireTimers()
        if !remote.isEmpty { runPostedWork() }
        serveBatchEnds()
        if unsafe !state.pointee.starved.isEmpty { feedStarved() }

        var wait: UInt32 = 0
        var timeout: Int64 = -1
        let isIdle = mayWait()
        let idleSince = isIdle ? refreshNow() : 0
        if isIdle && !lookAgain(since: idleSince) && remote.prepareToSleep() && preparePolled() {
            wait = 1
            timeout = nextTimeout(longest: longestWait)
            if timeout == 0 { wait = 0 }
        }
        if wait != 0 { pulse.sleeps(true) }
        enter(wait: wait, timeout: wait == 0 ? -1 : timeout)
        if wait != 0 { pulse.sleeps(false) }
        remote.awake()
        awakePolled()
        releaseAddresses()
        let now = refreshNow()
        if isIdle { noteIdle(now &- idleSince) }
    }

    /// Remembers how long it usually takes until there is something to do again.
    @inline(__always)
    private func noteIdle(_ time: UInt64) {
        let time = min(time, 16 * options.pollNanoseconds)
        unsafe state.pointee.usualIdle = unsafe (state.pointee.usualIdle * 7 + time) / 8
    }

    /// Submits, lets the kernel complete, and waits; does nothing where there is nothing of that to do, as in
    /// a turn after polled targets were looked at again.
    private func enter(wait: UInt32, timeout: Int64) {
        if unsafe wait == 0 && sluice_ring_needs_enter(ring) == 0 { return }
        let result = unsafe sluice_ring_enter(ring, state.pointee.registeredDescriptor, wait, 1, timeout)
        if result < 0 { handleEnterError(-result) }
    }

    /// Hands what is prepared to the kernel now, where it must not wait for the rest of this wake-up.
    public func submit() {
        if unsafe sluice_ring_unsubmitted(ring) == 0 { return }
        let result = unsafe sluice_ring_enter(ring, state.pointee.registeredDescriptor, 0, 0, -1)
        if result < 0 { handleEnterError(-result) }
    }

    private func poll() {
        // A target may remove itself or another while it runs.
        for target in unsafe state.pointee.polled { target.poll() }
    }

    /// Looks at the polled targets for as long as one of them finds that worth it; true when there is something.
    private func lookAgain(since start: UInt64) -> Bool {
        var patience = unsafe state.pointee.usualIdle <= options.pollNanoseconds ? options.pollNanoseconds : 0
        for target in unsafe state.pointee.polled { patience = max(patience, target.worthWaitingNanoseconds) }
        if patience == 0 || remote.isStopRequested { return false }
        // Others must not wait for what is prepared, or for what the kernel has for us.
        enter(wait: 0, timeout: -1)
        releaseAddresses()
        let deadline = unsafe state.pointee.timers.nextDeadline ?? .max
        var now: UInt64
        repeat {
            if unsafe sluice_ring_has_work(ring) != 0 || !remote.isEmpty { return true }
            for target in unsafe state.pointee.polled where target.hasSomething { return true }
            // The other side may be waiting for this very CPU.
            sched_yield()
            now = SystemClock.monotonic()
            if now >= deadline { return true }
        } while now &- start < patience
        return false
    }

    private func preparePolled() -> Bool {
        for target in unsafe state.pointee.polled where !target.prepareToSleep() { return false }
        return true
    }

    private func awakePolled() {
        for target in unsafe state.pointee.polled { target.awake() }
    }

    private func mayWait() -> Bool {
        unsafe state.pointee.spill.isEmpty && state.pointee.batchEnds.isEmpty && sluice_cq_ready(ring) == 0
    }

    /// Nanoseconds until the next timer, at most `longest` unless that is negative; negative means for ever.
    private func nextTimeout(longest: Int64) -> Int64 {
        guard let deadline = unsafe state.pointee.timers.nextDeadline else { return longest }
        let now = refreshNow()
        if deadline <= now { return 0 }
        let remaining = Int64(min(deadline - now, UInt64(Int64.max)))
        return longest < 0 ? remaining : min(longest, remaining)
    }

    private func handleEnterError(_ errno: Int32) {
        switch errno {
        case EINTR, ETIME, EBUSY, EAGAIN: return
        default: preconditionFailure("io_uring_enter: \(ReactorError.text(errno: errno))")
        }
    }

    // MARK: By hand

    /// One wake-up without the kernel at a time that the caller chooses: what `arriving` does in the place of completions,
    /// what is due, posted and waits for the batch's end. For a simulation, of code that starts no I/O; never of a reactor
    /// that `run()` is called on.
    func step(now: UInt64, arriving: () -> Void = {}) {
        precondition(unsafe !state.pointee.isStarted, "a reactor that runs is not stepped")
        unsafe state.pointee.now = now
        arriving()
        fireTimers()
        if !remote.isEmpty { runPostedWork() }
        serveBatchEnds()
    }

    /// The end of a reactor that was stepped: lets go of targets, timers and work, and runs none of them.
    func abandon() {
        precondition(unsafe !state.pointee.isStarted, "a reactor that runs is not stepped")
        unsafe state.pointee.timers.removeAll()
        _ = remote.finish()
        unsafe state.pointee.releaseBatchEnds()
        unsafe state.pointee.targets.releaseAll()
    }

    // MARK: Dispatch

    private func dispatchAll() {
        if unsafe !state.pointee.spill.isEmpty { dispatchSpilled() }
        var completion = sluice_completion()
        // Those that come meanwhile are for the next turn: timers and other threads' work have theirs before.
        var left = unsafe Int(sluice_cq_ready(ring))
        while left > 0, unsafe sluice_cq_take(ring, &completion) != 0 {
            left -= 1
            dispatch(completion.user_data, completion.result, completion.flags)
        }
    }

    private func dispatchSpilled() {
        let spilled = unsafe state.pointee.spill
        unsafe state.pointee.spill = []
        for one in spilled { dispatch(one.userData, one.result, one.flags) }
    }

    @inline(__always)
    private func dispatch(_ userData: UInt64, _ result: Int32, _ flags: UInt32) {
        if userData & UserData.multishotBit == 0 {
            let index = UserData.index(userData)
            deliver(index, UserData.token(userData), result, CompletionFlags(rawValue: flags))
            unsafe state.pointee.operations &-= 1
            unsafe state.pointee.targets.endOperation(index)
        } else {
            dispatchMultishot(userData, result, CompletionFlags(rawValue: flags))
        }
    }

    @inline(__always)
    private func deliver(_ index: Int, _ token: UInt32, _ result: Int32, _ flags: CompletionFlags) {
        let slot = unsafe state.pointee.targets.slots + index
        guard let object = unsafe slot.pointee.object else {
            preconditionFailure("a completion came for a free target")
        }
        unsafe slot.pointee.type.deliver(to: object, token: token, result: result, flags: flags)
    }

    private func dispatchMultishot(_ userData: UInt64, _ result: Int32, _ flags: CompletionFlags) {
        if flags.hasBuffer { unsafe state.pointee.buffers.taken() }
        guard let record = unsafe state.pointee.multishots.record(userData) else {
            if flags.hasBuffer { recycle(flags) }
            return
        }
        if flags.more {
            unsafe deliver(Int(record.pointee.target), record.pointee.token, result, flags)
        } else {
            unsafe endMultishot(userData, record, result, flags)
        }
    }

    /// The kernel ended a multishot operation. Unless it failed or was cancelled, it is armed again and
    /// nobody notices.
    private func endMultishot(
        _ userData: UInt64, _ record: UnsafeMutablePointer<MultishotRecord>, _ result: Int32,
        _ flags: CompletionFlags
    ) {
        let index = UserData.index(userData)
        let kind = unsafe record.pointee.kind
        let target = unsafe Int(record.pointee.target)
        let token = unsafe record.pointee.token
        unsafe record.pointee.state = .parked
        if unsafe !record.pointee.isCancelled && !state.pointee.isStopping {
            if kind == .receive && result == -ENOBUFS {
                unsafe state.pointee.starved.append(userData)
                return
            }
            if result == -EINTR || result == -EAGAIN || (kind == .accept && result == -ECONNABORTED) {
                arm(index)
                return
            }
            if result > 0 || (result == 0 && kind != .receive) {
                deliver(target, token, result, flags.withMore())
                if let record = unsafe state.pointee.multishots.record(userData),
                    unsafe !record.pointee.isCancelled
                {
                    arm(index)
                }
                return
            }
        }
        unsafe state.pointee.multishots.remove(index, slot: state.pointee.targets.slots + target)
        deliver(target, token, result == -ENOBUFS ? -ECANCELED : result, flags)
        unsafe state.pointee.operations &-= 1
        unsafe state.pointee.targets.endOperation(target)
    }

    /// Arms receives that ran out of buffers, as many as there are buffers now. Each of them has data
    /// waiting, so each takes one and wakes the reactor again.
    private func feedStarved() {
        let count = unsafe min(state.pointee.buffers.available, state.pointee.starved.count)
        if count <= 0 { return }
        for position in 0..<count {
            let userData = unsafe state.pointee.starved[position]
            guard let record = unsafe state.pointee.multishots.record(userData),
                unsafe record.pointee.state == .parked,
                unsafe !record.pointee.isCancelled
            else { continue }
            arm(UserData.index(userData))
        }
        unsafe state.pointee.starved.removeFirst(count)
    }

    private func fireTimers() {
        // Whoever sets one that is due already has it in the next turn.
        var left = unsafe state.pointee.timers.count
        while left > 0, let (target, token) = unsafe state.pointee.timers.takeDue(state.pointee.now) {
            left -= 1
            guard unsafe state.pointee.targets.isRegistered(target) else { continue }
            let index = Int(target.index)
            unsafe state.pointee.targets.slots[index].operations &+= 1
            deliver(index, token, 0, .none)
            unsafe state.pointee.targets.endOperation(index)
        }
    }

    private func runPostedWork() {
        var works = unsafe state.pointee.works
        unsafe state.pointee.works = []
        remote.take(&works)
        run(works)
        works.removeAll(keepingCapacity: true)
        unsafe state.pointee.works = works
    }

    private func run(_ works: [ReactorRemote.Work]) {
        for work in works {
            switch work {
            case .call(let body): body()
            case .callWithReactor(let body): body(self)
            case .job(let job): unsafe job.runSynchronously(on: executor.asUnownedSerialExecutor())
            }
        }
    }

    /// Serves who asked for it, and who asks meanwhile; after a few rounds of that, input is looked at again first.
    private func serveBatchEnds() {
        for _ in 0..<Limits.batchEndRoundsMax {
            let end = unsafe state.pointee.batchEnds.count
            if unsafe state.pointee.batchEndsServed == end { break }
            while unsafe state.pointee.batchEndsServed < end { serveBatchEnd() }
        }
        if unsafe state.pointee.batchEndsServed == state.pointee.batchEnds.count {
            unsafe state.pointee.batchEnds.removeAll(keepingCapacity: true)
        } else {
            unsafe state.pointee.batchEnds.removeFirst(state.pointee.batchEndsServed)
        }
        unsafe state.pointee.batchEndsServed = 0
    }

    @inline(__always)
    private func serveBatchEnd() {
        let end = unsafe state.pointee.batchEnds[state.pointee.batchEndsServed]
        unsafe state.pointee.batchEndsServed += 1
        unsafe end.type.deliverBatchEnd(to: end.object)
        unsafe Unmanaged<AnyObject>.fromOpaque(end.object).release()
    }

    // MARK: The end

    /// Cancels what the kernel still has and waits for it: no memory is freed that the kernel may write to.
    private func drain() {
        unsafe state.pointee.isStopping = true
        unsafe state.pointee.timers.removeAll()
        unsafe state.pointee.polled.removeAll()
        // What its owners have cancelled ends first: the kernel would look through all of it for each that is left.
        var left: Int
        repeat {
            left = unsafe Int(state.pointee.operations)
            turn(longestWait: 0)
        } while unsafe Int(state.pointee.operations) < left
        cancelEverything()
        var lastCancel = unsafe state.pointee.now
        left = unsafe Int(state.pointee.operations)
        var rounds = 0
        while unsafe state.pointee.operations > 0 {
            turn(longestWait: Limits.shutdownRetryNanoseconds)
            rounds += 1
            if unsafe state.pointee.spill.count == state.pointee.operations
                && rounds > Limits.shutdownRoundsMax
            {
                break
            }
            if unsafe state.pointee.now - lastCancel >= UInt64(Limits.shutdownRetryNanoseconds) {
                lastCancel = unsafe state.pointee.now
                let isEnding = unsafe Int(state.pointee.operations) < left
                left = unsafe Int(state.pointee.operations)
                if !isEnding { cancelInKernel() }
            }
        }
        run(remote.finish())
        serveBatchEnds()
        if unsafe state.pointee.registeredDescriptor >= 0 {
            unsafe io_uring_unregister_ring_fd(ring)
            unsafe state.pointee.registeredDescriptor = -1
        }
        unsafe state.pointee.targets.releaseAll()
    }

    private func cancelEverything() {
        for index in unsafe 0..<state.pointee.multishots.capacity {
            let record = unsafe state.pointee.multishots.records + index
            if unsafe record.pointee.state == .free || record.pointee.isCancelled { continue }
            unsafe record.pointee.isCancelled = true
            if unsafe record.pointee.state == .parked {
                unsafe spill(UserData.multishot(index, generation: record.pointee.generation), -ECANCELED)
            }
        }
        cancelInKernel()
    }
}
