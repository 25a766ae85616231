import CFUSE
import Testing

@testable import Attach

/// Messages of the kernel, whole and broken. Nothing here opens /dev/fuse.
@Suite struct FuseRequestTests {
    /// A message as /dev/fuse gives it; `length` overrides what its header says.
    private static func message(
        _ opcode: fuse_opcode, operands: [UInt8] = [], length: Int? = nil, unique: UInt64 = 7
    ) -> [UInt8] {
        var header = fuse_in_header()
        header.len = UInt32(length ?? MemoryLayout<fuse_in_header>.size + operands.count)
        header.opcode = opcode.rawValue
        header.unique = unique
        header.nodeid = 2
        return bytes(of: header) + operands
    }

    private static func bytes(of value: some BitwiseCopyable) -> [UInt8] {
        unsafe withUnsafeBytes(of: value) { unsafe Array($0) }
    }

    private static func parse(_ message: [UInt8]) -> FuseRequest? {
        unsafe FuseRequest(message: message.span.bytes)
    }

    private static func readOperand(offset: UInt64, size: UInt32) -> [UInt8] {
        var operand = fuse_read_in()
        operand.offset = offset
        operand.size = size
        return bytes(of: operand)
    }

    private static func writeOperand(offset: UInt64, size: UInt32) -> [UInt8] {
        var operand = fuse_write_in()
        operand.offset = offset
        operand.size = size
        return bytes(of: operand)
    }

