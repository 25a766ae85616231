import Core

/// A call in the words of a driver's kind, and what the keeper must know of it without knowing these words.
struct KindCall: Sendable {
    /// What comes of the call beside its answer.
    enum Effect: Sendable {
        case nothing
        /// Requests name something by the index from then on. Every later host is asked the same before it serves;
        /// `subject` is what it is, for people.
        case opens(UInt32, subject: String)
        /// There is something of that many bytes, or is to be: it explains memory that the driver has kept.
        case makes(Identifier, bytes: UInt64)
        /// It is gone, and explains nothing any more.
        case removes(Identifier)
    }

    /// What the driver is asked.
    let bytes: [UInt8]
    var effect = Effect.nothing
    /// Whether an answer has the form of one to this call. A host that answers otherwise is ended.
    let fits: @Sendable ([UInt8]) -> Bool
}

/// What a pool's driver has open under an index.
struct OpenedByCall: Sendable {
    /// The call that opened it.
    let call: KindCall
    /// What it is, for people.
    let subject: String
}
