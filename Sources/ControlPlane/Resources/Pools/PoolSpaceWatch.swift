import Catalog
import Core
import DriverKit
import Logging
import Services

/// Whether a pool has the space that was promised of it.
enum SpaceState: String, Sendable, CaseIterable {
    /// There is enough.
    case ok
    /// Little is left, and more was promised.
    case nearFull = "near-full"
    /// Nothing is left: writes that want space wait or fail.
    case full

    /// What a pool's space comes to.
    ///
    /// - Parameters:
    ///   - provisioned: the sizes of its volumes, in bytes.
    ///   - now: Unix seconds.
    init(_ space: PoolSpace, provisioned: UInt64, now: UInt64) {
        let (total, free) = (space.capacity.total, space.capacity.free)
        let promised = provisioned > space.capacity.used ? provisioned - space.capacity.used : 0
        if let last = space.lastRefusal, last + Limits.refusalSeconds >= now {
            self = .full
        } else if promised <= free || total == 0 {
            // Its file system does not tell, or every byte that somebody may write has its place.
            self = .ok
        } else if free == 0 {
            self = .full
        } else if free < min(total / Limits.nearFullShare, Limits.nearFullBytesMax) {
            self = .nearFull
        } else {
            self = .ok
        }
    }
}

/// A pool's space when it was last looked at.
struct WatchedSpace: Sendable {
    /// Nil while its driver does not say.
    var space: PoolSpace?
    var state = SpaceState.ok
    /// Unix seconds, since when it has been in this state.
    var since: UInt64
    /// Why its driver does not say.
    var fault: String?
    /// Unix seconds, since when it does not.
    var faultSince: UInt64?
}

/// When somebody began to look at a pool.
struct PoolLook: Sendable, Hashable {
    /// Unix seconds.
    let wall: UInt64
    /// Nanoseconds of the clock for lives.
    let life: UInt64
}

/// How full the pools are, looked at regularly: what changes is an event, and in the log.
extension ControlPlane {
    /// Looks at every pool again and again, for as long as the server takes requests.
    func watchSpace() {
        Task { [weak self] in
            while self?.isReady == true {
                _ = await self?.lookAtPools()
                try? await Task.sleep(for: .seconds(Limits.spaceWatchSeconds))
            }
        }
    }

    /// Looks at every pool, in order of their names; nil for one that does not answer in time. No pool waits for
    /// another one, whose driver may hang.
    func lookAtPools() async -> [(name: String, seen: WatchedSpace?)] {
        await withTaskGroup(of: (name: String, seen: WatchedSpace?).self) { group in
            for stored in store.all(PoolRecord.self) {
                group.addTask {
                    (stored.record.name, await self.lookInTime(at: stored.record))
                }
            }
            return await group.reduce(into: []) { $0.append($1) }.sorted { $0.name < $1.name }
        }
    }

    /// What there is to know of a pool's space within a second; nil when nothing is.
    ///
    /// However often somebody looks, a driver that has hung for a second is not asked again. What it said before
    /// counts until it has been silent for a while; from then on its silence is what there is to know.
    func lookInTime(at pool: PoolRecord) async -> WatchedSpace? {
        let now = PoolLook(wall: wallClock.now(), life: lifeClock.now())
        let began = live.withLock { live in
            let began = live.looks[pool.name]
            if began == nil { live.looks[pool.name] = now }
            return began
        }
        guard let began, now.life >= began.life.adding(seconds: 1) else {
            let found = await ControlPlane.inTime(seconds: 1) { () -> WatchedSpace?? in
                let seen = await self.lookAtSpace(pool)
                self.live.withLock { $0.looks[pool.name] = nil }
                return .some(seen)
            }
            return found ?? live.withLock { $0.spaces[pool.name] }
        }
        guard now.life >= began.life.adding(seconds: Limits.poolSilenceSeconds) else {
            return live.withLock { $0.spaces[pool.name] }
        }
        let (known, silent) = live.withLock { live -> (WatchedSpace?, WatchedSpace) in
            let known = live.spaces[pool.name]
            var silent = known ?? WatchedSpace(since: began.wall)
            // It may have answered meanwhile.
            guard live.looks[pool.name] == began else { return (known, silent) }
            silent.fault =
                "its driver has not answered since \(Timestamp.text(began.wall)): 'sluice pool restart \(pool.name)' starts"
                + " another, and the server does so in time"
            silent.faultSince = known?.faultSince ?? began.wall
            live.spaces[pool.name] = silent
            return (known, silent)
        }
        tell(pool.name, from: known, to: silent)
        return silent
    }

    /// The sizes of a pool's volumes, in bytes.
    func provisioned(in pool: String) -> UInt64 {
        store.all(VolumeRecord.self) { $0.pool == pool }.reduce(0) { sum, stored in
            let (total, overflow) = sum.addingReportingOverflow(stored.record.size)
            return overflow ? .max : total
        }
    }

