import DriverHost
import Drivers
import Glibc

/// The program that `sluiced` starts for each pool.
@main
struct SluiceDriver {
    static func main() {
        exit(DriverHostProcess.run(drivers: InstalledDrivers.all))
    }
}
