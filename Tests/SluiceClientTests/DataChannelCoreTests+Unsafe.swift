import Core
import Reactor
import Testing
import Wire

@testable import SluiceClient

/// The core as a value: what it keeps when a connection is lost, and what it makes of the next one.
@Suite struct DataChannelCoreTests {
    private let memory = TestMemory(4096)

    private func reply(
        slots: UInt16 = 5, features: Features = .resume, resumption: Resumption = .fresh,
        channel: UInt16 = 3, session: UInt64 = 1, payload: UInt32 = 1 << 16
    ) -> HelloReply {
        HelloReply(
            slots: slots, payloadBytesMax: payload, features: features,
            session: Identifier(high: 0, low: session), channel: channel, resumption: resumption,
            cluster: Identifier(high: 3, low: 4), serverName: "s")
    }

    private func feed(_ core: ChannelCore, _ bytes: [UInt8]) throws(ChannelError) {
        var rest = bytes[...]
        while !rest.isEmpty {
            let isDirect = core.isRoomDirect
            let room = unsafe core.room
            let count = min(room.count, rest.count)
            unsafe room.copyBytes(from: rest.prefix(count))
            rest = rest.dropFirst(count)
            try core.received(count, isDirect: isDirect)
        }
    }

    private func greet(_ core: ChannelCore, _ reply: HelloReply) throws(ChannelError) {
        let header = ReplyHeader(length: UInt32(reply.bytes.count), opcode: Opcode.hello.rawValue)
        try feed(core, header.bytes + reply.bytes)
        core.notices = []
    }

    private func answer(
        _ core: ChannelCore, _ request: RequestHeader, _ status: Status = .ok, payload: [UInt8] = [],
        value: UInt64? = nil
    ) throws(ChannelError) {
        let value = value ?? (status == .ok ? UInt64(request.count) : 0)
        try feed(
            core,
            ReplyHeader(to: request, status: status, length: UInt32(payload.count), value: value).bytes
                + payload)
    }

    private func begin(
        _ core: ChannelCore, _ opcode: Opcode, flags: RequestFlags = [], tag: UInt64, count: UInt32 = 512
    ) -> RequestHeader {
        let isFlush = opcode == .flush
        let header = unsafe core.begin(
            ChannelRequest(
                opcode, flags: flags, handle: 7, offset: isFlush ? 0 : tag * 512, count: isFlush ? 0 : count,
                buffer: memory.base, tag: tag))
        return header ?? RequestHeader(opcode: 0)
    }

    private func completions(_ core: ChannelCore) -> [UInt64: Status] {
        var all: [UInt64: Status] = [:]
        while core.takeCompletions({ span in
            for index in span.indices { all[span[index].tag] = span[index].status }
        }) {}
        return all
    }

    private func repeats(_ core: ChannelCore, handle: UInt32 = 9, isShared: Bool = false) -> [RequestHeader] {
        var all: [RequestHeader] = []
        while let next = unsafe core.nextRepeat(handle: handle, isShared: isShared) {
            unsafe all.append(next.header)
            #expect(unsafe (next.payload?.count ?? 0) == Int(all.last!.length))
        }
        return all
    }

    @Test func whatWasUnansweredIsRepeatedWithItsSlotAndSequenceAndTheNewHandle() throws {
        let core = ChannelCore()
        try greet(core, reply())
        let first = begin(core, .write, flags: .fua, tag: 1)
        try answer(core, first)
        let requests = [
            begin(core, .read, tag: 2), begin(core, .write, flags: .fua, tag: 3), begin(core, .flush, tag: 4),
        ]
        #expect(completions(core) == [1: .ok])
        core.suspend()
        #expect(completions(core).isEmpty && core.inFlight == 3 && core.unansweredCount == 3)
        #expect(unsafe core.begin(ChannelRequest(.flush, handle: 7, tag: 9)) == nil)
        try greet(core, reply(resumption: .slots))
        // A reply to what was not sent on this connection is a lie.
        let again = repeats(core)
        #expect(again.map(\.slot) == again.map(\.slot).sorted())
        var expected = requests
        for index in expected.indices { expected[index].handle = 9 }
        #expect(Set(again) == Set(expected))
        for header in again {
            let payload = header.opcode == Opcode.read.rawValue ? [UInt8](repeating: 5, count: 512) : []
            try answer(core, header, payload: payload)
        }
        #expect(completions(core) == [2: .ok, 3: .ok, 4: .ok])
        // The slots go on where they were.
        var next: [UInt16: UInt32] = [:]
        for tag in 0..<4 {
            let header = begin(core, .flush, tag: UInt64(tag))
            next[header.slot] = header.sequence
        }
        #expect(next.values.sorted() == [1, 2, 2, 3])
    }

