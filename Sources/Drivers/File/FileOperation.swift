import Core
import Glibc

/// A request on its way through the kernel: what is to be done next, and what each result means.
struct FileOperation {
    enum Phase: UInt8 {
        case read
        case write
        case flush
        /// Gives space back, so that zeroes are read; where that cannot be done nothing is, and the answer says so.
        case discard
        /// Zeroes by giving space back.
        case punch
        /// Zeroes by the file system's own means.
        case zeroRange
        /// Zeroes by writing them.
        case writeZero
        /// Makes zeroes durable.
        case settle
    }

    /// What to do after a result.
    enum Step: Equatable {
        case again
        case finished(Status)
        /// Making data durable failed: what was written before may be lost.
        case flushFailed(Status)
        case writeFailed(Status)
    }

    var tag: UInt64 = 0
    var offset: UInt64 = 0
    var length: UInt64 = 0
    var buffer: UInt64 = 0
    /// How much of `length` is done.
    var done: UInt64 = 0
    var slot: Int32 = 0
    var fd: Int32 = -1
    var nextFree: Int32
    var phase = Phase.read
    /// FUA.
    var isDurable = false
    /// Zeroes must not give space back.
    var keepsSpace = false

    init(nextFree: Int32) { self.nextFree = nextFree }

    /// Takes the kernel's result for the current phase: a count or -errno, neither EAGAIN nor EINTR.
    mutating func step(_ result: Int32) -> Step {
        switch phase {
        case .read, .write, .writeZero: return transferred(result)
        case .flush:
            return result < 0 ? .flushFailed(Status.fromDevice(errno: -result)) : .finished(.ok)
        case .settle:
            return result < 0 ? .flushFailed(Status.fromDevice(errno: -result)) : .finished(.ok)
        case .discard:
            if result < 0 { return .finished(Status.fromDevice(errno: -result)) }
            done += pieceBytes
            return done < length ? .again : .finished(.ok)
        case .punch, .zeroRange: return zeroed(result)
        }
    }

    /// How many bytes the current phase does at once. What takes space goes piece by piece, so that it ends before the
    /// margin of its file system is used up, and what gives it back, so that others of the file have their turn.
    var pieceBytes: UInt64 {
        let left = length - done
        return switch phase {
        case .writeZero: min(left, UInt64(Limits.fileZeroPieceBytes))
        case .zeroRange: min(left, Limits.fileZeroRangeBytes)
        case .punch, .discard: min(left, Limits.filePunchBytes)
        case .read, .write, .flush, .settle: left
        }
    }

    /// Whether the kernel works at where the file has its space: nobody learns that from it meanwhile.
    var changesMap: Bool {
        switch phase {
        case .discard, .punch, .zeroRange: true
        case .read, .write, .flush, .writeZero, .settle: false
        }
    }

    private mutating func transferred(_ result: Int32) -> Step {
        if result < 0 {
            let status = Status.fromDevice(errno: -result)
            return phase == .read ? .finished(status) : .writeFailed(status)
        }
        // Nothing within the volume's size can be past the end of its file, unless someone cut it.
        if result == 0 { return phase == .read ? .finished(.mediumError) : .writeFailed(.ioError) }
        done += UInt64(result)
        if done < length { return .again }
        return phase == .writeZero ? zeroesWritten() : .finished(.ok)
    }

    private mutating func zeroed(_ result: Int32) -> Step {
        if result == -EOPNOTSUPP || result == -ENOSYS {
            phase = phase == .punch ? .zeroRange : .writeZero
            return .again
        }
        if result < 0 { return .writeFailed(Status.fromDevice(errno: -result)) }
        done += pieceBytes
        return done < length ? .again : zeroesWritten()
    }

    private mutating func zeroesWritten() -> Step {
        if !isDurable { return .finished(.ok) }
        phase = .settle
        return .again
    }
}
