import Core
import DriverKit
import Reactor
import Synchronization

/// A store that keeps descriptors as the server does: duplicates, whoever gave them may end.
final class HeldDescriptors: DescriptorStore {
    private final class Held: Sendable {
        let descriptor: FileDescriptor

        init(_ descriptor: consuming FileDescriptor) { self.descriptor = descriptor }
    }

    private let held = Mutex<[String: Held]>([:])

    var names: [String] { held.withLock { $0.keys.sorted() } }

    func descriptor(_ name: String) throws(StatusError) -> FileDescriptor? {
        guard let one = held.withLock({ $0[name] }) else { return nil }
        return try Self.duplicate(one.descriptor)
    }

    struct Missing: Error { let name: String }

    func require(_ name: String) throws -> FileDescriptor {
        guard let found = try descriptor(name) else { throw Missing(name: name) }
        return found
    }

    func keep(_ descriptor: borrowing FileDescriptor, as name: String) throws(StatusError) {
        let one = Held(try Self.duplicate(descriptor))
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