    @Test func aReplyThatHadArrivedInPartCountsForNothing() throws {
        let core = ChannelCore()
        try greet(core, reply())
        let request = begin(core, .read, tag: 1)
        let frame =
            ReplyHeader(to: request, status: .ok, length: 512, value: 512).bytes
            + [UInt8](repeating: 1, count: 512)
        for cut in 1..<frame.count {
            try feed(core, Array(frame[..<cut]))
            core.suspend()
            try greet(core, reply(resumption: .slots))
            #expect(repeats(core).map(\.sequence) == [request.sequence])
        }
        try feed(core, frame)
        #expect(completions(core) == [1: .ok])
    }

    @Test func aServerThatResumesLessOrSomethingElseIsNotBelieved() throws {
        for wrong in [
            reply(), reply(slots: 4, resumption: .slots), reply(slots: 6, resumption: .slots),
            reply(features: [], resumption: .slots), reply(resumption: .slots, channel: 4),
            reply(resumption: .slots, session: 2), reply(resumption: .session, payload: 1 << 15),
        ] {
            let core = ChannelCore()
            try greet(core, reply())
            _ = begin(core, .read, tag: 1)
            core.suspend()
            #expect(throws: ChannelError.self) { try greet(core, wrong) }
            core.suspend()
            #expect(core.isSuspended && core.unansweredCount == 1)
            try greet(core, reply(resumption: .slots, payload: 1 << 17))
            #expect(repeats(core).count == 1)
        }
        let fresh = ChannelCore()
        #expect(throws: ChannelError.self) { try greet(fresh, reply(resumption: .session)) }
        #expect(!fresh.canResume)
    }

    @Test func aChannelOfOneSlotOrWithoutTheFeatureCannotBeResumed() throws {
        for greeting in [reply(slots: 1), reply(features: [])] {
            let core = ChannelCore()
            try greet(core, greeting)
            #expect(!core.canResume)
        }
    }

    @Test func theControlSlotGoesOnWithTheSequenceThatWasNotAnswered() throws {
        let core = ChannelCore()
        try greet(core, reply())
        let open = core.beginControl(.open, handle: 0, bodyBytes: 10)
        #expect(open?.sequence == 1 && open?.slot == 4)
        core.suspend()
        try greet(core, reply(resumption: .slots))
        let again = try #require(core.beginControl(.open, handle: 0, bodyBytes: 10))
        #expect(again.sequence == 1)
        var volume = PeerConnection.volume()
        volume.transferBytesMax = core.payloadBytesMax
        try answer(core, again, payload: volume.bytes, value: 9)
        core.suspend()
        try greet(core, reply(resumption: .slots))
        #expect(core.beginControl(.ping, handle: 0, bodyBytes: 0)?.sequence == 2)
    }