    @Test("a read, a write and an allocation are what the kernel sent")
    func operations() throws {
        let read = try #require(
            Self.parse(Self.message(FUSE_READ, operands: Self.readOperand(offset: 9, size: 4))))
        #expect(read.call == .read(offset: 9, count: 4) && read.unique == 7 && read.inode == 2)
        let write = try #require(
            Self.parse(
                Self.message(FUSE_WRITE, operands: Self.writeOperand(offset: 512, size: 3) + [1, 2, 3])))
        #expect(write.call == .write(offset: 512, count: 3))
        #expect(write.payloadPosition == 80)
        var operand = fuse_fallocate_in()
        operand.mode = 3
        operand.offset = 4096
        operand.length = .max
        let allocation = Self.parse(Self.message(FUSE_FALLOCATE, operands: Self.bytes(of: operand)))
        #expect(allocation?.call == .allocate(mode: 3, offset: 4096, length: .max))
    }

    @Test("every other operation has its place, known or not")
    func others() {
        let name = Array("db\0".utf8)
        #expect(Self.parse(Self.message(FUSE_LOOKUP, operands: name))?.call == .lookup)
        #expect(Self.parse(Self.message(FUSE_LOOKUP, operands: name))?.payloadPosition == 40)
        #expect(Self.parse(Self.message(FUSE_GETATTR))?.call == .attributes)
        #expect(Self.parse(Self.message(FUSE_STATFS))?.call == .statistics)
        #expect(Self.parse(Self.message(FUSE_FSYNC))?.call == .flush)
        #expect(Self.parse(Self.message(FUSE_RELEASE))?.call == .release)
        for opcode in [FUSE_FLUSH, FUSE_DESTROY] {
            #expect(Self.parse(Self.message(opcode))?.call == .nothing)
        }
        for opcode in [FUSE_FORGET, FUSE_BATCH_FORGET, FUSE_INTERRUPT] {
            #expect(Self.parse(Self.message(opcode))?.call == .unanswered)
        }
        for number in [0, 2, 12, 37, 4711, UInt32.max] where number != FUSE_FORGET.rawValue {
            #expect(Self.parse(Self.message(fuse_opcode(rawValue: number)))?.call == .unknown)
        }
    }

    @Test("a message that is cut short anywhere is malformed, or none at all without a whole header")
    func truncation() {
        let whole = [
            Self.message(FUSE_READ, operands: Self.readOperand(offset: 0, size: 4096)),
            Self.message(
                FUSE_WRITE, operands: Self.writeOperand(offset: 0, size: 64) + Array(repeating: 1, count: 64)),
            Self.message(FUSE_OPEN, operands: Self.bytes(of: fuse_open_in())),
            Self.message(FUSE_FALLOCATE, operands: Self.bytes(of: fuse_fallocate_in())),
        ]
        for message in whole {
            for count in 0..<message.count {
                // As it came, and with a header that owns up to it.
                let cut = Array(message[..<count])
                #expect(Self.parse(cut)?.call == (count < 40 ? nil : .malformed))
                guard count >= 40 else { continue }
                let honest = Self.bytes(of: UInt32(count)) + cut[4...]
                #expect(Self.parse(honest)?.call == .malformed)
            }
        }
    }

    @Test("lengths that contradict each other are malformed")
    func contradictions() {
        let operand = Self.writeOperand(offset: 0, size: 4)
        for payload in [0, 3, 5, 4096] {
            let message = Self.message(FUSE_WRITE, operands: operand + Array(repeating: 0, count: payload))
            #expect(Self.parse(message)?.call == .malformed)
        }
        for length in [0, 39, 83, 85, Int(UInt32.max)] {
            let message = Self.message(FUSE_WRITE, operands: operand + [1, 2, 3, 4], length: length)
            #expect(Self.parse(message)?.call == .malformed)
        }
    }

    @Test("an entry of a ring is read like a message, and its payload is never more than it holds")
    func entries() {
        func parse(_ opcode: fuse_opcode, _ operands: [UInt8], payload: UInt32, most: Int = 4096) -> FuseCall?
        {
            let header = Self.message(opcode, length: 123)
            let operands = operands + Array(repeating: 0, count: 128 - operands.count)
            return unsafe FuseRequest(
                header: header.span.bytes, operands: operands.span.bytes, payloadBytes: payload,
                payloadBytesMax: most)?.call
        }
        let write = Self.writeOperand(offset: 8, size: 4096)
        #expect(parse(FUSE_WRITE, write, payload: 4096) == .write(offset: 8, count: 4096))
        #expect(parse(FUSE_WRITE, write, payload: 4095) == .malformed)
        #expect(parse(FUSE_WRITE, write, payload: 4096, most: 4095) == .malformed)
        #expect(parse(FUSE_WRITE, Self.writeOperand(offset: 0, size: .max), payload: .max) == .malformed)
        #expect(
            parse(FUSE_READ, Self.readOperand(offset: 1, size: .max), payload: 0)
                == .read(offset: 1, count: .max))
        #expect(parse(FUSE_READ, Self.readOperand(offset: 1, size: 1), payload: 4097) == .malformed)
        #expect(parse(FUSE_LOOKUP, [], payload: 3) == .lookup)
    }

    @Test("whatever bytes come, reading them ends in a request or in none")
    func noise() {
        var generator = SystemRandomNumberGenerator()
        for _ in 0..<20_000 {
            let count = Int.random(in: 0...200, using: &generator)
            var bytes = (0..<count).map { _ in UInt8.random(in: 0...255, using: &generator) }
            if count >= 8, Bool.random(using: &generator) {
                // The length is right and the operation exists.
                bytes.replaceSubrange(0..<4, with: Self.bytes(of: UInt32(count)))
                bytes.replaceSubrange(
                    4..<8, with: Self.bytes(of: UInt32.random(in: 0...52, using: &generator)))
            }
            guard let request = Self.parse(bytes) else {
                #expect(count < 40)
                continue
            }
            #expect(request.payloadPosition <= count)
            if case .write(_, let size) = request.call {
                #expect(Int(size) == count - request.payloadPosition)
            }
        }
    }

    @Test("the first message is answered with what both can do")
    func initialisation() throws {
        var offer = fuse_init_in()
        offer.major = 7
        offer.minor = 45
        offer.flags = .max
        offer.flags2 = .max
        let request = try #require(Self.parse(Self.message(FUSE_INIT, operands: Self.bytes(of: offer))))
        guard case .initialise(let read) = request.call else { throw AttachError(.system, "\(request.call)") }
        #expect(read.hasRing && read.minor == 45)
        let answer = FuseAnswer.initialise(read, transferBytesMax: 1 << 20, usesRing: true)
        #expect(answer.minor == 38 && answer.max_pages == 256 && answer.max_write == 1 << 20)
        #expect(answer.flags2 == UInt32(SLUICE_FUSE_OVER_IO_URING))
        #expect(answer.flags & UInt32(FUSE_WRITEBACK_CACHE) == 0)
        // A kernel of before the second word of flags sends none, whatever stands there.
        offer.flags = UInt32(FUSE_ASYNC_DIO)
        let older = Self.parse(Self.message(FUSE_INIT, operands: Array(Self.bytes(of: offer)[..<16])))
        guard case .initialise(let read) = older?.call else { throw AttachError(.system, "no offer") }
        #expect(!read.hasRing)
        #expect(
            FuseAnswer.initialise(read, transferBytesMax: 4096, usesRing: false).flags
                == UInt32(FUSE_ASYNC_DIO))
        // One that says it sends it and does not.
        offer.flags = .max
        let broken = Self.parse(Self.message(FUSE_INIT, operands: Array(Self.bytes(of: offer)[..<16])))
        #expect(broken?.call == .malformed)
        #expect(Self.parse(Self.message(FUSE_INIT, operands: [7, 0, 0, 0]))?.call == .malformed)
    }

    @Test("the kernel's list of processors is counted as it is written")
    func processors() {
        #expect(Processors.count("0\n") == 1)
        #expect(Processors.count("0-3\n") == 4)
        #expect(Processors.count("0-3,8,10-11\n") == 7)
        #expect(Processors.count("") == 0)
        #expect(Processors.count("3-1,x,1-2-3,-\n") == 0)
        #expect(Processors.possible > 0)
    }

    @Test("a ring has entries for every queue, and there is none for more processors than it has memory for")
    func memory() {
        for (queues, entries) in [(1, 64), (2, 128), (4, 256), (8, 256), (16, 256), (32, 512)] {
            let ring = FuseRing(payloadBytes: 4096, queues: queues)
            #expect(ring?.entryCount == entries && entries <= AttachLimits.ringEntriesMax)
        }
        #expect(FuseRing(payloadBytes: 4096, queues: 33) == nil)
        #expect(FuseRing(payloadBytes: 4096, queues: 0) == nil)
        #expect(FuseRing(payloadBytes: 0, queues: 1) == nil)
        #expect(FuseRing(payloadBytes: Int.max, queues: 1) == nil)
    }
}
