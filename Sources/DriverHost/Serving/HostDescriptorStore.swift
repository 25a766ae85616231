import Core
import DriverKit
import Glibc
import Reactor
import Synchronization

/// The host's side of the server's keeping: what earlier hosts kept came at the start, and what this one
/// keeps goes over the control socket, where it is safe as soon as it was sent.
final class HostDescriptorStore: DescriptorStore {
    private final class Kept: Sendable {
        let descriptor: FileDescriptor
        init(_ descriptor: consuming FileDescriptor) { self.descriptor = descriptor }
    }

    private let control: ControlSocket
    private let received = Mutex<[String: Kept]>([:])

    init(control: ControlSocket) { self.control = control }

    /// Takes what the server sent.
    func received(_ descriptor: consuming FileDescriptor, _ name: String) {
        let kept = Kept(descriptor)
        received.withLock { $0[name] = kept }
    }

    /// Descriptors of what locks the pool, valid as long as they are kept.
    var locks: [Int32] {
        received.withLock { received in
            received.filter { DescriptorStoreName.isLock($0.key) }.map { $0.value.descriptor.raw }
        }
    }

    var names: [String] { received.withLock { $0.keys.sorted() } }

    func descriptor(_ name: String) throws(StatusError) -> FileDescriptor? {
        guard let kept = received.withLock({ $0[name] }) else { return nil }
        do throws(ReactorError) { return try kept.descriptor.duplicate() } catch {
            throw StatusError(.busy, "a kept descriptor cannot be used: \(error)")
        }
    }

    func keep(_ descriptor: borrowing FileDescriptor, as name: String) throws(StatusError) {
        precondition(name.utf8.count <= Limits.storedNameBytesMax, "a kept descriptor's name is too long")
        do throws(ControlSocket.Failure) {
            try control.send(HostMessage.keep(name: name).encoded(call: 0), descriptors: [descriptor.raw])
        } catch { throw StatusError(.driverFailed, "the server does not keep a descriptor: \(error)") }
        do throws(ReactorError) { received(try descriptor.duplicate(), name) } catch {
            throw StatusError(.busy, "a descriptor cannot be kept: \(error)")
        }
    }

    func forget(_ name: String) {
        let known = received.withLock { $0.removeValue(forKey: name) }
        guard known != nil else { return }
        do throws(ControlSocket.Failure) {
            try control.send(HostMessage.forget(name: name).encoded(call: 0))
        } catch {
            // A server that is gone has forgotten everything. One that takes nothing would keep what is to go: this process
            // ends, and the server makes the call again that asked for it.
            if error != .closed { exit(70) }
        }
    }
}
