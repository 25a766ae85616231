import Testing

@testable import Attach

@Suite struct UnflushedWritesTests {
    @Test(
        "a flush that fails loses what was written, zeroed or given back since the last one that did not",
        arguments: [BlockOperation.write, .writeZeroes, .discard])
    func loss(_ operation: BlockOperation) {
        var writes = UnflushedWrites()
        #expect(!writes.isLoss(.flush))
        writes.succeeded(operation, writesBefore: 0)
        #expect(writes.isLoss(.flush) && writes.hasSome)
        // A flush that began before is none of it.
        writes.succeeded(.flush, writesBefore: 0)
        #expect(writes.isLoss(.flush))
        writes.succeeded(.flush, writesBefore: writes.done)
        #expect(!writes.isLoss(.flush) && !writes.hasSome)
        writes.succeeded(.read, writesBefore: 1)
        #expect(!writes.isLoss(.flush))
        #expect(writes.isLoss(.write) && !writes.isLoss(.read))
    }

    @Test("after a take-over a flush that fails is a loss where the other process left something")
    func takeOver() {
        #expect(UnflushedWrites(hasSome: true).isLoss(.flush))
        #expect(!UnflushedWrites(hasSome: false).isLoss(.flush))
    }

    @Test("while two processes serve a device any flush that fails is a loss", arguments: [true, false])
    func overlap(_ hasSome: Bool) {
        var new = UnflushedWrites(hasSome: false, isShared: true)
        new.succeeded(.flush, writesBefore: new.done)
        #expect(new.isLoss(.flush), "the other one may have written since")
        new.endShare(hasSome: hasSome)
        #expect(new.isLoss(.flush) == hasSome)
        new.succeeded(.flush, writesBefore: new.done)
        #expect(!new.isLoss(.flush))

        var old = UnflushedWrites()
        old.share()
        #expect(old.isLoss(.flush) && !old.hasSome)
        // The successor did not come, and may have written.
        old.endShare(hasSome: true)
        #expect(old.isLoss(.flush))
    }
}
