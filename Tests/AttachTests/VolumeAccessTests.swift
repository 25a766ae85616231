import Core
import SluiceClient
import Testing

@testable import Attach

@Suite struct VolumeAccessTests {
    @Test("the data channel is looked for on the host that the control API was reached by")
    func order() {
        let listed = ["10.0.0.1:7481", "192.0.2.7:7481"]
        func order(_ channels: [String], _ host: String) -> [String] {
            VolumeAccess.order(channels, host: host).map(\.authority)
        }
        #expect(order(listed, "192.0.2.7") == ["192.0.2.7:7481", "10.0.0.1:7481"])
        #expect(order(listed, "storage.example") == listed)
        #expect(order(["0.0.0.0:7481"], "storage.example") == ["storage.example:7481"])
        #expect(order(["[::]:7481"], "2001:db8::1") == ["[2001:db8::1]:7481"])
        #expect(order([], "h").isEmpty)
        #expect(order(["nonsense:port"], "h").isEmpty)
    }

    @Test("errors of the server become reasons that the exit code is made of")
    func reasons() {
        func reason(_ kind: ErrorKind, _ status: Int?, _ code: String = "X") -> AttachError.Reason {
            AttachError(ClientError(kind: kind, code: code, status: status, detail: "d")).reason
        }
        #expect(reason(.denied, 403) == .denied)
        #expect(reason(.busy, 503) == .busy)
        #expect(reason(.caller, 404) == .notFound)
        #expect(reason(.device, nil, "UNREACHABLE") == .unreachable)
        #expect(reason(.busy, nil, "TIMED_OUT") == .unreachable)
        #expect(reason(.caller, 422) == .usage)
        #expect(reason(.caller, nil, "NO_CREDENTIALS") == .notFound)
        #expect(AttachError(.refused(.open, .writerConflict, message: "m"), volume: "v").reason == .busy)
        #expect(AttachError(.refused(.open, .revoked, message: "m"), volume: "v").reason == .denied)
        #expect(AttachError(.lost("m"), volume: "v").reason == .unreachable)
        let refused = ClientError(kind: .denied, code: "NO_GRANT", status: 403, detail: "d")
        #expect(AttachError(refused).code == "NO_GRANT")
        #expect(
            AttachError(.refused(.open, .writerConflict, message: "m"), volume: "v").code == "WRITER_CONFLICT"
        )
    }

    @Test("a block request ends with what a disk could say", arguments: Status.allCases)
    func errnos(status: Status) {
        // 0, EIO, EINVAL, ENOSPC, EROFS, EOPNOTSUPP: ENOSYS would turn the operation off in the kernel for good.
        #expect([0, 5, 22, 28, 30, 95].contains(status.blockErrno))
        #expect((status.blockErrno == 0) == (status == .ok))
    }
}
