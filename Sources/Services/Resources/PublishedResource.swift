import Core

/// A published resource, whatever its kind: how it is known, and who writes to it.
struct PublishedResource {
    let id: Identifier
    var name: String
    /// The pool that holds it.
    let pool: String
    /// The number that the driver knows it by, unique in its pool while the resource exists.
    let index: UInt32
    /// How many sessions may write.
    var accessMode: AccessMode
    /// Capabilities of another epoch do not count.
    var epoch: UInt64
    /// Why it is not the first any more, for those who come with an older capability.
    var epochReason: String?
    /// What all its users may use together.
    var limits: RateLimits
    /// What only its kind has.
    var form: ResourceForm
    /// Sessions that may write; kept in every access mode.
    var writers: [Identifier: Directory.Writer] = [:]
    /// Who writes, or did last.
    var writer = VolumeWriter.none
    /// Whether `writer` outlives the server by now.
    var isWriterSaved = true
    /// Set when it is being deleted: nobody may open it any more.
    var isGoing = false

    var kind: ResourceKind { form.kind }
}
