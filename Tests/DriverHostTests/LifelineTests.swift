import Glibc
import Reactor
import TestSupport
import Testing

@Suite("I/O that outlives its process", .serialized, .blocking)
struct LifelineTests {
    @Test(
        "what a ring holds is let go when the killed host's last write has ended, not before",
        .enabled(if: FrozenDevice.isAllowed, "needs root, a loop device and fsfreeze(8)"))
    func lifeline() throws {
        let scene = try EscapeScene()
        let device = try FrozenDevice()
        let program = try RunningProgram([
            "hang", device.path, "folder=\(scene.pool)", "user=70001", "path=\(device.path)",
        ])
        #expect(program.readLine() == "waiting")
        program.process.signal(SIGKILL)
        // The process is gone, its write is not: a new host that wrote now would be overtaken by it.
        #expect(program.process.wait() == .signalled(SIGKILL))
        #expect(!program.hasEnded(within: 100))
        try device.thaw()
        #expect(program.readToEnd() == "")
    }
}

/// A block device whose writes do not end until it thaws: a loop device on a file of a frozen file system.
private final class FrozenDevice {
    private struct Failed: Error {}

    let path: String
    private let folder: String
    private var isFrozen = true

    static let isAllowed: Bool = {
        guard geteuid() == 0, let device = try? FrozenDevice() else { return false }
        return device.path != ""
    }()

    init() throws {
        let folder = "/tmp/sluice-frozen-\(getpid())-\(UInt64.random(in: 0 ... .max))"
        self.folder = folder
        let script = """
            set -e; cd "$(mkdir -p \(folder)/mounted; echo \(folder))"; truncate -s 64M lower
            losetup --find --show lower >lower-device; mkfs.ext4 -q "$(cat lower-device)"
            mount "$(cat lower-device)" mounted; truncate -s 8M mounted/upper
            losetup --find --show mounted/upper >upper-device; fsfreeze --freeze mounted; cat upper-device
            """
        do { path = try FrozenDevice.shell(script) } catch {
            FrozenDevice.remove(folder)
            throw error
        }
    }

    deinit {
        try? thaw()
        FrozenDevice.remove(folder)
    }

    func thaw() throws {
        guard isFrozen else { return }
        isFrozen = false
        _ = try FrozenDevice.shell("fsfreeze --unfreeze \(folder)/mounted")
    }

    /// Undoes as much as was made.
    private static func remove(_ folder: String) {
        let script = """
            cd \(folder) || exit; for device in upper lower; do
            if [ -s $device-device ]; then losetup -d "$(cat $device-device)"; fi
            if [ $device = upper ]; then umount -l mounted; fi; done
            cd /; rm -rf \(folder)
            """
        _ = try? shell(script)
    }

    private static func shell(_ script: String) throws -> String {
        let running = try RunningProgram(executable: "/bin/sh", ["-c", script])
        let output = running.readToEnd()
        guard running.process.wait() == .exited(0) else { throw Failed() }
        return output
    }
}
