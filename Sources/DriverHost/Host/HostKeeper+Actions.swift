import Core
import DriverKit
import Glibc
import Reactor

/// What the supervisor decides, done.
extension HostKeeper {
    func apply(_ actions: [HostSupervisor.Action]) {
        for action in actions { perform(action) }
    }

    private func perform(_ action: HostSupervisor.Action) {
        switch action {
        case .spawn(let number): spawn(number)
        case .kill(let number):
            guard let host = hosts[number] else { return }
            host.phase = .ending
            host.process.signal(SIGKILL)
            if !hasServed {
                // Whoever makes a pool hears of what is wrong with it at once.
                let words = supervisor.report.lastEnd?.message ?? "it was stopped"
                firstStart.give(.failure(StatusError(.driverFailed, "the driver host was lost: \(words)")))
                endAll()
            }
        case .detachQueues: detachQueues()
        case .attachQueues(let number): openPool(number)
        case .quiesceQueues: quiesceQueues()
        case .resumeQueues:
            quietRound += 1
            quietWanted = []
            pauseBegan = nil
            forEachQueue { $0.resume() }
            takeCalls()
        case .refuseCalls:
            refuseCalls()
            forEachQueue { $0.wait() }
        case .failRequests(let status): failRequests(status)
        case .armTimer(let nanoseconds): timerDeadline = now &+ nanoseconds
        case .cancelTimer: timerDeadline = nil
        case .report(let event):
            options.onEvent(event)
            shared.withLock { $0.observer }?(event)
        case .answerRestart(let error):
            let answers = restartAnswers
            restartAnswers = []
            publish()
            answers.forEach { $0.give(error.map { .failure($0) } ?? .success(())) }
        case .answerUpgrade(let result):
            let answers = upgradeAnswers
            upgradeAnswers = []
            publish()
            answers.forEach { $0.give(result) }
            if case .failure = result { takeCalls() }
        }
    }

    func forEachQueue(_ work: @escaping @Sendable (IsolatedQueue) -> Void) {
        for queue in shared.withLock({ Array($0.queues.values) }) { _ = queue.post(work) }
    }

    private func spawn(_ number: Int) {
        do throws(ReactorError) {
            hosts[number] = try HostInstance(number: number, executable: options.executable)
        } catch {
            let words = "the driver host \(options.executable) cannot be started: \(error)"
            guard hasServed else {
                firstStart.give(.failure(StatusError(.driverFailed, words)))
                return endAll()
            }
            feed(.startFailed(host: number, message: words))
            feed(.gone(host: number))
        }
    }

    /// Ends the use of the current host on every reactor; returns when none uses it.
    private func detachQueues() {
        let (queues, calls) = shared.withLock { shared in
            shared.serving = nil
            defer { shared.calls = [:] }
            return (Array(shared.queues.values), Array(shared.calls.values))
        }
        for call in calls { call.hostLost() }
        for queue in queues {
            let done = OneShot<Void>()
            let isPosted = queue.post { queue in
                queue.detach()
                done.give(())
            }
            if isPosted { done.take() }
        }
    }

    /// Has the next host open its driver and enter its sandbox, while the last one is still being ended: that
    /// takes as long. It is given what the last one kept, so that one must have no more to say; and volumes,
    /// queues and device it touches only when nothing of the last one is left (`openPool`).
    func startNext() {
        guard let host = hosts.values.first(where: { $0.phase == .ready }) else { return }
        for other in hosts.values where other !== host {
            if other.phase == .ending {
                guard other.exit != nil, other.isControlOver else { return }
            } else {
                // An upgrade: calls wait for the next host from now on, those under way are waited for.
                let isCalled = shared.withLock { shared in
                    shared.serving = nil
                    return !shared.calls.isEmpty
                }
                if isCalled { return }
            }
        }
        host.phase = .starting
        let deadline = now &+ options.policy.startDeadline
        do throws(ControlSocket.Failure) {
            for (name, entry) in store.all {
                // Each send takes a while where the host takes nothing, and others wait for this thread.
                if now > deadline { throw .full }
                try send(.stored(name: name), to: host, descriptors: [entry.descriptor.raw])
            }
            try sendOpening(
                .start(
                    HostStart(
                        driver: options.driver, settings: shared.withLock { $0.settings },
                        folder: options.folder, user: options.user, queues: UInt32(options.queues))),
                to: host)
        } catch { lose(host, .crash, "the control socket: \(error)") }
    }

    /// Calls go to the host that serves.
    private func takeCalls() {
        guard let current, current.phase == .serving else { return }
        let waiting = shared.withLock { shared in
            shared.serving = (current.number, current.control)
            defer { shared.waiting = [] }
            return shared.waiting
        }
        for one in waiting { one.give(()) }
    }

    /// Has the new host open volumes and queues; `serve` goes on when it has.
    private func openPool(_ number: Int) {
        guard let host = hosts[number], host.phase == .started else { return }
        settleDoubts()
        current = host
        host.phase = .opening
        openingDeadline = now &+ options.policy.openDeadline
        openVolumesAndQueues(of: host)
    }

    /// The kernel reports a failed write-back once to each open file description, and may have told the dead
    /// host, which could not pass it on. The witness, a description that nobody syncs, still hears of it.
    private func settleDoubts() {
        let open = shared.withLock { $0.open }
        for (volume, witness) in store.witnesses where open[volume] != nil {
            guard let error = BlockDevices.takeWriteBackError(fd: witness.descriptor.raw) else { continue }
            flushFailed(volume: volume, status: Status.fromDevice(errno: error))
        }
    }