    @Test func aRestartedServerIsNotAskedTwiceForChangesWhereOthersWrite() throws {
        for (isShared, resumption) in [(true, Resumption.session), (true, .slots), (false, .session)] {
            let core = ChannelCore()
            try greet(core, reply(slots: 7))
            for (tag, opcode) in [Opcode.read, .write, .writeZeroes, .discard, .flush].enumerated() {
                _ = begin(core, opcode, tag: UInt64(tag))
            }
            core.suspend()
            try greet(core, reply(slots: 7, resumption: resumption))
            let again = repeats(core, isShared: isShared)
            if isShared, resumption == .session {
                #expect(Set(again.map(\.opcode)) == [Opcode.read.rawValue, Opcode.flush.rawValue])
                #expect(completions(core) == [1: .outcomeUnknown, 2: .outcomeUnknown, 3: .outcomeUnknown])
                #expect(core.inFlight == 2)
            } else {
                #expect(again.count == 5 && completions(core).isEmpty)
            }
        }
        #expect(
            Opcode.allCases.filter { $0.isOutcomeLost(isShared: false) }.allSatisfy { $0.rawValue == 0x105 })
    }

    @Test func whatWasGivenUpHoldsItsSlotAndNoMemoryAndIsRepeatedAsPing() throws {
        let ledger = SessionLedger()
        let core = ChannelCore(ledger: ledger)
        try greet(core, reply())
        memory.fill([UInt8](repeating: 0, count: 512))
        let read = begin(core, .read, tag: 1)
        let write = begin(core, .write, tag: 2)
        // Half of the payload is in the caller's memory when it is given up.
        let frame =
            ReplyHeader(to: read, status: .ok, length: 512, value: 512).bytes
            + [UInt8](repeating: 1, count: 512)
        try feed(core, Array(frame[..<100]))
        let before = memory.bytes
        core.giveUp(tag: 1)
        core.giveUp(tag: 2)
        core.giveUp(tag: 2)
        #expect(completions(core) == [1: .timedOut, 2: .timedOut])
        #expect(ledger.unsettled == 1 && core.inFlight == 0 && core.givenUp == 2)
        try feed(core, Array(frame[100...]))
        #expect(memory.bytes == before && core.givenUp == 1 && completions(core).isEmpty)
        core.suspend()
        try greet(core, reply(resumption: .slots))
        let again = repeats(core)
        #expect(
            again == [
                RequestHeader(opcode: Opcode.ping.rawValue, slot: write.slot, sequence: write.sequence)
            ])
        // The lost connection is fenced: the change cannot land any more.
        #expect(ledger.unsettled == 0)
        // The server may answer as the request was, or the PING.
        try answer(core, write)
        #expect(core.givenUp == 0 && completions(core).isEmpty)
        #expect(begin(core, .flush, tag: 3).slot != 99)
    }

    @Test func aChangeThatIsGivenUpAndAnsweredLateIsSettledThen() throws {
        let ledger = SessionLedger()
        let core = ChannelCore(ledger: ledger)
        try greet(core, reply())
        let write = begin(core, .write, tag: 2)
        core.giveUp(tag: 2)
        #expect(ledger.unsettled == 1)
        core.notices = []
        try answer(core, write)
        #expect(ledger.unsettled == 0 && core.notices.count == 1)
    }

    @Test func aLostSessionKeepsReadsAndFailsChangesAndTheFlushesThatCoverThem() throws {
        for isLossy in [false, true] {
            let core = ChannelCore()
            try greet(core, reply(slots: 8))
            for (tag, opcode) in [Opcode.read, .write, .writeZeroes, .discard, .flush].enumerated() {
                _ = begin(core, opcode, tag: UInt64(tag))
            }
            _ = begin(core, .write, tag: 8)
            core.giveUp(tag: 8)
            core.suspend()
            let kept = unsafe core.surrender(losesFlushes: isLossy).map { unsafe $0.tag }
            #expect(kept == (isLossy ? [0] : [0, 4]))
            var expected: [UInt64: Status] = [1: .ioError, 2: .ioError, 3: .ioError, 8: .timedOut]
            if isLossy { expected[4] = .ioError }
            #expect(completions(core) == expected)
            #expect(core.ledger.unsettled == 0 && core.inFlight == 0 && core.givenUp == 0)
            // As new: HELLO begins a channel, and sequences begin at 1.
            try greet(core, reply(session: 2))
            #expect(begin(core, .read, tag: 1).sequence == 1)
        }
    }

    @Test func aFlushCoversWhatWasAcknowledgedBeforeItWasSubmitted() throws {
        let ledger = SessionLedger()
        let core = ChannelCore(ledger: ledger)
        try greet(core, reply(slots: 8))
        let writes = (0..<2).map { begin(core, .write, tag: UInt64($0)) }
        try answer(core, writes[0])
        let flush = begin(core, .flush, tag: 5)
        try answer(core, writes[1])
        try answer(core, flush)
        #expect(ledger.hasUnflushed)
        try answer(core, begin(core, .flush, tag: 6))
        #expect(!ledger.hasUnflushed)
        try answer(core, begin(core, .write, flags: .fua, tag: 7))
        try answer(core, begin(core, .write, tag: 8), .ioError)
        #expect(!ledger.hasUnflushed)
        try answer(core, begin(core, .discard, tag: 9))
        #expect(ledger.lose())
        #expect(!ledger.lose())
    }
}

