import Core
import DriverKit
import Testing

@Suite("VolumeGeometry: the one judgement of a request")
struct VolumeGeometryTests {
    private let geometry = VolumeGeometry(size: 1 << 20, blockSize: 4096, maximumTransfer: 65_536)

    @Test(
        "lengths and offsets",
        arguments: [
            (0, 4096, Status.ok), ((1 << 20) - 4096, 4096, .ok), (0, 65_536, .ok), (0, 0, .badLength),
            (1 << 20, 4096, .outOfRange), ((1 << 20) - 4096, 8192, .outOfRange),
            (UInt64.max, 1, .outOfRange), (UInt64.max - 4095, 4096, .outOfRange),
            (1, UInt64.max, .outOfRange),
            (512, 4096, .unaligned), (0, 512, .unaligned), (0, 69_632, .tooLarge),
        ] as [(UInt64, UInt64, Status)])
    func ranges(offset: UInt64, length: UInt64, expected: Status) {
        let read = DriverRequest(opcode: .read, index: 0, tag: 0, offset: offset, length: length)
        #expect(geometry.check(read, arenaBytes: 1 << 20) == expected)
    }

    @Test("only transfers are limited in length and need a buffer")
    func others() {
        for opcode in [DriverOpcode.discard, .writeZeroes] {
            let whole = DriverRequest(
                opcode: opcode, index: 0, tag: 0, offset: 0, length: 1 << 20, buffer: .max)
            #expect(geometry.check(whole, arenaBytes: 4096) == .ok)
        }
        #expect(geometry.check(DriverRequest(opcode: .flush, index: 0, tag: 0), arenaBytes: 4096) == .ok)
    }

    @Test("a buffer outside the arena is refused")
    func buffers() {
        for (buffer, expected) in [
            (0, Status.ok), (4096, .ok), (8192, .badRequest), (1, .badRequest), (.max, .badRequest),
        ]
            as [(UInt64, Status)]
        {
            let write = DriverRequest(
                opcode: .write, index: 0, tag: 0, offset: 0, length: 4096, buffer: buffer)
            #expect(geometry.check(write, arenaBytes: 8192) == expected)
        }
    }

    @Test("a block status covers any range and needs a whole buffer")
    func blockStatus() {
        for (buffer, expected) in [
            (0, Status.ok), (4096, .ok), (8192, .badRequest), (512, .badRequest), (.max, .badRequest),
        ]
            as [(UInt64, Status)]
        {
            let whole = DriverRequest(
                opcode: .blockStatus, index: 0, tag: 0, offset: 0, length: 1 << 20, buffer: buffer)
            #expect(geometry.check(whole, arenaBytes: 8192) == expected)
        }
    }

    @Test("every byte as an opcode is judged")
    func opcodes() {
        for raw in UInt8.min...UInt8.max {
            var request = DriverRequest(opcode: .flush, index: 0, tag: 0, offset: 0, length: 4096)
            request.rawOpcode = raw
            let isKnown = (1...6).contains(raw)
            #expect(geometry.check(request, arenaBytes: 8192) == (isKnown ? .ok : .unknownOpcode))
        }
    }
}
