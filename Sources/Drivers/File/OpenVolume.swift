import Core
import DriverKit
import Reactor
import Synchronization

/// A volume's open file, shared by the reactors that serve it. Closed when the last of them has let go.
final class OpenVolume: Sendable {
    let id: Identifier
    let descriptor: FileDescriptor
    let blockSize: UInt32
    let isDirect: Bool
    private let sizeNow: Atomic<UInt64>
    /// What the first failed flush said; the kernel reports a lost write once, users must hear of it until an
    /// administrator has opened the volume anew.
    private let flushFailure = Atomic<UInt16>(Status.ok.rawValue)

    /// How many operations of the kernel, of all reactors, change where the file has its space.
    private let mapChanges = Atomic<Int>(0)

    init(
        id: Identifier, descriptor: consuming FileDescriptor, size: UInt64, blockSize: UInt32, isDirect: Bool
    ) {
        self.id = id
        self.descriptor = descriptor
        self.blockSize = blockSize
        self.isDirect = isDirect
        sizeNow = Atomic(size)
    }

    var geometry: VolumeGeometry {
        VolumeGeometry(
            size: sizeNow.load(ordering: .acquiring), blockSize: blockSize,
            maximumTransfer: Limits.driverTransferBytesMax)
    }

    func resized(to size: UInt64) { sizeNow.store(size, ordering: .releasing) }

    /// The status that every FLUSH has now.
    var flushStatus: Status { Status(rawValue: flushFailure.load(ordering: .acquiring)) ?? .ioError }

    /// Whether asking where the file has its space would wait for the kernel.
    var mapChangesNow: Bool { mapChanges.load(ordering: .acquiring) > 0 }

    func mapChangeBegan() { mapChanges.add(1, ordering: .acquiringAndReleasing) }

    func mapChangeEnded() { mapChanges.subtract(1, ordering: .acquiringAndReleasing) }

    func flushFailed(_ status: Status) {
        _ = flushFailure.compareExchange(
            expected: Status.ok.rawValue, desired: status.rawValue, ordering: .acquiringAndReleasing)
    }
}
