import Core
import DriverKit

/// A request on its way through the `fault` driver.
struct FaultOperation {
    enum Phase: UInt8 {
        case free
        /// Waits for a timer.
        case delayed
        /// Waits for other rules.
        case hung
        /// What it will replace is being read.
        case image
        /// The wrapped driver has it.
        case inner
        /// What the power cut took away is being put back.
        case cut
    }

    var phase = Phase.free
    var nextFree: Int32
    /// As it was asked; `length` may be less for the wrapped driver.
    var request = DriverRequest(opcode: .flush, index: 0, tag: 0)
    /// How much of it reaches the wrapped driver, in bytes.
    var length: UInt64 = 0
    /// What the answer to a block status covers, and how many bytes of extents it has.
    var map: (covered: UInt64, bytes: UInt32) = (0, 0)
    var volume = Identifier.zero
    var openedAtCut: UInt64 = 0
    /// What happens to it when it has been done.
    var fault: Fault?
    var draw: UInt64 = 0
    /// Its number in `UnflushedWrites`; 0: none.
    var ticket: UInt64 = 0
    /// What the flush will have made safe.
    var flushMark: UInt64 = 0
    /// Its number in the log; 0: none.
    var logged: UInt64 = 0
    /// How many pieces are still to be put back.
    var restores = 0

    init(nextFree: Int32) { self.nextFree = nextFree }

    /// The request for the wrapped driver.
    func forwarded(tag: UInt64) -> DriverRequest {
        var forwarded = request
        forwarded.tag = tag
        forwarded.length = length
        return forwarded
    }

    /// Which bit of the buffer is flipped: byte and mask.
    var flippedBit: (byte: UInt64, mask: UInt8) {
        let bit = draw % (request.length * 8)
        return (bit / 8, 1 << UInt8(bit % 8))
    }

    var changesData: Bool {
        switch request.opcode {
        case .write, .writeZeroes, .discard: true
        case .read, .flush, .blockStatus, nil: false
        }
    }
}
