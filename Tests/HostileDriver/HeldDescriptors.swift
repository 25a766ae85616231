import Core
import DriverKit
import Reactor
import Synchronization

/// A store that keeps descriptors in the program's own memory, for work without a server.
final class HeldDescriptors: DescriptorStore {
    private final class Held: Sendable {
        let descriptor: FileDescriptor

        init(_ descriptor: consuming FileDescriptor) { self.descriptor = descriptor }
    }

    private let held = Mutex<[String: Held]>([:])

    var names: [String] { held.withLock { $0.keys.sorted() } }

    func descriptor(_ name: String) throws(StatusError) -> FileDescriptor? {
        guard let one = held.withLock({ $0[name] }) else { return nil }
        return try HeldDescriptors.duplicate(one.descriptor)
    }

    func keep(_ descriptor: borrowing FileDescriptor, as name: String) throws(StatusError) {
        let one = Held(try HeldDescriptors.duplicate(descriptor))
        held.withLock { $0[name] = one }
    }

    func forget(_ name: String) { _ = held.withLock { $0.removeValue(forKey: name) } }

    private static func duplicate(
        _ descriptor: borrowing FileDescriptor
    ) throws(StatusError) -> FileDescriptor {
        do throws(ReactorError) { return try descriptor.duplicate() } catch {
            throw StatusError(.busy, "\(error)")
        }
    }
}
