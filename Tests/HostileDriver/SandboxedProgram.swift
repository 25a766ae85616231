import CHostile
import Core
import DriverHost
import DriverKit
import Drivers
import Glibc
import Reactor

/// A process that goes into the sandbox as a driver host does and then does one thing:
/// `escape ATTEMPT`, `work DRIVER`, `hang DEVICE` or `wait`, then `NAME=VALUE` words.
///
/// Words: `folder` (the pool's), `sandbox` (`none` for a control, or `user`, `keep`), `user`, `as` (the
/// ordinary user to become before), `path` (a device or file to leave to it), `network`, `parent` (a wrong
/// one), and the driver's settings.
struct SandboxedProgram {
    private var words: [String: String] = [:]
    private let verb: String
    private let object: String

    init(_ arguments: [String]) {
        verb = arguments.first ?? ""
        object = arguments.dropFirst().first ?? ""
        for word in arguments.dropFirst(2) {
            let parts = word.split(separator: "=", maxSplits: 1).map(String.init)
            words[parts[0]] = parts.count > 1 ? parts[1] : ""
        }
    }

    /// Runs it; what came of it is one line on standard output.
    func run() -> Int32 {
        do {
            say(try perform())
            return 0
        } catch {
            say("\(error)")
            return 1
        }
    }

    private func say(_ line: String) {
        let bytes = [UInt8]("\(line)\n".utf8)
        _ = unsafe bytes.withUnsafeBytes { unsafe write(1, $0.baseAddress, $0.count) }
    }

    private func perform() throws -> String {
        if let user = words["as"].flatMap({ UInt32($0) }), hostile_become(user) != 0 {
            return "the process could not become user \(user)"
        }
        try Sandbox.closeInherited(keeping: [])
        var options = Reactor.Options()
        options.entries = 64
        options.receiveBufferCount = 1
        options.receiveBufferBytes = 4096
        options.isRestricted = words["sandbox"] != "none"
        switch verb {
        case "escape":
            var settings = words
            settings["attempt"] = object
            let driver = try EscapeDriver(DriverEnvironment(settings: settings, folder: folder))
            driver.take(try Reactor(options))
            _ = try enter()
            do throws(StatusError) { _ = try driver.capacity() } catch { return error.message }
            return "nothing was tried"
        case "work": return try work(Reactor(options))
        case "gaps": return try enter().joined(separator: " ")
        case "wait":
            _ = try enter()
            say("waiting")
            while true { pause() }
        case "hang": return try hang(Reactor(options))
        case "parent":
            // Its child is in the sandbox and waits; this process ends only when it is killed.
            let child = try ChildProcess(
                executable: object, arguments: ["wait", "-", "folder=\(folder)", "sandbox=keep"],
                environment: ["SWIFT_BACKTRACE=enable=no"])
            return "\(child.wait())"
        default: return "there is nothing to do"
        }
    }

    private var folder: String { words["folder"] ?? "" }

    private func enter() throws -> [String] {
        guard words["sandbox"] != "none" else { return [] }
        let descriptor = FileDescriptor(owning: unsafe open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC))
        var needs = DriverNeeds()
        if let path = words["path"] { needs.paths = [path] }
        needs.network = words["network"] != nil
        needs.sharedMemory = object == MemoryDriver.name
        var policy = SandboxPolicy(
            folder: descriptor.raw, user: words["user"].flatMap { UInt32($0) },
            parent: words["parent"].flatMap { Int32($0) } ?? getppid(), needs: needs)
        if verb == "escape" {
            policy.filesMax = 256
            policy.threadsMax = 64
            policy.fileBytesMax = 1 << 20
            policy.memoryBytesMax = 256 << 20
        }
        return try Sandbox.enter(policy)
    }

    // MARK: I/O that outlives the process

    /// Has a write under way on the device `object` that does not end, and standard output held by the ring.
    private func hang(_ reactor: Reactor) throws -> String {
        let device = FileDescriptor(
            owning: unsafe open(object, O_RDWR | O_CLOEXEC | BlockDevices.openDirect))
        let arena = try Arena(bytes: 4096)
        try reactor.hold(fds: [1])
        _ = try enter()
        let program = self
        let thread = try reactor.launch { reactor in
            let target = reactor.register(FirstCompletion { program.say("waiting") })
            let bytes = unsafe UnsafeRawBufferPointer(start: arena.base, count: 4096)
            unsafe reactor.write(fd: device.raw, from: bytes, at: 0, target: target, token: 1)
            reactor.noOperation(target: target, token: 0)
        }
        thread.join()
        return "the write ended"
    }

    // MARK: Work that the sandbox must not hinder

    /// Opens a driver before the sandbox and uses all of it within.
    private func work(_ reactor: Reactor) throws -> String {
        let environment = DriverEnvironment(settings: [:], folder: folder, store: HeldDescriptors())
        let driver: any InstalledVolumeDriver =
            object == MemoryDriver.name ? try MemoryDriver(environment) : try FileDriver(environment)
        let arena = try Arena(bytes: 1 << 20)
        let gaps = try enter()
        let id = Identifier(high: 1, low: 2)
        try driver.createVolume(id, size: 4 << 20)
        try driver.resizeVolume(id, to: 8 << 20)
        _ = try driver.openVolume(id, index: 0)
        let worker = SandboxedWork(driver: driver, arena: arena)
        let thread = try reactor.launch { worker.start($0) }
        thread.join()
        driver.closeVolume(0)
        guard try driver.volumes() == [id: 8 << 20], try driver.capacity().total > 0 else {
            return "the volume is not there"
        }
        try driver.deleteVolume(id)
        return worker.outcome + (gaps.isEmpty ? "" : "; gaps: " + gaps.joined(separator: " "))
    }
}

/// Tells when what was submitted before has been.
private final class FirstCompletion: CompletionTarget {
    private let tell: () -> Void

    init(_ tell: @escaping () -> Void) { self.tell = tell }

    func completed(token: UInt32, result: Int32, flags: CompletionFlags) { if token == 0 { tell() } }
}