    private func openVolumesAndQueues(of host: HostInstance) {
        let (open, queues) = shared.withLock { ($0.open, Array($0.queues.values)) }
        host.toOpen = queues.map { .queue($0) }
        for (_, opened) in open.sorted(by: { $0.key > $1.key }) { host.toOpen.append(.resource(opened)) }
        openMore(on: host)
    }

    /// Asks for some of what is still to be opened; with all of it open, the host serves.
    private func openMore(on host: HostInstance) {
        do throws(ControlSocket.Failure) {
            while host.openings.count < Limits.openingsAtOnceMax, let next = host.toOpen.popLast() {
                switch next {
                case .resource(let opened): try sendOpening(.perform(opened.call.bytes), of: opened, to: host)
                case .queue(let queue): try sendQueue(queue, to: host)
                }
            }
        } catch { return lose(host, .crash, "the control socket: \(error)") }
        if host.openings.isEmpty { serve(host) }
    }

    /// Offers a queue that was added while the host serves.
    func offer(_ queue: IsolatedQueue, to host: HostInstance) {
        guard host.lanes[queue.number] == nil else { return }
        do throws(ControlSocket.Failure) { try sendQueue(queue, to: host) } catch {
            lose(host, .crash, "the control socket: \(error)")
        }
    }

    private func sendQueue(_ queue: IsolatedQueue, to host: HostInstance) throws(ControlSocket.Failure) {
        do {
            let lane = try HostLane(capacity: queue.capacity)
            try sendQueue(
                queue, lane, memory: try lane.lane.descriptor(), arena: try queue.arena.descriptor(), to: host
            )
        } catch let failure as ControlSocket.Failure { throw failure } catch { throw .full }
    }

    private func sendQueue(
        _ queue: IsolatedQueue, _ lane: HostLane, memory: borrowing FileDescriptor,
        arena: borrowing FileDescriptor, to host: HostInstance
    ) throws(ControlSocket.Failure) {
        host.lanes[queue.number] = lane
        let command = HostCommand.addQueue(
            index: UInt32(queue.number), arenaBytes: UInt64(queue.arena.bytes),
            capacity: UInt32(queue.capacity))
        try sendOpening(
            command, to: host,
            descriptors: [
                arena.raw, memory.raw, lane.bell.descriptor.raw, lane.serverBell.descriptor.raw,
            ])
    }

    /// Everything is open: requests go to this host from now on.
    private func serve(_ host: HostInstance) {
        openingDeadline = nil
        host.phase = .serving
        host.wasServing = true
        for queue in shared.withLock({ Array($0.queues.values) }) { attach(queue, to: host) }
        takeCalls()
        let pause = pauseBegan.map { now &- $0 } ?? 0
        pauseBegan = nil
        hasServed = true
        feed(.activated(host: host.number, pause: pause, replayed: 0))
        // Whoever waits for the start sees a pool that runs.
        publish()
        firstStart.give(.success(()))
    }

    private func attach(_ queue: IsolatedQueue, to host: HostInstance) {
        guard let lane = host.lanes[queue.number] else {
            // The queue came after the others were sent.
            return offer(queue, to: host)
        }
        let number = host.number
        _ = queue.post { $0.attach(lane, instance: number) }
    }

    /// An answer of the opening phase, or to a queue that was offered later.
    func opened(_ opening: HostInstance.Asked, by host: HostInstance, _ message: HostMessage) {
        switch (opening.command, message) {
        case (.start, .done(.started(let gaps, let notes))):
            let gaps = gaps.map(\.onOneLine)
            shared.withLock { $0.notes = notes.map(\.onOneLine) }
            host.sandboxGaps = gaps
            host.phase = .started
            return feed(
                .started(
                    host: host.number, processID: host.process.processID, user: options.user, gaps: gaps))
        case (.start, .failed(let status, let message)):
            let error = StatusError(Status(ofCall: status), message.onOneLine)
            if !hasServed { firstStart.give(.failure(error)) }
            return lose(host, .crash, error.message)
        case (.addQueue, .done(.nothing)): break
        case (.perform, .done(.part(let answer, isLast: true)))
        where opening.resource?.call.fits(answer) == true:
            break
        case (.perform, .failed(_, let reason)):
            // The driver refuses its requests, and does those of others.
            let subject = opening.resource?.subject
            let words = "\(subject ?? "something") cannot be opened: \(reason.onOneLine)"
            options.onEvent(DriverHostEvent(state: .recovering, message: words))
        default: return lose(host, .violation, "an answer that does not fit its question")
        }
        if host.phase == .opening {
            openMore(on: host)
        } else if case .addQueue(let index, _, _) = opening.command {
            if let queue = shared.withLock({ $0.queues[Int(index)] }) { attach(queue, to: host) }
        }
    }

    private func quiesceQueues() {
        pauseBegan = now
        quietRound += 1
        let round = quietRound
        // Calls wait for the next host: what they change, it must find when it opens the pool.
        let queues = shared.withLock { shared in
            shared.serving = nil
            return Array(shared.queues.values)
        }
        quietWanted = Set(queues.map(\.number))
        for queue in queues {
            let number = queue.number
            let isPosted = queue.post { [self] queue in
                queue.quiesce { [self] in post(.quiet(queue: number, round: round)) }
            }
            if !isPosted { quietWanted.remove(number) }
        }
        if quietWanted.isEmpty { feed(.quiesced) }
    }

    private func refuseCalls() {
        // A caller that wakes up looks at the state, which has to be the new one.
        publish()
        let waiting = shared.withLock { shared in
            defer { shared.waiting = [] }
            return shared.waiting
        }
        for one in waiting { one.give(()) }
    }

    private func failRequests(_ status: Status) {
        refuseCalls()
        pauseBegan = nil
        forEachQueue { $0.fail(with: status) }
    }
}
