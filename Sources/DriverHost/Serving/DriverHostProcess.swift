import Core
import DriverKit
import Glibc
import Reactor

/// The program of a driver host: one pool's driver, in a sandbox, for the server at the other end of the
/// control socket.
public enum DriverHostProcess {
    /// Where the control socket is.
    static let controlDescriptor: Int32 = 3
    /// Where the write end of the lifeline is: it ends when the process and its rings are gone.
    static let lifelineDescriptor: Int32 = 4

    /// Runs until the server lets go of it; returns the exit code. The first and only thing in `main`.
    public static func run(drivers: [any InstalledDriver.Type]) -> Int32 {
        var status = stat()
        guard unsafe fstat(controlDescriptor, &status) == 0, status.st_mode & S_IFMT == S_IFSOCK,
            unsafe fstat(lifelineDescriptor, &status) == 0, status.st_mode & S_IFMT == S_IFIFO
        else {
            let text = "sluice-driver is a part of sluiced, which starts one for each pool\n"
            _ = unsafe write(2, text, text.utf8.count)
            return 64
        }
        let parent = getppid()
        do throws(SandboxError) {
            try Sandbox.closeInherited(keeping: [controlDescriptor, lifelineDescriptor])
        } catch { return 71 }
        let server = HostServer(
            control: ControlSocket(FileDescriptor(owning: controlDescriptor)),
            lifeline: FileDescriptor(owning: lifelineDescriptor), parent: parent, drivers: drivers)
        return server.run()
    }
}