    /// Waits a while for the first word of a driver that was started anew.
    func expectAnswer(
        of pool: PoolRecord, seconds: Int = Limits.driverAnswerSeconds
    ) async throws(Problem) {
        let seen = await ControlPlane.inTime(seconds: seconds) { () -> WatchedSpace?? in
            // A host may still be on its way, or wait for what the one before it has under way.
            while let hosts = try? await self.driverHosts(),
                [.starting, .recovering].contains(self.condition(of: pool, hosts).state), !Task.isCancelled
            {
                try? await Task.sleep(for: .milliseconds(20))
            }
            return .some(await self.lookAtSpace(pool))
        }
        guard let seen else {
            throw Problem(
                .deviceFailed,
                "the driver of pool \(pool.name) was started anew, and has answered nothing for \(seconds) s: see to its"
                    + " device, then restart the pool again")
        }
        if let fault = seen?.fault { throw Problem(.deviceFailed, fault) }
    }

    /// Asks a running pool's driver how full it is, and tells what has changed. Nil where the driver is not asked,
    /// since it is not ready and would keep everybody waiting.
    func lookAtSpace(_ pool: PoolRecord) async -> WatchedSpace? {
        guard let hosts = try? await driverHosts(), condition(of: pool, hosts).state == .ready else {
            return nil
        }
        let now = wallClock.now()
        var seen = WatchedSpace(since: now)
        do throws(Problem) {
            let space = try await perform(.poolSpace(pool.name))
            seen.space = space
            seen.state = SpaceState(space, provisioned: provisioned(in: pool.name), now: now)
        } catch {
            // A driver that is busy answers the next time.
            guard error.code != .busy else { return live.withLock { $0.spaces[pool.name] } }
            seen.fault = error.detail
        }
        // Its driver may have answered after another pool of the name was made.
        if let now = store.get(PoolRecord.self, pool.name)?.record, now.id != pool.id { return nil }
        let found = seen
        // Several may look at once, and one of them tells.
        let (known, current) = live.withLock { live in
            let known = live.spaces[pool.name]
            var current = found
            if current.fault != nil {
                current.state = known?.state ?? .ok
                current.faultSince = known?.faultSince ?? now
            }
            if let known, known.state == current.state { current.since = known.since }
            live.spaces[pool.name] = current
            return (known, current)
        }
        tell(pool.name, from: known, to: current)
        return current
    }

    private func tell(_ pool: String, from known: WatchedSpace?, to seen: WatchedSpace) {
        let before = known?.state ?? .ok
        if seen.fault != known?.fault {
            let kind: ServerEvent.Kind = seen.fault == nil ? .poolWorks : .poolFailed
            events.append(kind, subject: "pool/\(pool)", message: seen.fault ?? "its driver answers again")
            logger.error(
                seen.fault == nil ? "pool works again" : "pool does not answer",
                metadata: ["pool": "\(pool)", "reason": "\(seen.fault ?? "")"])
        }
        guard seen.state != before, let words = words(pool, seen) else { return }
        let kind: ServerEvent.Kind =
            switch seen.state {
            case .ok: .poolHasSpace
            case .nearFull: .poolNearFull
            case .full: .poolFull
            }
        events.append(kind, subject: "pool/\(pool)", message: words)
        logger.warning(
            "pool space", metadata: ["pool": "\(pool)", "state": "\(seen.state.rawValue)", "why": "\(words)"])
    }

    /// A pool's space in words; nil where it is not known.
    func words(_ pool: String, _ seen: WatchedSpace) -> String? {
        guard let space = seen.space else { return nil }
        let (free, total) = (ByteCount(space.capacity.free), ByteCount(space.capacity.total))
        let promised = ByteCount(provisioned(in: pool))
        let figures = "\(free) of \(total) are free, volumes of \(promised) were promised"
        let policy = store.get(PoolRecord.self, pool)?.record.whenFull ?? .wait
        return switch seen.state {
        case .ok: figures
        case .nearFull: "nearly full: \(figures); make room, or delete or discard what is not needed"
        case .full:
            "full: \(space.capacity.free == 0 ? "" : "a write found no space a moment ago, though ")\(figures);"
                + " writes that need space \(policy == .wait ? "wait" : "fail, those that wait when they are tried again")."
                + " Make room, or delete or discard what is not needed"
        }
    }

    /// What there is to say of a pool that has promised more than it has, with a volume that is not on record yet,
    /// or not with this size; nil when it has not.
    func overcommitment(of pool: PoolRecord, with volume: VolumeRecord) async -> String? {
        guard let capacity = await lookInTime(at: pool)?.space?.capacity else { return nil }
        let known = store.get(VolumeRecord.self, volume.name)?.record.size ?? 0
        let others = provisioned(in: pool.name)
        let promised = (others - min(known, others)).addingSaturated(volume.size)
        let room = capacity.used.addingReportingOverflow(capacity.free).partialValue
        guard promised > room else { return nil }
        return "pool \(pool.name) has \(ByteCount(room)) for volumes of \(ByteCount(promised)): writes"
            + " \(pool.whenFull == .wait ? "wait" : "fail") when it is full"
    }
}

extension FullPolicy {
    /// What a pool's record says.
    init(_ policy: PoolRecord.WhenFull) {
        self =
            switch policy {
            case .wait: .wait
            case .fail: .fail
            }
    }
}
