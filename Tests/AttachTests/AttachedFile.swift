import Core
import Glibc
import Reactor
import Synchronization

@testable import Attach

/// How the kernel's requests come: one by one through /dev/fuse, or through a ring.
enum FuseTransport: CaseIterable {
    case device
    case ring

    private static let parameter = "/sys/module/fuse/parameters/enable_uring"

    /// What this kernel has.
    static var possible: [FuseTransport] {
        unsafe access(parameter, W_OK) == 0 ? allCases : [.device]
    }

    /// Runs `body` with a kernel that offers rings, or does not.
    func prepared<Value>(_ body: () throws -> Value) throws -> Value {
        let wanted = self == .ring ? "Y" : "N"
        guard let before = TextFile.read(Self.parameter), !before.hasPrefix(wanted) else { return try body() }
        try FileTools.write(Self.parameter, wanted)
        defer { try? FileTools.write(Self.parameter, before) }
        return try body()
    }
}

/// A local file as a real block device, by way of FUSE and a loop device, served by a reactor of its own.
///
/// The tests are the "other process" of the loop device's calls: they run on other threads than the reactor.
final class AttachedFile: Sendable {
    static var isPossible: Bool {
        unsafe geteuid() == 0 && access("/dev/fuse", R_OK | W_OK) == 0
            && access("/dev/loop-control", R_OK | W_OK) == 0
    }

    let folder: String
    let loop: LoopOwner
    var device: String { loop.device }
    let backing: String
    private let thread: ReactorThread
    private let parts: Parts

    /// What lives on the reactor's thread.
    private final class Parts: @unchecked Sendable, FuseVolumeOwner {
        // SAFETY: only the reactor's thread touches the parts, but for `ended`, which is a lock's.
        var volume: FuseVolume<FileBackend>?
        var backend: FileBackend?
        let ended = Mutex(false)
        let failures = Mutex<[Status]>([])
        let ring = Mutex(0)
        let closed = Mutex(0)

        func requestFailed(_ operation: BlockOperation, _ status: Status) {
            failures.withLock { $0.append(status) }
        }
        let waits = Mutex<[Int]>([])

        let told = ThreadSemaphore()

        func waitsForSpace(_ count: Int) {
            waits.withLock { $0.append(count) }
            told.signal()
        }
        func ringServes(entries: Int) { ring.withLock { $0 = entries } }
        func fileClosed() { closed.withLock { $0 += 1 } }
        func sessionEnded() { ended.withLock { $0 = true } }
    }

    init(
        size: UInt64, blockSize: UInt32 = 512, maximumTransfer: UInt32 = 1 << 20, slots: Int = 32,
        isReadOnly: Bool = false, allowsDiscard: Bool = true, timeoutSeconds: UInt64? = nil,
        contents: [UInt8] = []
    ) throws {
        let parts = Parts()
        self.parts = parts
        folder = try TemporaryFolder.make()
        backing = folder + "/backing"
        let mount = folder + "/mount"
        try FileTools.create(backing, size: size)
        if !contents.isEmpty { try FileTools.overwrite(backing, contents) }
        guard unsafe mkdir(mount, 0o700) == 0 else { throw AttachError.system(errno, "mkdir") }
        var shape = BlockGeometry(
            size: size, blockSize: blockSize, maximumTransfer: maximumTransfer, isReadOnly: isReadOnly)
        shape.allowsDiscard = allowsDiscard
        let geometry = shape
        let backing = backing
        let outcome = OneShot<AttachError?>()
        var options = Reactor.Options()
        options.takesCommands = true
        thread = try Reactor.start(options) { reactor in
            let backend = FileBackend(reactor: reactor, path: backing, slots: slots)
            let volume = FuseVolume(
                fileName: "db", geometry: geometry, backend: backend, reactor: reactor,
                timeoutSeconds: timeoutSeconds, owner: parts)
            backend.volume = volume
            parts.backend = backend
            parts.volume = volume
            do throws(AttachError) {
                try volume.serve(at: mount)
                outcome.give(nil)
            } catch {
                outcome.give(error)
            }
        }
        if let error = outcome.take() { throw error }
        let made = try LoopDevice.attach(
            file: mount + "/db", blockSize: blockSize, isReadOnly: isReadOnly, name: "sluice:test")
        loop = LoopOwner(device: made.device, mark: "sluice:test", folder: mount, identity: made.identity)
    }

    var state: FileBackend.State { onReactor { $0.backend!.state.withLock { $0 } } }
    /// How many entries the kernel's ring has; 0 without one.
    var ringEntries: Int { parts.ring.withLock { $0 } }
    /// How often the kernel has said that it closed the file.
    var closedCount: Int { parts.closed.withLock { $0 } }
    /// How many requests have failed, and with how many of them data may be lost.
    var failed: FailureTotal { onReactor { $0.volume!.failed } }
    var failures: [Status] { parts.failures.withLock { $0 } }

    /// Every request fails so from now on, or works again.
    func fail(_ status: Status?) {
        onReactor { parts in parts.backend!.state.withLock { $0.failure = status } }
    }

    /// Whether there is no space for writes.
    func fill(_ isFull: Bool) {
        onReactor { parts in parts.backend!.state.withLock { $0.isFull = isFull } }
    }

    /// Whether it is told within a minute that writes wait for space, once more.
    func waitWasTold() -> Bool { parts.told.wait(milliseconds: 60_000) }

    /// How many writes waited for space, each time that it was told.
    var waits: [Int] { parts.waits.withLock { $0 } }

    /// Nothing can be discarded from now on.
    func lackDiscard() {
        onReactor { parts in parts.backend!.state.withLock { $0.lacksDiscard = true } }
    }

    /// Requests are taken and not executed, or are again.
    func hold(_ holds: Bool) {
        onReactor { parts in parts.backend!.state.withLock { $0.holds = holds } }
    }

    /// The volume itself fails everything, what waits included.
    func failVolume(_ status: Status) { onReactor { $0.volume!.fail(status) } }

    /// Makes the volume larger and the device with it.
    func resize(to size: UInt64) throws -> UInt64 {
        try FileTools.create(backing, size: size)
        onReactor { $0.volume!.resized(to: size) }
        return try LoopDevice.refreshSize(loop, file: folder + "/mount/db")
    }

    @discardableResult
    func release(isForced: Bool = false) throws(AttachError) -> String? {
        try LoopDevice.release(loop, isForced: isForced)
    }

    /// Gives everything back. The device must not be in use; by force, it goes when whoever has it open closes it.
    func close(isForced: Bool = false) throws {
        try release(isForced: isForced)
        _ = unsafe umount2(folder + "/mount", Int32(MNT_DETACH))
        onReactor { parts in
            parts.volume!.end()
            parts.backend!.close()
        }
        thread.remote.stop()
        thread.join()
        try FileTools.remove(folder)
    }

    private func onReactor<Value: Sendable>(_ body: @escaping @Sendable (Parts) -> Value) -> Value {
        let parts = parts
        return thread.remote.call { _ in body(parts) }!
    }
}
