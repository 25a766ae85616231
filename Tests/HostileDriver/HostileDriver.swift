import DriverHost
import Drivers
import Glibc

/// A driver host for tests: beside the real drivers, some that try to escape, lie and hang.
@main
struct HostileDriver {
    /// Words that make it a program of its own instead of a host.
    private static let verbs = ["escape", "work", "wait", "gaps", "hang", "parent"]

    static func main() {
        let arguments = Array(CommandLine.arguments.dropFirst())
        if let verb = arguments.first, verbs.contains(verb) { exit(SandboxedProgram(arguments).run()) }
        exit(
            DriverHostProcess.run(drivers: [
                FileDriver.self, MemoryDriver.self, EscapeDriver.self, HarmfulDriver.self,
            ]))
    }
}
