import Core
import Reactor
import Synchronization
import TLS
import TestSupport
import Testing
import Wire

@testable import SluiceClient

@Suite(.timeLimit(.minutes(1)), .serialized, .blocking) struct DataChannelTests {
    @Test func readsAndWritesOfAllSizesCarryTheirBytes() async throws {
        let volume = PeerVolume(size: 4 << 20)
        let identities = try ScriptedPeer.Identities()
        let peer = try ScriptedPeer(identities) { try volume.serve($0) }
        let harness = try ChannelHarness()
        defer { harness.stop() }
        harness.connect(to: peer.address, try identities.clientContext())
        guard case .ready? = await harness.next() else {
            Issue.record("the channel does not become ready")
            return
        }
        for (tag, count) in [1, 512, 4096, 8192, 8193, 16384, 65535, 65536, 200_000, 1 << 20].enumerated() {
            let out = TestMemory(count)
            let back = TestMemory(count)
            out.fill((0..<count).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ tag) })
            let offset = UInt64(tag * 1000)
            harness.on { channel in
                let isTaken = unsafe channel.submit(
                    ChannelRequest(
                        .write, handle: 7, offset: offset, count: UInt32(count), buffer: out.base, tag: 1))
                #expect(isTaken)
            }
            guard case .completed(let written)? = await harness.next() else { break }
            #expect(written == ChannelCompletion(tag: 1, value: UInt64(count), status: .ok))
            harness.on { channel in
                let isTaken = unsafe channel.submit(
                    ChannelRequest(
                        .read, handle: 7, offset: offset, count: UInt32(count), buffer: back.base, tag: 2))
                #expect(isTaken)
            }
            guard case .completed(let read)? = await harness.next() else { break }
            #expect(read == ChannelCompletion(tag: 2, value: UInt64(count), status: .ok))
            #expect(back.bytes == out.bytes, "\(count) bytes")
        }
        harness.on { $0.close() }
        #expect(await harness.allToTheEnd().last?.ending == ChannelError.closed.description)
    }

    @Test func requestsOfOneWakeUpLeaveInOneSend() async throws {
        let sizes = Mutex<[Int]>([])
        try await withOpenChannel(slots: 65) { connection in
            let before = connection.receives.count
            for _ in 0..<32 { _ = try connection.nextRequest() }
            sizes.withLock { $0 = Array(connection.receives[before...]) }
            try connection.cut()
        } test: { harness in
            harness.on { channel in
                for tag in 0..<32 {
                    #expect(unsafe channel.submit(ChannelRequest(.flush, handle: 7, tag: UInt64(tag))))
                }
            }
            let all = await harness.allToTheEnd()
            #expect(all.count == 33)
            // 32 headers and one record's overhead: header, tag and type.
            #expect(sizes.withLock { $0 } == [32 * 32 + 22])
        }
    }

    @Test func moreThanTheSocketTakesArrivesWholeAndInOrder() async throws {
        let (count, size) = (32, 256 << 10)
        let memory = TestMemory(count * size)
        memory.fill((0..<count * size).map { UInt8(truncatingIfNeeded: ($0 / size) &* 37 &+ $0) })
        let areSubmitted = ThreadSemaphore()
        let bytes = memory.bytes
        let arrived = Mutex(0)
        try await withOpenChannel(slots: 65) { connection in
            areSubmitted.wait()
            for number in 0..<count {
                let (header, payload) = try connection.nextRequest()
                #expect(header.offset == UInt64(number))
                #expect(
                    payload.elementsEqual(bytes[number * size..<(number + 1) * size]), "request \(number)")
                arrived.withLock { $0 += 1 }
            }
            try connection.cut()
        } test: { harness in
            harness.on { channel in
                for number in 0..<count {
                    let request = unsafe ChannelRequest(
                        .write, handle: 7, offset: UInt64(number), count: UInt32(size),
                        buffer: memory.base + number * size, tag: UInt64(number))
                    #expect(unsafe channel.submit(request))
                }
                areSubmitted.signal()
            }
            #expect(await harness.allToTheEnd().count == count + 1)
            #expect(arrived.withLock { $0 } == count)
        }
    }

    @Test func repliesThatTrickleAreUnderstood() async throws {
        let data = (0..<5000).map { UInt8(truncatingIfNeeded: $0 / 7) }
        let memory = TestMemory(5000)
        try await withOpenChannel { connection in
            let (header, _) = try connection.nextRequest()
            let frame = ReplyHeader(to: header, status: .ok, length: 5000, value: 5000).bytes + data
            for byte in ChannelEvent.resized(handle: 7, size: 4096).frame(number: 1) + frame {
                try connection.send([byte])
            }
            try connection.waitForEnd()
        } test: { harness in
            harness.on { channel in
                let request = unsafe ChannelRequest(
                    .read, handle: 7, count: 5000, buffer: memory.base, tag: 9)
                #expect(unsafe channel.submit(request))
            }
            guard case .event(let event)? = await harness.next() else {
                Issue.record("no event")
                return
            }
            #expect(event == .resized(handle: 7, size: 4096))
            guard case .completed(let read)? = await harness.next() else { return }
            #expect(read == ChannelCompletion(tag: 9, value: 5000, status: .ok))
            #expect(memory.bytes == data)
        }
    }

    @Test func aRefusedRequestSaysItsStatusAndTheServersWords() async throws {
        try await withOpenChannel { connection in
            let (header, _) = try connection.nextRequest()
            try connection.reply(header, .revoked, payload: Array("by admin".utf8))
            try connection.waitForEnd()
        } test: { harness in
            let memory = TestMemory(512)
            harness.on { channel in
                let request = unsafe ChannelRequest(.read, handle: 7, count: 512, buffer: memory.base, tag: 1)
                #expect(unsafe channel.submit(request))
            }
            guard case .completed(let read)? = await harness.next() else { return }
            #expect(read.status == .revoked)
            harness.on { channel in
                #expect(channel.lastMessage == "by admin")
                channel.close()
            }
            _ = await harness.allToTheEnd()
        }
    }

    @Test func submittingStopsWhenEverySlotIsTakenAndRenewStillGoesThrough() async throws {
        var options = ChannelOptions()
        options.depth = 8
        try await withOpenChannel(options: options, slots: 9) { connection in
            var held: [RequestHeader] = []
            for _ in 0..<8 { held.append(try connection.nextRequest().header) }
            let (renew, body) = try connection.nextRequest()
            #expect(renew.opcode == Opcode.renew.rawValue)
            #expect(try RenewRequest(bytes: body).capability == [4])
            #expect(Set(held.map(\.slot)).count == 8 && !held.map(\.slot).contains(renew.slot))
            try connection.reply(renew, payload: PeerConnection.volume().bytes)
            for header in held.reversed() { try connection.reply(header) }
            try connection.waitForEnd()
        } test: { harness in
            harness.on { channel in
                for tag in 0..<8 {
                    #expect(unsafe channel.submit(ChannelRequest(.flush, handle: 7, tag: UInt64(tag))))
                }
                #expect(unsafe !channel.submit(ChannelRequest(.flush, handle: 7, tag: 99)))
            }
            harness.renew()
            var tags = Set<UInt64>()
            var isRenewed = false
            for _ in 0..<9 {
                switch await harness.next() {
                case .completed(let one)? where one.status == .ok: tags.insert(one.tag)
                case .renewed(.success(4_000_000_000))?: isRenewed = true
                default: Issue.record("neither a completion nor RENEW's reply")
                }
            }
            #expect(isRenewed)
            #expect(tags == Set(0..<8))
        }
    }

    @Test func slotsAreUsedAgainWithTheNextSequence() async throws {
        try await withOpenChannel(slots: 2) { connection in
            for expected in UInt32(1)...20 {
                let (header, _) = try connection.nextRequest()
                #expect(header.slot == 0 && header.sequence == expected)
                try connection.reply(header)
            }
            try connection.cut()
        } test: { harness in
            for tag in UInt64(0)..<20 {
                harness.on { #expect(unsafe $0.submit(ChannelRequest(.flush, handle: 7, tag: tag))) }
                guard case .completed(let one)? = await harness.next() else { return }
                #expect(one == ChannelCompletion(tag: tag, value: 0, status: .ok))
            }
        }
    }

    @Test func everyRequestOfALostChannelEndsOnceAndBeforeTheEnd() async throws {
        try await withOpenChannel { connection in
            for _ in 0..<5 { _ = try connection.nextRequest() }
            try connection.cut()
        } test: { harness in
            harness.on { channel in
                for tag in 0..<5 {
                    #expect(unsafe channel.submit(ChannelRequest(.flush, handle: 7, tag: UInt64(tag))))
                }
            }
            let all = await harness.allToTheEnd()
            let ended = all.compactMap { if case .completed(let one) = $0 { one } else { nil } }
            #expect(ended.map(\.tag).sorted() == [0, 1, 2, 3, 4])
            #expect(ended.allSatisfy { $0.status == .ioError })
            #expect(all.last?.ending == ChannelError.lost("the server closed it").description)
        }
    }

    @Test func aControlRequestThatWaitsFailsWithTheChannel() async throws {
        try await withOpenChannel { connection in
            _ = try connection.nextRequest()
            try connection.cut()
        } test: { harness in
            harness.renew(times: 2)
            let all = await harness.allToTheEnd()
            #expect(all.count { if case .renewed(.failure) = $0 { true } else { false } } == 2)
        }
    }

    @Test func closingFromACompletionIsTheEnd() async throws {
        try await withOpenChannel { connection in
            let (first, _) = try connection.nextRequest()
            let (second, _) = try connection.nextRequest()
            try connection.send(
                ReplyHeader(to: first, status: .ok).bytes + ReplyHeader(to: second, status: .ok).bytes)
            try connection.waitForEnd()
        } test: { harness in
            harness.on { channel in
                for tag in 0..<3 {
                    #expect(unsafe channel.submit(ChannelRequest(.flush, handle: 7, tag: UInt64(tag))))
                }
            }
            guard case .completed? = await harness.next() else { return }
            harness.on { $0.close() }
            let all = await harness.allToTheEnd()
            #expect(all.last?.ending == ChannelError.closed.description)
            #expect(all.count == 3)
        }
    }
}
