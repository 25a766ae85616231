import Core
import Simulation
import Testing
import Wire

@Suite struct HeaderTests {
    let limits = FrameLimits.established(payloadBytesMax: 1 << 20)

    @Test func everyOpcodeHasAnUnmistakableNameAndRule() {
        #expect(Set(Opcode.allCases.map(\.name)).count == Opcode.allCases.count)
        for opcode in Opcode.allCases {
            let rule = opcode.rule
            let hasBody = [.body, .structure, .optionalBody].contains(rule.payload)
            #expect(hasBody == (rule.bodyBytesMax > 0), "\(opcode.name)")
            #expect(rule.payload != .covered || rule.covers == .transfer, "\(opcode.name)")
            #expect(rule.rights.isEmpty == (opcode.kind == .control), "\(opcode.name)")
            #expect(opcode.kind.numbers.contains(opcode.rawValue), "\(opcode.name)")
            #expect(Int(rule.bodyBytesMax) <= Limits.payloadBytesMin, "\(opcode.name)")
            #expect(Int(rule.replyBytesMax) <= Limits.payloadBytesMin, "\(opcode.name)")
            #expect(rule.countMax == .max || rule.covers == .range, "\(opcode.name)")
            #expect(
                opcode.payloadBytes(count: 4) == [.covered: 4, .coveredTwice: 8][rule.payload, default: 0])
        }
    }

    @Test func everyKindOfOpcodeHasNumbersAndAResourceOfItsOwn() {
        let kinds = OpcodeKind.allCases
        for (index, kind) in kinds.enumerated() {
            #expect(!kinds[..<index].contains { $0.numbers.overlaps(kind.numbers) })
            #expect((kind.resource == nil) == (kind == .control))
        }
        #expect(Set(kinds.compactMap(\.resource)).count == kinds.count - 1)
        #expect(OpcodeKind.control.numbers == 1...0xff && OpcodeKind.volume.numbers == 0x100...0x1ff)
    }

    @Test func aRequestIsAcceptedUpToTheNegotiatedPayloadAndNotBeyond() {
        let small = FrameLimits.established(payloadBytesMax: 16384)
        var header = RequestHeader(
            length: 16384, opcode: Opcode.write.rawValue, sequence: 1, handle: 1, count: 16384)
        #expect(header.validate(small) == .ok)
        header.length = 16385
        header.count = 16385
        #expect(header.validate(small) == .protocolViolation)
        #expect(Status.protocolViolation.endsChannel)
        #expect(
            RequestHeader(opcode: Opcode.read.rawValue, handle: 1, count: 16385).validate(small) == .tooLarge)
        #expect(!Status.tooLarge.endsChannel)
    }

    @Test(arguments: [(Opcode.compareAndWrite, 65_536), (.copyRange, 1 << 26)] as [(Opcode, UInt32)])
    func anOperationCoversAsMuchAsIsPromisedAndNoMore(opcode: Opcode, most: UInt32) {
        func judge(_ count: UInt32) -> Status {
            let body = opcode.rule.payload == .coveredTwice ? 2 * count : opcode.rule.bodyBytesMax
            let header = RequestHeader(
                length: body, opcode: opcode.rawValue, sequence: 1, handle: 1, count: count)
            return header.validate(.established(payloadBytesMax: 1 << 20))
        }
        #expect(judge(1) == .ok && judge(most) == .ok)
        #expect(judge(most + 1) == .tooLarge && judge(0) == .badLength)
    }

    @Test func sequencesLeaveOutZeroWhenTheyWrap() {
        #expect(RequestHeader.successor(of: 0) == 1)
        #expect(RequestHeader.successor(of: 41) == 42)
        #expect(RequestHeader.successor(of: .max) == 1)
    }

    @Test func headersAreReadAtAnyAlignmentAndOnlyWhole() {
        let header = RequestHeader(
            length: 1, opcode: 2, flags: RequestFlags(rawValue: 3), slot: 4, reserved: 5, sequence: 6,
            handle: 7,
            count: 8, offset: 9)
        #expect(RequestHeader(bytes: ([0xff] + header.bytes)[1...]) == header)
        #expect(RequestHeader(bytes: header.bytes.dropLast()) == nil)
        #expect(ReplyHeader(bytes: header.bytes.dropLast()) == nil)
    }

    @Test func everyHeaderSurvivesTheRoundTripAndValidationIsTotal() {
        var random = SplitMix(seed: 1)
        var accepted = 0
        for _ in 0..<200_000 {
            var bytes = random.bytes(Limits.headerBytes)
            // Half of them near the valid ones, or nothing but refusals would be seen.
            if random.next() & 1 == 0 {
                let opcode = Opcode.allCases[Int(random.next() % UInt64(Opcode.allCases.count))]
                var near = RequestHeader(opcode: opcode.rawValue, slot: 3, sequence: 9, handle: 1)
                if opcode.rule.covers != .nothing { near.count = 4096 }
                if opcode.rule.payload == .covered { near.length = 4096 }
                if opcode.rule.payload == .coveredTwice { near.length = 8192 }
                if opcode.rule.payload == .body { near.length = min(100, opcode.rule.bodyBytesMax) }
                if opcode.rule.payload == .structure { near.length = opcode.rule.bodyBytesMax }
                if !opcode.rule.usesHandle { near.handle = 0 }
                bytes = near.bytes
                bytes[Int(random.next() % 32)] ^= UInt8(truncatingIfNeeded: random.next() & random.next())
            }
            guard let request = RequestHeader(bytes: bytes), let reply = ReplyHeader(bytes: bytes) else {
                Issue.record("32 bytes are a header")
                return
            }
            #expect(request.bytes == bytes && reply.bytes == bytes)
            if request.validate(limits) == .ok {
                accepted += 1
                #expect(request.length <= 1 << 20 && request.reserved == 0)
                #expect(!request.offset.addingReportingOverflow(UInt64(request.count)).overflow)
            }
            _ = reply.fault(payloadBytesMax: 1 << 20)
            for opcode in Opcode.allCases { _ = reply.fault(answering: opcode, sequence: 9, count: 4096) }
        }
        #expect(accepted > 10_000)
    }
}

