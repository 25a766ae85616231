import Core
import Reactor

/// The budgets that reactors share.
extension IOServices {
    /// A resource's budget for one more reactor; nil while it has no ceilings.
    func acquireBudget(ofResource id: Identifier, now: UInt64) -> RateBudget? {
        state.withLock { state in
            guard let limits = state.directory.resources[id]?.limits, !limits.isUnlimited else { return nil }
            return state.budgets.acquire(.resource(id), limits, now: now)
        }
    }

    /// Whether a resource has ceilings now.
    func isLimited(_ id: Identifier) -> Bool {
        state.withLock { $0.directory.resources[id]?.limits.isUnlimited == false }
    }

    /// A subject's budget for one more reactor.
    func acquire(
        _ subject: RateSubject, _ limits: RateLimits, now: UInt64, after: RateBudget? = nil
    ) -> RateBudget {
        state.withLock { $0.budgets.acquire(subject, limits, now: now, after: after) }
    }

    /// Gives a budget back.
    func release(_ subject: RateSubject, now: UInt64) {
        state.withLock { $0.budgets.release(subject, now: now) }
    }

    /// The budget of a subject that is in use.
    func budget(of subject: RateSubject) -> RateBudget? {
        state.withLock { $0.budgets.budget(of: subject) }
    }

    /// Puts the ceilings of a resource in force on every reactor; I/O goes on.
    func limit(_ id: Identifier, _ limits: RateLimits) async {
        let now = SystemClock.monotonic()
        state.withLock { $0.budgets.replace(.resource(id), limits, now: now) }
        await onEveryShard { shard, done in
            shard.resourceLimitsChanged(id)
            done()
        }
    }

    /// Puts the ceilings of a grant in force on every reactor, for all its capabilities together; I/O goes on. A
    /// handle that was opened while the grant had none has them from its next RENEW on.
    func limit(grant: Identifier, _ limits: RateLimits) async {
        let now = SystemClock.monotonic()
        state.withLock { $0.budgets.replace(.grant(grant), limits, now: now) }
        await onEveryShard { shard, done in
            shard.grantLimitsChanged(grant)
            done()
        }
    }
}