/// When and where to try again.
@Suite struct ReconnectPolicyTests {
    @Test func theFirstTryIsAtOnceAndTheLimitOfTheOthersDoublesTo5Seconds() {
        var backoff = Backoff()
        func next(_ random: UInt64) -> UInt64 { backoff.next(random: random) }
        #expect(next(.max) == 0)
        for milliseconds in [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000] as [UInt64] {
            let limit = milliseconds * 1_000_000
            var other = backoff
            let wrapped = other.next(random: limit + 1)
            #expect(wrapped == 0 && next(limit) == limit)
        }
        backoff.reset()
        #expect(next(77) == 0)
    }

    @Test func whileNobodyIsThereTriesAreManyAtFirstAndFewLater() {
        let second: UInt64 = 1_000_000_000
        var backoff = Backoff()
        func waits(after elapsed: UInt64) -> ClosedRange<UInt64> {
            var all = (0..<100).map {
                backoff.nextWhenUnreachable(since: elapsed, random: $0 &* 7_919_777_777)
            }
            all.sort()
            return all[0]...all[99]
        }
        func next(_ random: UInt64) -> UInt64 { backoff.next(random: random) }
        #expect(waits(after: 0).lowerBound == 0)
        #expect(waits(after: 0).lowerBound >= 10_000_000)
        #expect((10_000_000...50_000_000).contains(waits(after: 0).upperBound))
        #expect(waits(after: 9 * second).lowerBound >= 10_000_000)
        #expect((51_000_000...500_000_000).contains(waits(after: 20 * second).upperBound))
        // None of them counts as a try at a server that answers.
        #expect(next(50_000_000) == 50_000_000)
        #expect(waits(after: 30 * second).upperBound > second)
    }

    @Test func aConnectionThatHeldIsLostForANewReason() {
        var backoff = Backoff()
        func next(_ random: UInt64) -> UInt64 { backoff.next(random: random) }
        for _ in 0..<12 { _ = next(0) }
        // A server that opens the volume and breaks off at once earns nothing by that.
        backoff.hasHeld(nanoseconds: 100_000_000)
        #expect(next(5_000_000_000) == 5_000_000_000)
        for _ in 0..<12 { _ = next(0) }
        backoff.hasHeld(nanoseconds: 2_000_000_001)
        #expect(next(.max) == 0)
    }

    @Test func aConnectionIsGivenMoreTimeTheLongerTheTroubleLastsAndTheFartherTheServerIs() {
        func dial(_ seconds: UInt64, usual: UInt64 = 1_000_000) -> UInt64 {
            Backoff.dialMilliseconds(since: seconds * 1_000_000_000, usual: usual, longest: 5000)
        }
        #expect([dial(0), dial(9), dial(10), dial(29), dial(30)] == [500, 500, 1000, 1000, 5000])
        #expect(dial(0, usual: 600_000_000) == 2400)
        #expect(dial(0, usual: 9_000_000_000) == 5000)
    }

    @Test func aPlaceWhereTheSessionIsNotKnownIsLeftForTheOthersOnce() throws {
        let old = try SocketAddress(text: "192.0.2.1:1")
        let new = try SocketAddress(text: "192.0.2.2:1")
        var places = ServerPlaces([old])
        func isGone(_ address: SocketAddress, asked round: Int? = nil) -> Bool {
            places.isGone(by: address, asked: round ?? places.round)
        }
        func prefers(_ address: SocketAddress) -> Bool { places.prefer(address) }
        #expect(isGone(old))
        #expect(prefers(new))
        #expect(places.current == new)
        let before = places.round
        #expect(!isGone(new))
        #expect(places.current == old)
        // Another channel that went there at the same time hears nothing new.
        #expect(!isGone(new, asked: before) && places.isDoubtful(new))
        #expect(places.current == old)
        // The same advice does not help again; when the old place is no more, what the new one says counts.
        #expect(!prefers(new))
        let haveAllFailed = places.failed(old)
        #expect(!haveAllFailed && places.current == new)
        #expect(isGone(new))
        // Nor does advice to go to a server of another cluster.
        let foreign = try SocketAddress(text: "192.0.2.3:1")
        #expect(prefers(foreign))
        places.isForeign(foreign)
        #expect(!prefers(foreign))
        // What another place knows says nothing of the one that was advised.
        let other = try SocketAddress(text: "192.0.2.4:1")
        #expect(prefers(other))
        places.worked(old)
        #expect(!isGone(other))
        // A place that has worked is believed, and the wrong one is none any more.
        #expect(prefers(old) && places.count == 4)
        places.worked(old)
        #expect(isGone(old) && places.count == 3 && !places.isDoubtful(other))
    }

