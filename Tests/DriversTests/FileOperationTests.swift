import Core
import Glibc
import Testing

@testable import Drivers

@Suite("FileOperation: what the kernel's results lead to")
struct FileOperationTests {
    private func operation(_ phase: FileOperation.Phase, durable: Bool = false) -> FileOperation {
        var operation = FileOperation(nextFree: -1)
        operation.phase = phase
        operation.length = 8192
        operation.isDurable = durable
        return operation
    }

    @Test(
        "short transfers go on where they stopped", arguments: [FileOperation.Phase.read, .write, .writeZero])
    func short(phase: FileOperation.Phase) {
        var operation = operation(phase)
        #expect(operation.step(512) == .again)
        #expect(operation.done == 512)
        #expect(operation.step(7680) == .finished(.ok))
    }

    @Test("nothing transferred is a failure, not a loop")
    func nothing() {
        var read = operation(.read)
        #expect(read.step(0) == .finished(.mediumError))
        var write = operation(.write)
        #expect(write.step(0) == .writeFailed(.ioError))
    }

    @Test("errors keep their meaning")
    func errors() {
        var read = operation(.read)
        #expect(read.step(-EIO) == .finished(.ioError))
        var write = operation(.write)
        #expect(write.step(-ENOSPC) == .writeFailed(.noSpace))
        var flush = operation(.flush)
        #expect(flush.step(-EIO) == .flushFailed(.ioError))
        var discard = operation(.discard)
        #expect(discard.step(-EIO) == .finished(.ioError))
    }

    @Test("zeroes fall back from one way to the next, to writing them")
    func fallBack() {
        var operation = operation(.punch)
        #expect(operation.step(-EOPNOTSUPP) == .again)
        #expect(operation.phase == .zeroRange)
        #expect(operation.step(-EOPNOTSUPP) == .again)
        #expect(operation.phase == .writeZero)
        #expect(operation.step(4096) == .again)
        #expect(operation.step(4096) == .finished(.ok))
    }

    @Test("space is given back piece by piece, and an error ends that")
    func givenBack() {
        for phase in [FileOperation.Phase.punch, .discard] {
            var operation = operation(phase)
            operation.length = 130 << 20
            #expect(operation.pieceBytes == 64 << 20 && operation.changesMap)
            #expect(operation.step(0) == .again && operation.step(0) == .again)
            #expect(operation.done == 128 << 20 && operation.pieceBytes == 2 << 20)
            var failing = operation
            #expect(operation.step(0) == .finished(.ok))
            #expect(failing.step(-EIO) == (phase == .punch ? .writeFailed(.ioError) : .finished(.ioError)))
        }
    }

    @Test("zeroes that keep their space are made piece by piece, whichever way they are made")
    func pieces() {
        var operation = operation(.zeroRange)
        operation.length = 10 << 20
        #expect(operation.pieceBytes == 4 << 20)
        #expect(operation.step(0) == .again && operation.step(0) == .again)
        #expect(operation.done == 8 << 20 && operation.pieceBytes == 2 << 20)
        #expect(operation.step(-EOPNOTSUPP) == .again)
        #expect(operation.phase == .writeZero && operation.pieceBytes == 1 << 20)
        #expect(operation.step(1 << 20) == .again)
        #expect(operation.step(1 << 20) == .finished(.ok))
    }

    @Test("durable zeroes are synced, and what the sync says counts")
    func durableZeroes() {
        var operation = operation(.zeroRange, durable: true)
        #expect(operation.step(0) == .again)
        #expect(operation.phase == .settle)
        #expect(operation.step(-EIO) == .flushFailed(.ioError))
    }

    @Test(
        "a device that cannot discard says so, since what is discarded reads as zero",
        arguments: [EOPNOTSUPP, ENOSYS])
    func noDiscard(errno: Int32) {
        var operation = operation(.discard)
        #expect(operation.step(-errno) == .finished(.notSupported))
    }
}