@Suite struct ReplyFaultTests {
    private let good = ReplyHeader(
        length: 4096, slot: 2, opcode: Opcode.read.rawValue, sequence: 7, value: 4096)

    @Test func aRightReplyHasNoFault() {
        #expect(good.fault(payloadBytesMax: 1 << 20) == nil)
        #expect(good.fault(answering: .read, sequence: 7, count: 4096) == nil)
    }

    @Test(arguments: Opcode.allCases) func whatCountsBytesAnswersTheCount(opcode: Opcode) {
        let counts: [Opcode] = [.read, .write, .writeZeroes, .discard, .compareAndWrite, .copyRange]
        for value: UInt64 in [0, 4095, 4096, 1 << 32 + 4096] {
            var reply = ReplyHeader(opcode: opcode.rawValue, sequence: 7, value: value)
            reply.length = opcode == .read ? 4096 : 0
            let fault = reply.fault(answering: opcode, sequence: 7, count: 4096)
            #expect((fault == .wrongValue) == (counts.contains(opcode) && value != 4096))
            // What was not done counts nothing.
            reply.status = Status.ioError.rawValue
            #expect(reply.fault(answering: opcode, sequence: 7, count: 4096) == nil)
        }
    }

    @Test func everyFaultIsFound() {
        var found = Set<ReplyFault>()
        func check(_ expected: ReplyFault, _ change: (inout ReplyHeader) -> Void) {
            var header = good
            change(&header)
            let fault =
                header.fault(payloadBytesMax: 8192)
                ?? header.fault(answering: .read, sequence: 7, count: 4096)
            #expect(fault == expected)
            if let fault { found.insert(fault) }
        }
        check(.reservedBits) { $0.flags = 1 }
        check(.reservedBits) { $0.flags = 0x8001 }
        check(.reservedBits) { $0.flags = 0x8000 }
        check(.oversize) { $0.length = 8193 }
        check(.oversize) { $0.length = .max }
        check(.oversize) {
            $0.status = Status.ioError.rawValue
            $0.length = 513
        }
        check(.oversize) {
            $0.flags = 0x8000
            $0.slot = 0xffff
            $0.length = 513
        }
        check(.unknownStatus) { $0.status = 9999 }
        check(.wrongSequence) { $0.sequence = 8 }
        check(.wrongOpcode) { $0.opcode = Opcode.write.rawValue }
        check(.wrongLength) { $0.length = 4095 }
        check(.wrongLength) { $0.length = 0 }
        check(.wrongValue) { $0.value = 4095 }
        check(.wrongValue) { $0.value = .max }
        // A slot that holds no request is found by the table of slots.
        #expect(found == Set(ReplyFault.allCases).subtracting([.unknownSlot]))
        #expect(Set(ReplyFault.allCases.map(\.message)).count == ReplyFault.allCases.count)
    }
}
