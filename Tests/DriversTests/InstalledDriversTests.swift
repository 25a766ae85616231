import Core
import DriverKit
import Testing

@testable import Drivers

/// What the programs' list of drivers says.
@Suite struct InstalledDriversTests {
    @Test(
        arguments: [
            ("memory", [:], true), ("memory", ["size": "1GiB", "quarantine": "fail"], true),
            ("file", [:], false),
            ("fault", ["driver": "memory"], true), ("fault", ["driver": "memory", "rules": "no rule"], true),
            ("fault", ["driver": "file", "inner.path": "/srv"], false),
            ("fault", ["inner.driver": "memory"], false),
            ("fault", [:], false), ("none", ["driver": "memory"], false),
        ] as [(String, [String: String], Bool)])
    func aDriverSaysWhetherItsPoolsAreGoneWithTheServer(
        driver: String, settings: [String: String], isVolatile: Bool
    ) {
        #expect(InstalledDrivers.isVolatile(driver, settings: settings) == isVolatile)
    }

    @Test func everyDriverIsFoundByItsNameAndNoOther() throws {
        for driver in InstalledDrivers.all { #expect(try InstalledDrivers.named(driver.name) == driver) }
        let names = InstalledDrivers.all.map { $0.name }
        #expect(Set(names).count == names.count)
        let error = #expect(throws: StatusError.self) { _ = try InstalledDrivers.named("files") }
        #expect(error?.status == .notFound)
        for name in names { #expect(error?.message.contains(name) == true) }
    }
}
