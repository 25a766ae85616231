import Catalog
import Core
import DriverKit
import Logging
import Services

/// Work on volumes that takes long: it goes on second by second beside everything else, also after a restart, until
/// it is done or somebody cancels it. What it is about is in the catalog: a volume in state `preparing`, or the
/// intent of a growth.
extension ControlPlane {
    /// Goes on with it on a task of its own, unless one does so already.
    func goOn(with operation: LongOperation) {
        guard live.withLock({ $0.operations.begin(operation) }) else { return }
        Task { [weak self] in await self?.run(operation) }
    }

    /// Goes on with everything that is to be done in a pool, or in all of them; also with what has failed before.
    func goOnWithVolumes(in pool: String? = nil) {
        for stored in store.all(
            VolumeRecord.self, where: { $0.state == .preparing && (pool == nil || $0.pool == pool) })
        {
            let operation = LongOperation(making: stored.record)
            guard !live.withLock({ $0.operations.isUnderWay(operation) }) else { continue }
            live.withLock { live in
                guard live.poolFaults[stored.record.pool] == nil else { return }
                live.volumeFaults[stored.record.id] = nil
            }
            goOn(with: operation)
        }
        for stored in store.all(IntentRecord.self, where: { pool == nil || $0.volume.pool == pool }) {
            if let growth = LongOperation(stored.record) { goOn(with: growth) }
        }
    }

    private func run(_ operation: LongOperation) async {
        while isReady, live.withLock({ $0.operations.isUnderWay(operation) }) {
            do throws(Problem) {
                if let fault = fault(ofPool: operation.pool) {
                    throw Problem(.busy, "pool \(operation.pool) does not run: \(fault)")
                }
                switch try await perform(.prepareVolume(operation.volume, to: operation.size)) {
                case .preparing(let left) where left > 0:
                    live.withLock { $0.operations.advance(operation, left: left) }
                case .made(let geometry):
                    return try await finishMaking(operation, blockSize: geometry.blockSize)
                case .preparing: return try await finishGrowth(operation)
                }
            } catch {
                guard error.code == .busy else { return await fail(operation, error) }
                if live.withLock({ $0.operations.hold(operation, error.detail) }) {
                    logger.warning(
                        "an operation waits", metadata: metadata(operation, because: error.detail))
                }
                try? await Task.sleep(for: .seconds(1))
            }
        }
    }

    /// Ends an operation that can never be done, and says why. A volume that was being made stays until its pool is
    /// restarted or the volume deleted; one that was to grow is what it was.
    private func fail(_ operation: LongOperation, _ problem: Problem) async {
        do throws(Problem) {
            try await locks.withLock("volume/\(operation.name)") { () async throws(Problem) in
                // Whoever cancelled it was quicker.
                guard live.withLock({ $0.operations.isUnderWay(operation) }) else { return }
                let subject = "volume/\(operation.name)"
                switch operation.kind {
                case .prepareVolume:
                    live.withLock { $0.volumeFaults[operation.volume] = problem.detail }
                    events.append(.volumeFailed, subject: subject, message: problem.detail)
                case .growVolume:
                    events.append(
                        .volumeNotGrown, subject: subject,
                        message:
                            "it keeps its size, and cannot have \(operation.size) bytes: \(problem.detail)")
                }
                let remedy =
                    operation.kind == .prepareVolume
                    ? "; it goes on when pool \(operation.pool) is restarted" : ""
                end(operation, .failed(problem.detail + remedy))
                logger.error(
                    "an operation has failed", metadata: metadata(operation, because: problem.detail))
                if operation.kind == .growVolume { try await withdraw(operation) }
            }
        } catch {
            logger.error(
                "a growth that failed is tried again at the next start",
                metadata: ["volume": "\(operation.name)", "reason": "\(error.detail)"])
        }
    }

    private func metadata(_ operation: LongOperation, because reason: String) -> Logger.Metadata {
        [
            "operation": "\(operation.id)", "kind": "\(operation.kind.rawValue)",
            "volume": "\(operation.name)", "reason": "\(reason)",
        ]
    }

    /// Notes how it ended.
    func end(_ operation: LongOperation, _ state: LongOperation.State) {
        let now = wallClock.now()
        live.withLock { $0.operations.end(operation, state, at: now) }
    }

    /// Commits the last change of an operation. A catalog that does not take it now is asked again.
    private func conclude(_ changes: RecordChanges) async throws(Problem) {
        do throws(Problem) { try await commit(changes) } catch {
            throw Problem(.busy, "the catalog does not take it: \(error.detail)")
        }
    }

    // MARK: Making

    private func finishMaking(_ operation: LongOperation, blockSize: UInt32) async throws(Problem) {
        try await locks.withLock("volume/\(operation.name)") { () async throws(Problem) in
            guard let stored = store.get(VolumeRecord.self, operation.name),
                stored.record.id == operation.volume, stored.record.state == .preparing
            else { return end(operation, .cancelled) }
            var ready = stored.record
            ready.state = .ready
            ready.blockSize = blockSize
            ready.touch(wallClock.now())
            let record = ready
            var changes = RecordChanges()
            try Problem.translating { () throws(CatalogError) in
                try changes.put(record, over: stored.revision)
            }
            try await conclude(changes)
            end(operation, .done)
            events.append(
                .volumeReady, subject: "volume/\(operation.name)",
                message: "its device is prepared: it can be used")
        }
    }

    // MARK: Growing

    /// Has the device prepared for a larger volume, as far as that is done within a moment.
    ///
    /// - Returns: the bytes that are left.
    func prepare(_ volume: VolumeRecord, to size: UInt64) async throws(Problem) -> UInt64 {
        var left = UInt64.max
        for _ in 0...Limits.preparationsAtOnce where left > 0 {
            left = try await perform(.prepareVolume(volume.id, to: size), inPool: volume.pool).left
        }
        return left
    }

    /// Gives a volume the size that its device is prepared for, if nobody has cancelled that; clients are told.
    func finishGrowth(_ growth: LongOperation) async throws(Problem) {
        try await locks.withLock("volume/\(growth.name)") { () async throws(Problem) in
            guard let intent = intent(of: growth), let stored = store.get(VolumeRecord.self, growth.name),
                stored.record.id == growth.volume, stored.record.state == .ready
            else {
                try await withdraw(growth)
                return end(growth, .cancelled)
            }
            try await perform(.resizeVolume(growth.volume, growth.size))
            // From here on it cannot be cancelled: clients know the new size.
            live.withLock { $0.operations.advance(growth, left: 0) }
            var volume = stored.record
            volume.size = growth.size
            volume.touch(wallClock.now())
            let grown = volume
            var changes = RecordChanges()
            changes.delete(intent)
            try Problem.translating { () throws(CatalogError) in
                try changes.put(grown, over: stored.revision)
            }
            try await conclude(changes)
            end(growth, .done)
            events.append(
                .volumeGrown, subject: "volume/\(growth.name)", message: "it has \(growth.size) bytes now")
        }
    }

    /// Takes the intent of a growth back: the volume keeps its size. What the device has zeroed beyond it is left
    /// as it is.
    func withdraw(_ growth: LongOperation) async throws(Problem) {
        guard let intent = intent(of: growth) else { return }
        var changes = RecordChanges()
        changes.delete(intent)
        try await commit(changes)
    }

    private func intent(of growth: LongOperation) -> Stored<IntentRecord>? {
        guard let stored = store.get(IntentRecord.self, growth.volume.hex),
            LongOperation(stored.record)?.id == growth.id
        else { return nil }
        return stored
    }
}
