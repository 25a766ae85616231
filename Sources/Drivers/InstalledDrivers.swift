import Core
import DriverKit

/// The drivers that these programs have: `sluice-driver` runs them in its sandbox, `sluiced` runs them inline and
/// asks what holds for their pools.
public enum InstalledDrivers {
    /// All of them. A new driver is added here, and nowhere else.
    public static let all: [any InstalledDriver.Type] = [
        FileDriver.self, MemoryDriver.self, FaultDriver.self,
    ]

    /// The driver of that name.
    ///
    /// - Throws: `notFound` with the names that there are.
    public static func named(_ name: String) throws(StatusError) -> any InstalledDriver.Type {
        if let driver = all.first(where: { $0.name == name }) { return driver }
        let names = all.map { $0.name }.joined(separator: ", ")
        throw StatusError(.notFound, "there is no driver '\(name)': there are \(names)")
    }

    /// Whether what a pool with these settings holds is gone when the server has ended; no for a driver that there
    /// is not.
    public static func isVolatile(_ driver: String, settings: [String: String]) -> Bool {
        all.first { $0.name == driver }?.isVolatile(settings: settings) ?? false
    }
}
