import CFUSE
import Core
import Glibc
import Reactor

/// How a loop device is given up. These calls block, and wait for the process that serves the file: never call them in
/// that process.
extension LoopDevice {
    /// Writes back what the kernel holds for the device and gives the loop device up.
    ///
    /// Does nothing when it is already given up. While anything uses the device or its partitions this refuses,
    /// says what, and leaves the device as it was. With `isForced` it writes nothing back, and processes that have
    /// the device open do not matter; mounts, and devices on top of it, still do.
    ///
    /// - Returns: who keeps the device in the kernel until they close it; nil when it is gone.
    @discardableResult
    static func release(_ loop: LoopOwner, isForced: Bool = false) throws(AttachError) -> String? {
        let parent = getppid()
        var isFinal = false
        let deadline = SystemClock.monotonic() + AttachLimits.busyNanoseconds
        for attempt in 1... {
            // It takes a while on a machine with many open files.
            if attempt > AttachLimits.busyAttemptsMin, SystemClock.monotonic() >= deadline { break }
            do throws(AttachError) {
                return try releaseAtOnce(loop, isForced: isForced, parent: parent, isFinal: &isFinal)
            } catch {
                // udev and others open each device for a moment, and children have it from fork to exec.
                guard error.reason == .busy, !isFinal, DeviceUse.of(loop.device).mayPass else { throw error }
                Pause.microseconds(AttachLimits.busyAttemptMicroseconds)
            }
        }
        return try releaseAtOnce(loop, isForced: isForced, parent: parent, isFinal: &isFinal)
    }

    private static func releaseAtOnce(
        _ loop: LoopOwner, isForced: Bool, parent: Int32, isFinal: inout Bool
    ) throws(AttachError) -> String? {
        // For itself alone: nobody mounts it meanwhile.
        guard let device = try open(loop.device, alone: !isForced) else { return nil }
        do {
            defer { close(device) }
            guard loop.isThat(of: device) else { return nil }
            let use = DeviceUse.of(loop.device)
            guard isForced ? use.mayPass : use.isNone else { throw use.refusal(of: loop.device) }
            if !isForced, fsync(device) != 0 {
                let error = errno
                throw AttachError(
                    .system,
                    "data for \(loop.device) could not be written to the server (\(AttachError.describe(error))); "
                        + "it is still attached. To give that data up: sluice detach --force \(loop.device)")
            }
            // Writing back may have taken long. Whoever asked for the release and gave up meanwhile finds
            // everything as it was.
            guard getppid() == parent else {
                isFinal = true
                throw AttachError(.busy, "whoever wanted \(loop.device) to be given up has gone")
            }
            let result = sluice_loop_clear(device)
            guard result >= 0 || result == -ENXIO else {
                throw .system(-result, "cannot give up \(loop.device)")
            }
        }
        if waitUntilFree(loop, milliseconds: isForced ? 1000 : AttachLimits.loopReleaseMilliseconds) {
            return nil
        }
        if isForced { return keepers(of: loop.device) }
        isFinal = true
        return try takeBack(loop)
    }

    /// Gives a device up whose file's server has ended, whatever uses it: it fails everything, and stays until they let
    /// it go. Returns who they are; nil when it is gone.
    static func abandon(_ loop: LoopOwner) throws(AttachError) -> String? {
        guard let device = try open(loop.device, alone: false) else { return nil }
        do {
            defer { close(device) }
            guard loop.isThat(of: device) else { return nil }
            let result = sluice_loop_clear(device)
            guard result >= 0 || result == -ENXIO else {
                throw .system(-result, "cannot give up \(loop.device)")
            }
        }
        return waitUntilFree(loop, milliseconds: 1000) ? nil : keepers(of: loop.device)
    }

    /// Nil when there is no such device.
    private static func open(_ path: String, alone: Bool) throws(AttachError) -> Int32? {
        let flags = O_CLOEXEC | (alone ? O_EXCL : 0)
        var device = unsafe Glibc.open(path, O_RDWR | flags)
        if device < 0, errno == EROFS || errno == EACCES {
            device = unsafe Glibc.open(path, O_RDONLY | flags)
        }
        guard device < 0 else { return device }
        switch errno {
        case EBUSY: throw DeviceUse.of(path).refusal(of: path)
        case ENOENT, ENXIO: return nil
        default: throw .system(errno, "cannot open \(path)")
        }
    }

    /// The kernel lets go of the file when the last opener has closed the device, which udev may be for a moment.
    private static func waitUntilFree(_ loop: LoopOwner, milliseconds: Int) -> Bool {
        for _ in 0..<(milliseconds / 10) {
            guard loop.isPresent else { return true }
            Pause.microseconds(10_000)
        }
        return !loop.isPresent
    }

    private static func keepers(of path: String) -> String {
        let use = DeviceUse.of(path)
        let who =
            use.mounts.map { "\($0) is unmounted" }
            + use.mountsElsewhere.map {
                "\($0.folder) is unmounted in the mount namespace of pid \($0.process)"
            }
            + use.openers.map { "\($0) closes it" }
        return "\(path) fails everything, and goes when "
            + (who.isEmpty ? "whoever has it open closes it" : who.joined(separator: " and "))
    }

    /// Takes the release back: somebody whom nothing shows has the device open, and it would vanish under its
    /// record when they close it.
    private static func takeBack(_ loop: LoopOwner) throws(AttachError) -> String? {
        if let device = try open(loop.device, alone: false) {
            defer { close(device) }
            if loop.isThat(of: device) { _ = sluice_loop_keep(device) }
        }
        guard loop.isPresent else { return nil }
        throw DeviceUse.of(loop.device).refusal(of: loop.device)
    }
}
