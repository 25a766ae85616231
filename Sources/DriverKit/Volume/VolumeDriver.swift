import Core

/// The control side of a pool of volumes. Its methods may block and are never called on a reactor's thread; one
/// call at a time.
public protocol VolumeDriver: PoolDriver {
    /// Makes a volume that reads as zeroes; durable when it returns. Making it again with the same size
    /// changes nothing.
    func createVolume(_ id: Identifier, size: UInt64) throws(StatusError)

    /// Does a part of what a volume that was made still needs before it can be opened, or before it can grow to `size`,
    /// such as zeroing a device: as much as takes about a second. Called again and again, also after a loss or a
    /// restart, until nothing is left; other calls may come in between.
    ///
    /// - Returns: how many bytes are left; 0 when it is ready.
    func prepareVolume(_ id: Identifier, to size: UInt64) throws(StatusError) -> UInt64

    /// Grows a volume; durable when it returns. What is added reads as zeroes.
    func resizeVolume(_ id: Identifier, to size: UInt64) throws(StatusError)

    /// Deletes a volume; durable when it returns. Deleting what is not there changes nothing.
    func deleteVolume(_ id: Identifier) throws(StatusError)

    /// The volumes of the pool and their sizes in bytes.
    func volumes() throws(StatusError) -> [Identifier: UInt64]

    /// What the volumes take of the pool's space, in bytes.
    func usage() throws(StatusError) -> [Identifier: UInt64]

    /// Opens a volume for requests that name it by `index`, below `Limits.openVolumesPerPoolMax`. Opening it
    /// anew under its index forgets a failed flush.
    func openVolume(_ id: Identifier, index: UInt32) throws(StatusError) -> VolumeGeometry

    /// Ends the use of an index. Requests that are running complete.
    func closeVolume(_ index: UInt32)
}

extension VolumeDriver {
    /// Volumes.
    public static var kind: ResourceKind { .volume }

    /// Volumes.
    public var kind: ResourceKind { .volume }

    /// Nothing is left to do.
    public func prepareVolume(_ id: Identifier, to size: UInt64) throws(StatusError) -> UInt64 { 0 }

    /// Not known.
    public func usage() throws(StatusError) -> [Identifier: UInt64] { [:] }
}
