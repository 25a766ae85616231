import Core
import DriverKit

extension ServiceAction<VolumePreparation> {
    /// Makes the volume on its device and publishes it; repeating it is harmless. Where that takes longer than a moment it
    /// answers `preparing`, and `prepareVolume` goes on.
    public static func createVolume(_ descriptor: VolumeDescriptor) -> Self {
        Self { services throws(StatusError) in try await services.create(descriptor) }
    }

    /// Does another second's work on a volume that is published: it is being made, or it is to have more bytes. With
    /// nothing left, `resizeVolume` is quick.
    public static func prepareVolume(_ id: Identifier, to size: UInt64) -> Self {
        Self { services throws(StatusError) in try await services.prepare(id, to: size) }
    }
}

extension ServiceAction<VolumeGeometry> {
    /// Grows a volume, however long that takes.
    public static func resizeVolume(_ id: Identifier, _ size: UInt64) -> Self {
        Self { services throws(StatusError) in try await services.resize(id, to: size) }
    }
}

extension ServiceAction<[FencedSession]> {
    /// Cuts off everybody who has a volume open, by its new epoch; the reason is told to them. Answers who that was, in
    /// order of the sessions' ids.
    public static func fenceVolume(_ descriptor: VolumeDescriptor, reason: String) -> Self {
        Self { services throws(StatusError) in try await services.fence(descriptor, reason: reason) }
    }
}

extension ServiceAction<[WriterInfo]> {
    /// Who may write to a volume now, the oldest first.
    public static func volumeWriters(_ id: Identifier) -> Self {
        Self { services in services.state.withLock { $0.directory.writers(of: id) } }
    }
}

extension ServiceAction<Void> {
    /// Makes a volume that exists on its device known to the data path, with its markers of before the server's start;
    /// they are not complete where the volume's contents are not those of before.
    public static func publishVolume(
        _ descriptor: VolumeDescriptor, markers: [Identifier] = [], contentsLost: Bool = false
    ) -> Self {
        Self { services throws(StatusError) in
            try await services.restoreMarkers(markers, of: descriptor, contentsLost: contentsLost)
            try services.publish(descriptor)
        }
    }

    /// Changes name, access mode, limits or epoch; pool and size stay.
    public static func updateVolume(_ descriptor: VolumeDescriptor) -> Self {
        Self { services throws(StatusError) in try await services.update(descriptor) }
    }

    /// Ends all use of a volume and removes it from its device, also one that is not published; repeating it is harmless.
    /// Refused while its pool does not run.
    public static func deleteVolume(_ id: Identifier, pool: String) -> Self {
        Self { services throws(StatusError) in try await services.delete(id, from: pool) }
    }

    /// Ends all use of a volume and forgets it; what its device holds stays there. Repeating it is harmless.
    public static func forgetVolume(_ id: Identifier) -> Self {
        Self { services throws(StatusError) in try await services.forget(id) }
    }
}

// MARK: Markers

extension ServiceAction<MarkerInfo> {
    /// Sets a marker: from now on it is noted what of the volume is changed. What was acknowledged before is durable when
    /// this returns.
    public static func createMarker(_ id: Identifier, volume: Identifier) -> Self {
        Self { services throws(StatusError) in try await services.createMarker(id, of: volume) }
    }
}

extension ServiceAction<[MarkerInfo]> {
    /// A volume's markers, the oldest first.
    public static func volumeMarkers(_ volume: Identifier) -> Self {
        Self { services throws(StatusError) in try services.markerInfos(of: volume) }
    }
}

extension ServiceAction<Void> {
    /// Removes a marker; repeating it is harmless.
    public static func deleteMarker(_ id: Identifier, volume: Identifier) -> Self {
        Self { services throws(StatusError) in try await services.deleteMarker(id, of: volume) }
    }

    /// Removes what is left of markers but those, by volume.
    public static func sweepMarkers(_ known: [Identifier: [Identifier]]) -> Self {
        Self { $0.sweepMarkers(keeping: known) }
    }
}
