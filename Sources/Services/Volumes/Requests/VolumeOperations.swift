import Core

/// A COPY_RANGE.
struct CopyOperation {
    enum Step: UInt8 {
        /// The driver says what is known about the source.
        case map
        /// It reads a piece of the source.
        case read
        /// It writes the piece to its place.
        case write
        /// It makes zeroes instead of a piece.
        case zeroes
    }

    /// The handle that is read, and where.
    let source: UInt32
    let sourceOffset: UInt64
    var step = Step.map
    /// How much is done, how much of the extent in hand is left, and what the driver has, in bytes.
    var copied: UInt32 = 0
    var extentLeft: UInt32 = 0
    var piece: UInt32 = 0

    init(source: UInt32, sourceOffset: UInt64) {
        self.source = source
        self.sourceOffset = sourceOffset
    }
}

/// A COMPARE_AND_WRITE.
struct CompareOperation {
    enum Step: UInt8 {
        /// It waits for its turn.
        case wait
        /// The driver reads what is there.
        case read
        /// It writes what is to be there.
        case write
    }

    /// Its number in `ServiceShard.compares`.
    let number: UInt64
    var step = Step.wait

    init(number: UInt64) {
        self.number = number
    }
}

extension ServiceChannel {
    /// The COPY_RANGE in a slot, once its source is known.
    subscript(copy slot: UInt16) -> CopyOperation? {
        get { if case .copy(let copy) = self[operation: slot] { copy } else { nil } }
        set { if let newValue { self[operation: slot] = .copy(newValue) } }
    }

    /// The COMPARE_AND_WRITE in a slot, once it has a number.
    subscript(compare slot: UInt16) -> CompareOperation? {
        get { if case .compare(let compare) = self[operation: slot] { compare } else { nil } }
        set { if let newValue { self[operation: slot] = .compare(newValue) } }
    }

    /// Whether the request in a slot uses the handle at `position`: a copy uses two.
    func uses(_ slot: UInt16, _ position: UInt8) -> Bool {
        slots[slot].handle == position
            || self[copy: slot].map { UInt8(truncatingIfNeeded: $0.source) == position } ?? false
    }
}
