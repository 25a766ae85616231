import Core
import DriverKit

/// What a driver of volumes is asked, in a host.
extension IsolatedDriver: VolumeDriver {
    /// Makes a volume; durable.
    public func createVolume(_ id: Identifier, size: UInt64) throws(StatusError) {
        _ = try ask(.create(id, size: size), .makes(id, bytes: min(size, Limits.volumeBytesMax)))
    }

    /// Grows a volume; durable.
    public func resizeVolume(_ id: Identifier, to size: UInt64) throws(StatusError) {
        _ = try ask(.resize(id, size: size), .makes(id, bytes: min(size, Limits.volumeBytesMax)))
    }

    /// Deletes a volume; durable.
    public func deleteVolume(_ id: Identifier) throws(StatusError) { _ = try ask(.delete(id), .removes(id)) }

    /// The volumes and their sizes.
    public func volumes() throws(StatusError) -> [Identifier: UInt64] { try list(.volumes) }

    /// What the volumes take, as the host says.
    public func usage() throws(StatusError) -> [Identifier: UInt64] { try list(.usage) }

    /// Does a part of what a volume still needs.
    public func prepareVolume(_ id: Identifier, to size: UInt64) throws(StatusError) -> UInt64 {
        guard let left = VolumeCall.left(try ask(.prepare(id, size: size))) else { throw unanswered }
        return min(left, size)
    }

    /// Opens a volume under an index; a failed flush is forgotten.
    public func openVolume(_ id: Identifier, index: UInt32) throws(StatusError) -> VolumeGeometry {
        guard index < Limits.openVolumesPerPoolMax else {
            throw StatusError(.busy, "too many open volumes in the pool")
        }
        let wasOpen = keeper.isOpen(index)
        let answer: [UInt8]
        do throws(StatusError) {
            answer = try ask(.open(id, index: index), .opens(index, subject: "the volume \(id)"))
        } catch {
            // A host may have opened it before it was lost.
            if !wasOpen { keeper.closed(index) }
            throw error
        }
        guard let shape = VolumeCall.shape(answer), shape.blockSize.nonzeroBitCount == 1,
            shape.blockSize <= Limits.volumeSizeGranule, shape.size > 0,
            shape.size <= Limits.volumeBytesMax, shape.maximumTransfer > 0
        else {
            closeVolume(index)
            throw StatusError(.driverFailed, "the driver host gives the volume an impossible shape")
        }
        return VolumeGeometry(
            size: shape.size, blockSize: shape.blockSize,
            maximumTransfer: min(shape.maximumTransfer, UInt32(clamping: Limits.arenaBytesMax)))
    }

    /// Ends the use of an index.
    public func closeVolume(_ index: UInt32) {
        keeper.closed(index)
        // A host that cannot be asked is lost, and the next one is not told of the volume.
        _ = try? ask(.close(index: index))
    }

    private func list(_ call: VolumeCall) throws(StatusError) -> [Identifier: UInt64] {
        guard let volumes = VolumeCall.list(try ask(call)) else { throw unanswered }
        return volumes
    }

    private func ask(
        _ call: VolumeCall, _ effect: KindCall.Effect = .nothing
    ) throws(StatusError) -> [UInt8] {
        try keeper.call(KindCall(bytes: call.bytes, effect: effect, fits: { call.fits($0) }))
    }

    private var unanswered: StatusError {
        StatusError(.driverFailed, "the driver host does not answer what it was asked about volumes")
    }
}
