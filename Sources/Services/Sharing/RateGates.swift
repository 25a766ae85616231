import Core

/// The budgets that handles of one reactor draw on, by small numbers.
///
/// A gate has a parent where a capability's blocks have limits of their own, or its grant has: a request passes all of
/// them.
struct RateGates {
    /// "No gate".
    static let none: Int32 = -1

    private struct Gate {
        let subject: RateSubject
        var budget: RateBudget
        let parent: Int32
        /// Handles, and gates, that go through it.
        var users = 1
        /// Handles whose requests wait at it.
        var waiting = 0
    }

    private var gates: [Gate?] = []
    private var free: [Int32] = []
    private var numbers: [RateSubject: Int32] = [:]

    /// The gate of a subject, with one more user; nil when there is none yet.
    mutating func join(_ subject: RateSubject) -> Int32? {
        guard let number = numbers[subject] else { return nil }
        gates[Int(number)]?.users += 1
        return number
    }

    /// Makes a subject's gate, with one user. The parent's user count is the caller's to have raised.
    mutating func insert(_ subject: RateSubject, _ budget: RateBudget, parent: Int32) -> Int32 {
        let gate = Gate(subject: subject, budget: budget, parent: parent)
        let number: Int32
        if let unused = free.popLast() {
            number = unused
            gates[Int(number)] = gate
        } else {
            number = Int32(gates.count)
            gates.append(gate)
        }
        numbers[subject] = number
        return number
    }

    /// Takes a user back; returns the subjects whose gates are gone now.
    mutating func leave(_ number: Int32) -> [RateSubject] {
        var gone: [RateSubject] = []
        var at = number
        while at != RateGates.none, let gate = gates[Int(at)] {
            if gate.users > 1 {
                gates[Int(at)]?.users -= 1
                break
            }
            gates[Int(at)] = nil
            numbers[gate.subject] = nil
            free.append(at)
            gone.append(gate.subject)
            at = gate.parent
        }
        return gone
    }

    /// The gate of a subject.
    func find(_ subject: RateSubject) -> Int32? { numbers[subject] }

    /// Has a gate draw on another budget.
    mutating func use(_ budget: RateBudget, at number: Int32) {
        gates[Int(number)]?.budget = budget
    }

    /// The budget of the outermost gate of a chain that is a capability's.
    func rootBudget(_ number: Int32) -> RateBudget? {
        var at = number
        var last: RateBudget?
        while at != RateGates.none, let gate = gates[Int(at)] {
            if case .capability = gate.subject { last = gate.budget }
            at = gate.parent
        }
        return last
    }

    /// Nanoseconds until a request may pass a gate and its parents.
    func wait(_ number: Int32, now: UInt64) -> UInt64 {
        var at = number
        var longest: UInt64 = 0
        while at != RateGates.none, let gate = gates[Int(at)] {
            longest = max(longest, gate.budget.wait(now: now))
            at = gate.parent
        }
        return longest
    }

    /// Whether requests of some handle wait at a gate or a parent: who comes later waits behind them.
    func hasWaiting(_ number: Int32) -> Bool {
        var at = number
        while at != RateGates.none, let gate = gates[Int(at)] {
            if gate.waiting > 0 { return true }
            at = gate.parent
        }
        return false
    }

    /// Takes one operation of `count` payload bytes.
    func take(_ number: Int32, count: UInt32, now: UInt64) {
        var at = number
        while at != RateGates.none, let gate = gates[Int(at)] {
            gate.budget.take(count: count, now: now)
            at = gate.parent
        }
    }

    /// Notes that a handle begins (1) or ends (-1) to wait.
    mutating func addWaiting(_ number: Int32, _ more: Int) {
        var at = number
        while at != RateGates.none, let parent = gates[Int(at)]?.parent {
            gates[Int(at)]?.waiting += more
            at = parent
        }
    }
}
