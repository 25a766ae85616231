import Core
import DriverKit
import Testing

@Suite struct VolumeCallTests {
    private static let id = Identifier(high: 3, low: 4)

    @Test(arguments: [
        VolumeCall.create(id, size: 4096), .resize(id, size: 8192), .delete(id), .volumes, .usage,
        .prepare(id, size: 1 << 40), .open(id, index: 7), .close(index: 7),
    ])
    func aCallIsReadAsItWasWrittenAndNoPartOfItIsOne(call: VolumeCall) {
        let bytes = call.bytes
        #expect(VolumeCall(bytes: bytes) == call)
        for count in 0..<bytes.count { #expect(VolumeCall(bytes: Array(bytes.prefix(count))) == nil) }
        #expect(VolumeCall(bytes: bytes + [0]) == nil)
    }

    @Test func whatHasNoCallsNumberIsNone() {
        for number in UInt8.min...UInt8.max where !(1...8).contains(number) {
            #expect(VolumeCall(bytes: [number]) == nil)
        }
    }

    @Test func anAnswerOfAnotherFormDoesNotFit() {
        let forms: [(VolumeCall, Set<Int>)] = [
            (.create(Self.id, size: 1), [0]), (.delete(Self.id), [0]), (.close(index: 1), [0]),
            (.volumes, [0, 24, 48]), (.usage, [0, 24, 48]), (.prepare(Self.id, size: 1), [8]),
            (.open(Self.id, index: 1), [16]),
        ]
        for (call, fitting) in forms {
            let found = Set((0...50).filter { call.fits([UInt8](repeating: 1, count: $0)) })
            #expect(found == fitting, "\(call)")
        }
    }

    @Test func aListHasEachVolumeOnce() {
        let bytes = Self.id.bytes + [5, 0, 0, 0, 0, 0, 0, 0]
        #expect(VolumeCall.list(bytes + bytes) == [Self.id: 5])
        #expect(VolumeCall.list(bytes + [0]) == nil)
    }
}
