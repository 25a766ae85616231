import Core
import DriverKit
import Testing

/// The bounds of what has no end: a file, which grows as it is written.
private struct EndlessBounds: RequestBounds {
    func check(_ request: DriverRequest, arenaBytes: Int) -> Status {
        guard request.opcode == .read || request.opcode == .write else { return .unknownOpcode }
        return request.buffer.addingSaturated(request.length) <= UInt64(arenaBytes) ? .ok : .badRequest
    }
}

@Suite struct CheckedQueueTests {
    private let submissions = SubmissionRing(capacity: 8)
    private let completions = CompletionRing(capacity: 8)

    private func queue() throws -> CheckedQueue {
        CheckedQueue(arena: try Arena(bytes: 8192), submissions: submissions, completions: completions)
    }

    /// How the request is judged by what is open under index 3.
    private func judge<Bounds: RequestBounds>(_ request: DriverRequest, _ bounds: Bounds) throws -> Status {
        #expect(submissions.push(request))
        switch try #require(try queue().next { $0 == 3 ? ("open", bounds) : nil }) {
        case .valid(let given, let opcode, let open):
            #expect(open == "open" && opcode == request.opcode && given.tag == request.tag)
            return .ok
        case .refused(let tag, let status):
            #expect(tag == request.tag)
            return status
        }
    }

    @Test func whatIsOpenJudgesItsRequestsByBoundsOfItsOwn() throws {
        let far = DriverRequest(opcode: .write, index: 3, tag: 7, offset: 1 << 50, length: 100)
        let volume = VolumeGeometry(size: 1 << 20, blockSize: 512, maximumTransfer: 4096)
        #expect(try judge(far, EndlessBounds()) == .ok)
        #expect(try judge(far, volume) == .outOfRange)
        let beside = DriverRequest(opcode: .read, index: 3, tag: 8, length: 4096, buffer: 8192)
        #expect(try judge(beside, EndlessBounds()) == .badRequest)
        #expect(try judge(beside, volume) == .badRequest)
        #expect(try judge(DriverRequest(opcode: .flush, index: 3, tag: 9), EndlessBounds()) == .unknownOpcode)
    }

    @Test func aRequestForWhatIsNotOpenIsRefused() throws {
        let request = DriverRequest(opcode: .read, index: 4, tag: 1, length: 512)
        #expect(try judge(request, EndlessBounds()) == .badHandle)
    }
}
