import Core
import DriverKit

extension ServiceAction<Void> {
    /// Starts a pool's driver. Once per name.
    public static func addPool(_ descriptor: PoolDescriptor) -> Self {
        Self { services throws(StatusError) in try await services.addPool(descriptor) }
    }

    /// Stops a pool that has no volumes, and forgets it.
    public static func removePool(_ name: String) -> Self {
        Self { services throws(StatusError) in try await services.removePool(name) }
    }

    /// What becomes of writes to a pool for which there is no space, from now on.
    public static func setFullPolicy(_ name: String, _ policy: FullPolicy) -> Self {
        Self { services throws(StatusError) in try services.pool(name).set(policy) }
    }

    /// Ends a pool's driver host and starts another, also out of quarantine; returns when it serves.
    public static func restartDriver(_ name: String) -> Self {
        Self { services throws(StatusError) in try await services.restartDriver(of: name) }
    }

    /// Gives a pool's driver new settings while it runs: all of them, not only those that change.
    public static func configurePool(_ name: String, _ settings: [String: String]) -> Self {
        Self { services throws(StatusError) in try await services.configure(name, settings: settings) }
    }
}

extension ServiceAction<PoolSpace> {
    /// Asks a pool's driver how full it is.
    public static func poolSpace(_ name: String) -> Self {
        Self { services throws(StatusError) in try await services.space(of: name) }
    }
}

extension ServiceAction<[String: DriverHostReport?]> {
    /// By pool: how its driver host is; nil for a driver that runs in the server. Never waits for a driver.
    public static var driverHosts: Self { Self { $0.driverHosts() } }
}

extension ServiceAction<UInt64> {
    /// Hands a pool over to a driver host from the program that is installed now; answers how long users had to wait, in
    /// nanoseconds.
    public static func upgradeDriver(_ name: String) -> Self {
        Self { services throws(StatusError) in try await services.upgradeDriver(of: name) }
    }
}

extension ServiceAction<[Identifier: UInt64]> {
    /// The volumes that exist on a pool's device: id to size in bytes.
    public static func volumesOnDevice(_ name: String) -> Self {
        Self { services throws(StatusError) in try await services.volumesOnDevice(of: name) }
    }
}