    @Test func ofThePlacesThatAServerSendsItsClientsToOnlyTheLastIsRemembered() throws {
        let own = try ["192.0.2.1:1", "192.0.2.2:1"].map { try SocketAddress(text: $0) }
        var places = ServerPlaces(own)
        for port in 1...1000 {
            let isNew = places.prefer(try SocketAddress(text: "192.0.2.3:\(port)"))
            #expect(isNew && places.count == 3)
        }
        let isOwn = places.prefer(own[1])
        #expect(isOwn && places.count == 2 && places.current == own[1])
        // The name service may know it too: then it is no server's word any more.
        let named = try SocketAddress(text: "192.0.2.3:7")
        _ = places.prefer(named)
        places.replace([own[0], named])
        _ = places.prefer(try SocketAddress(text: "192.0.2.3:8"))
        #expect(places.count == 3)
    }

    @Test func everyAddressIsTriedInTurnBeforeNewOnesAreAskedFor() throws {
        let addresses = try ["192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1"].map { try SocketAddress(text: $0) }
        var places = ServerPlaces(addresses)
        func failed(_ index: Int) -> Bool { places.failed(addresses[index]) }
        #expect(places.current == addresses[0])
        #expect(!failed(0))
        // Another channel that failed at the same place says nothing new.
        #expect(!failed(0))
        #expect(places.current == addresses[1])
        #expect(!failed(1))
        #expect(failed(2))
        #expect(places.current == addresses[0])
        #expect(!failed(0))
        places.worked(addresses[1])
        #expect(!failed(1))
        #expect(!failed(2))
        let moved = try SocketAddress(text: "192.0.2.9:9")
        let isNew = places.prefer(moved)
        #expect(isNew && places.current == moved)
        places.replace([])
        #expect(places.current == moved)
        places.replace([addresses[2], moved])
        #expect(places.current == moved)
        places.replace([addresses[2]])
        #expect(places.current == moved)
        let isEveryPlace = places.failed(moved)
        #expect(!isEveryPlace && places.current == addresses[2])
        places.replace([addresses[0]])
        #expect(places.current == addresses[0])
    }

    @Test func whatAFailureMeansIsDecidedByItsStatus() {
        func verdict(_ opcode: Opcode, _ status: Status) -> ReconnectVerdict {
            ReconnectVerdict(.refused(opcode, status, message: ""))
        }
        for error in [
            ChannelError.unreachable(address: "a", reason: "r"), .violation("v"), .timedOut("t"), .lost("l"),
        ] {
            #expect(ReconnectVerdict(error) == .retry)
        }
        #expect(ReconnectVerdict(.closed) == .final)
        #expect(verdict(.hello, .notFound) == .newSession)
        #expect(ReconnectVerdict(.expired) == .retry)
        #expect(verdict(.open, .expired) == .newCapability)
        #expect(verdict(.open, .notYetValid) == .newCapability, "a clock was set back")
        #expect(verdict(.open, .writerConflict) == .conflict)
        for status in [
            Status.fenced, .revoked, .staleEpoch, .denied, .wrongHolder, .badCapability, .notFound,
        ] {
            #expect(verdict(.open, status) == .final)
        }
        for status in [Status.busy, .draining, .tooManyChannels, .internalError] {
            #expect(verdict(.hello, status) == .retry)
        }
        for status in [Status.driverFailed, .quarantined, .draining] {
            #expect(verdict(.open, status) == .retry)
        }
    }
}
