import CFUSE
import Simulation
import Testing

@testable import Attach

/// What /dev/fuse or a ring's entry may hold: read within its bytes, whatever its lengths say of each other.
@Suite struct FuseRequestFuzzTests {
    private static let fuzzer = Fuzzer(
        "messages of the kernel",
        corpus: [
            message(
                FUSE_INIT, bytes(of: fuse_init_in(major: 7, minor: 45, flags: UInt32(SLUICE_FUSE_INIT_EXT)))),
            message(FUSE_INIT, [7, 0, 0, 0, 6, 0, 0, 0, 0, 0, 2, 0, 3, 0, 0, 0]),
            message(FUSE_READ, bytes(of: fuse_read_in())), message(FUSE_LOOKUP, Array("db\0".utf8)),
            message(FUSE_WRITE, bytes(of: fuse_write_in(size: 8)) + [UInt8](repeating: 7, count: 8)),
            message(FUSE_FALLOCATE, bytes(of: fuse_fallocate_in())),
            message(FUSE_OPEN, bytes(of: fuse_open_in())),
            message(FUSE_FORGET, [UInt8](repeating: 0, count: 8)),
            message(FUSE_GETATTR, [UInt8](repeating: 0, count: 16)),
        ],
        tokens: [
            bytes(of: UInt32.max), bytes(of: UInt64.max), bytes(of: FUSE_WRITE.rawValue),
            bytes(of: UInt32(40)), [0],
        ])

    @Test func aMessageIsReadWithinItsBytes() {
        var read = 0
        var malformed = 0
        Self.fuzzer.run(40_000) { input, place, random in
            let request = unsafe FuseRequest(message: input.span.bytes)
            #expect((request == nil) == (input.count < MemoryLayout<fuse_in_header>.size), "\(place)")
            guard let request else { return }
            #expect((0...input.count).contains(request.payloadPosition), "\(place)")
            switch request.call {
            case .malformed: malformed += 1
            case .write(_, let count):
                read += 1
                #expect(request.payloadPosition + Int(count) == input.count, "\(place)")
            case .initialise(let offer):
                read += 1
                let answer = FuseAnswer.initialise(offer, transferBytesMax: 1 << 20, usesRing: offer.hasRing)
                #expect(answer.minor <= offer.minor && answer.flags & ~offer.flags == 0, "\(place)")
            default: read += 1
            }
            // The same in a ring's entry, of which the kernel says how long the payload is.
            let operands = Array(
                input.dropFirst(40).prefix(128) + [UInt8](repeating: 0, count: max(0, 168 - input.count)))
            let payload = UInt32(
                truncatingIfNeeded: random.once(in: 2) ? 8 : random.next() >> UInt64(random.below(64)))
            let entry = unsafe FuseRequest(
                header: input.span.bytes, operands: operands.span.bytes, payloadBytes: payload,
                payloadBytesMax: 4096)
            if payload > 4096 { #expect(entry?.call == .malformed, "\(place)") }
            if case .write(_, let count) = entry?.call {
                #expect(count == payload && count <= 4096, "\(place)")
            }
        }
        #expect(read > 1000 && malformed > 1000)
    }

    private static func message(_ opcode: fuse_opcode, _ operands: [UInt8]) -> [UInt8] {
        var header = fuse_in_header()
        header.len = UInt32(MemoryLayout<fuse_in_header>.size + operands.count)
        header.opcode = opcode.rawValue
        header.unique = 7
        return bytes(of: header) + operands
    }

    private static func bytes(of value: some BitwiseCopyable) -> [UInt8] {
        unsafe withUnsafeBytes(of: value) { unsafe Array($0) }
    }
}

extension fuse_init_in {
    fileprivate init(major: UInt32, minor: UInt32, flags: UInt32) {
        self.init()
        (self.major, self.minor, self.flags) = (major, minor, flags)
    }
}

extension fuse_write_in {
    fileprivate init(size: UInt32) {
        self.init()
        self.size = size
    }
}
