import Core

/// The settings of a pool, those of every pool apart from those of its driver.
public struct PoolSettings: Sendable, Hashable {
    /// What becomes of requests while the pool is quarantined.
    public static let quarantineKey = "quarantine"

    /// They fail; otherwise they wait, as for any other absence of the driver.
    public var failsInQuarantine = false
    /// What the driver is given.
    public var ofDriver: [String: String]

    /// Takes them apart.
    ///
    /// - Throws: `badRequest` for a value that a setting cannot have.
    public init(_ settings: [String: String]) throws(StatusError) {
        ofDriver = settings
        switch ofDriver.removeValue(forKey: PoolSettings.quarantineKey) {
        case nil, "wait": break
        case "fail": failsInQuarantine = true
        case .some(let other):
            throw StatusError(
                .badRequest, "the setting \(PoolSettings.quarantineKey) is \"\(other)\"; write wait or fail")
        }
    }
}
