import Core
import DriverKit
import Wire

/// How a request uses its buffer.
///
/// Drivers take buffers at whole granules. So the payload of COMPARE_AND_WRITE, which is twice its bytes, is placed
/// such that its second half begins at one; what is read for the comparison follows at the next.
enum RequestRoom {
    /// The buffer that a request needs, in bytes; 0 for none.
    @inline(__always)
    static func bytes(_ rule: OpcodeRule, count: Int) -> Int {
        if rule.covers == .transfer { return count }
        switch rule.payload {
        case .coveredTwice: return 2 * granules(count) + count
        // A piece, and before that what is known about it.
        case .structure: return max(Limits.blockStatusBytesMax, min(count, Limits.copyPieceBytes))
        case .none, .covered, .body, .optionalBody: return Int(rule.replyBytesMax)
        }
    }

    /// Where the payload of a request goes, in bytes from the start of its buffer.
    static func payload(_ request: Slot) -> Range<Int> {
        let count = Int(request.count)
        guard request.opcode == Opcode.compareAndWrite.rawValue else { return 0..<count }
        let start = granules(count) - count
        return start..<start + 2 * count
    }

    /// COMPARE_AND_WRITE: where the bytes to be written begin.
    static func written(_ count: UInt32) -> UInt64 { UInt64(granules(Int(count))) }

    /// COMPARE_AND_WRITE: where the bytes that are there go.
    static func found(_ count: UInt32) -> UInt64 { UInt64(2 * granules(Int(count))) }

    private static func granules(_ count: Int) -> Int {
        (count + Limits.arenaGranule - 1) & ~(Limits.arenaGranule - 1)
    }
}

extension Slot {
    /// Bytes that count against a limit on bandwidth: those that the request moves, over the channel or from place
    /// to place.
    var limitedBytes: UInt32 {
        guard let rule = Opcode(rawValue: opcode)?.rule, rule.covers != .nothing else { return 0 }
        switch rule.payload {
        case .covered, .coveredTwice, .structure: return count
        case .none, .body, .optionalBody: return rule.covers == .transfer ? count : 0
        }
    }
}
