import Core
import DriverKit

/// A pool's settings, read once: what is not known is refused by name, so that a typing error is noticed.
struct DriverSettings {
    private let values: [String: String]
    private let driver: String

    init(_ values: [String: String], driver: String, known: [String]) throws(StatusError) {
        if let stranger = values.keys.sorted().first(where: { !known.contains($0) }) {
            throw StatusError(
                .badRequest,
                "the driver \(driver) has no setting \"\(stranger)\"; it has \(known.joined(separator: ", ")), and as "
                    + "every driver \(PoolSettings.quarantineKey)")
        }
        self.values = values
        self.driver = driver
    }

    func flag(_ name: String, default standard: Bool) throws(StatusError) -> Bool {
        switch values[name] {
        case nil: return standard
        case "true": return true
        case "false": return false
        case .some(let other):
            throw StatusError(.badRequest, "the setting \(name) is \"\(other)\"; write true or false")
        }
    }

    func bytes(_ name: String, default standard: UInt64) throws(StatusError) -> UInt64 {
        guard let text = values[name] else { return standard }
        guard let count = ByteCount(text: text), count.bytes > 0 else {
            throw StatusError(.badRequest, "the setting \(name) is \"\(text)\"; write \(ByteCount.rule)")
        }
        return count.bytes
    }

    func text(_ name: String) -> String? { values[name] }
}
