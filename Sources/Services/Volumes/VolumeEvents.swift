/// What happens to volumes that an administrator may want to hear of.
extension ServerEvent.Kind {
    static let ofVolumes: [Self] = [
        .volumeFenced, .volumeCreated, .volumeDeleted, .volumeReady, .volumeFailed, .volumeGrown,
        .volumeNotGrown, .volumeForgotten, .volumeEmptied, .volumeErrors,
    ]

    /// Everybody who had a volume open was cut off.
    public static let volumeFenced = Self("volume.fenced")
    /// There is another volume, which may still have to be prepared.
    public static let volumeCreated = Self("volume.created")
    /// A volume was deleted, and what it held with it.
    public static let volumeDeleted = Self("volume.deleted")
    /// A volume that was being made can be used.
    public static let volumeReady = Self("volume.ready")
    /// A volume that was being made cannot be.
    public static let volumeFailed = Self("volume.failed")
    /// A volume is larger.
    public static let volumeGrown = Self("volume.grown")
    /// A volume was to be larger and cannot be; it is what it was.
    public static let volumeNotGrown = Self("volume.not-grown")
    /// A volume was deleted while its pool did not run: what it held stays on its device.
    public static let volumeForgotten = Self("volume.forgotten")
    /// What a volume held was lost with the server's last run.
    public static let volumeEmptied = Self("volume.emptied")
    /// A volume's device has failed requests.
    public static let volumeErrors = Self("volume.errors")
}
