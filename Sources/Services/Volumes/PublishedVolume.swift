import Core
import DriverKit

/// What a published volume is, beside what every resource has.
struct PublishedVolume: Sendable {
    /// Bytes.
    var size: UInt64
    /// The size of its blocks, in bytes, whatever its pool lies on; nil: that of the pool.
    let blockSize: UInt32?
    /// Its shape, once the driver has opened it.
    var geometry: VolumeGeometry?
}

extension PublishedResource {
    /// A volume that nobody has opened.
    init(_ descriptor: VolumeDescriptor, index: UInt32) {
        self.init(
            id: descriptor.id, name: descriptor.name, pool: descriptor.pool, index: index,
            accessMode: descriptor.accessMode, epoch: descriptor.epoch, epochReason: descriptor.epochReason,
            limits: descriptor.limits,
            form: .volume(PublishedVolume(size: descriptor.size, blockSize: descriptor.blockSize)))
    }

    /// What it is as a volume; nil for another kind of resource.
    var volume: PublishedVolume? {
        get { if case .volume(let volume) = form { volume } else { nil } }
        set { if let newValue { form = .volume(newValue) } }
    }
}

extension Directory {
    /// Adds a volume, or says why not, as `publish` does for every kind.
    mutating func publish(_ descriptor: VolumeDescriptor) -> StatusError? {
        publish(descriptor.id, of: .volume, in: descriptor.pool) { PublishedResource(descriptor, index: $0) }
    }
}

extension OpenVolume {
    /// A volume for a channel that takes so many bytes of payload; nil when its driver has yet to open it.
    init?(_ volume: PublishedVolume, payloadBytesMax: UInt32) {
        guard let geometry = volume.geometry else { return nil }
        self.init(
            size: geometry.size, blockSize: geometry.blockSize,
            maximumTransfer: min(geometry.maximumTransfer, payloadBytesMax))
    }
}

extension Pool {
    /// Its driver as one of volumes.
    ///
    /// - Throws: `badRequest` when the pool is one of something else.
    func volumes() throws(StatusError) -> any VolumeDriver {
        guard driver.kind == .volume, let volumes = driver as? any VolumeDriver else {
            throw StatusError(
                .badRequest,
                "pool \(descriptor.name) takes no volumes: its driver is one of \(driver.kind.name)s")
        }
        return volumes
    }
}

extension IOServices {
    /// Has the driver open a volume, whose blocks are no smaller than those of what its pool lies on.
    func openVolume(
        _ known: PublishedResource, _ volume: PublishedVolume, in pool: Pool
    ) throws(StatusError) -> VolumeGeometry {
        let driver = try pool.volumes()
        var geometry = try driver.openVolume(known.id, index: known.index)
        guard let blockSize = volume.blockSize else { return geometry }
        guard geometry.blockSize <= blockSize else {
            driver.closeVolume(known.index)
            throw StatusError(
                .notSupported,
                "the volume has blocks of \(blockSize) bytes, and what its pool lies on takes none below"
                    + " \(geometry.blockSize)")
        }
        geometry.blockSize = blockSize
        return geometry
    }

    /// Has the driver open a volume unless it is open. On the pool's thread.
    func openGeometry(of id: Identifier, in pool: Pool) throws(StatusError) -> VolumeGeometry {
        guard case .volume(let volume) = try open(id, in: pool), let geometry = volume.geometry else {
            throw StatusError(.badRequest, "this is no volume")
        }
        return geometry
    }
}
