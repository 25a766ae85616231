import Core
import DriverKit
import Glibc
import Reactor

// SAFETY: used on the reactor's thread, and by the main thread when that has ended.
/// Requests of each kind, one after the other, on a reactor in the sandbox.
final class SandboxedWork: @unchecked Sendable {
    private let driver: any VolumeDriver
    private let arena: Arena
    private let submissions = SubmissionRing(capacity: 16)
    private let completions = CompletionRing(capacity: 16)
    private var queue: (any DriverQueue)?
    private var remote: ReactorRemote?
    private var step = 0
    /// `worked`, or what did not.
    private(set) var outcome = "nothing was done"

    private static let steps: [(DriverOpcode, DriverFlags, UInt64)] = [
        (.write, [], 0), (.write, [.fua], 4096), (.flush, [], 0), (.read, [], 0),
        (.writeZeroes, [], 0), (.writeZeroes, [.noUnmap], 0), (.discard, [], 4096), (.read, [], 0),
        (.flush, [], 0),
    ]

    init(driver: any VolumeDriver, arena: Arena) {
        self.driver = driver
        self.arena = arena
    }

    func start(_ reactor: Reactor) {
        remote = reactor.remote
        do throws(StatusError) {
            queue = try driver.makeQueue(
                reactor: reactor, arena: arena, submissions: submissions, completions: completions,
                onCompletions: { [unowned self] in collect() })
            queue?.indexChanged(0)
            unsafe memset(arena.base, 0x5A, 4096)
            next()
        } catch { finish(error.message) }
    }

    private func next() {
        let (opcode, flags, offset) = SandboxedWork.steps[step]
        let isRead = opcode == .read
        if isRead { unsafe memset(arena.base + 4096, 0xEE, 4096) }
        _ = submissions.push(
            DriverRequest(
                opcode: opcode, flags: flags, index: 0, tag: UInt64(step), offset: offset,
                length: opcode == .flush ? 0 : 4096, buffer: isRead ? 4096 : 0))
        queue?.process()
    }

    private func collect() {
        guard let completion = completions.pop() else { return }
        guard completion.status == Status.ok.rawValue else {
            return finish("step \(step) failed: \(Status(rawValue: completion.status)?.name ?? "?")")
        }
        if SandboxedWork.steps[step].0 == .read {
            let expected: UInt8 = step < 4 ? 0x5A : 0
            let read = unsafe (arena.base + 4096).load(as: UInt8.self)
            if read != expected { return finish("step \(step) read \(read)") }
        }
        step += 1
        if step == SandboxedWork.steps.count { return finish("worked") }
        remote?.post { self.next() }
    }

    private func finish(_ outcome: String) {
        self.outcome = outcome
        queue?.stop()
        queue = nil
        remote?.stop()
    }
}
