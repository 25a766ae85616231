import Core
import Testing
import Wire

@testable import SluiceClient

@Suite("ChannelCore: what is sent again after a connection was lost")
struct ChannelCoreResumeTests {
    private let session = Identifier(high: 1, low: 2)

    /// Answers HELLO.
    private func greet(_ core: ChannelCore, _ resumption: Resumption) throws {
        let body = HelloReply(
            slots: 3, payloadBytesMax: UInt32(Limits.payloadBytesMin), features: .resume, session: session,
            resumption: resumption, cluster: .zero, serverName: ""
        ).bytes
        let header = ReplyHeader(length: UInt32(body.count), opcode: Opcode.hello.rawValue)
        let bytes = header.bytes + body
        unsafe core.room.copyBytes(from: bytes)
        try core.received(bytes.count, isDirect: false)
    }

    /// The simulator of sessions found it: the server says only once that it was restarted.
    @Test("a comparison of before a restart is not repeated, however many connections were lost since")
    func comparisonOfOldServer() throws {
        let core = ChannelCore()
        try greet(core, .fresh)
        let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: 1024, alignment: 8)
        defer { unsafe memory.deallocate() }
        let compare = unsafe ChannelRequest(
            .compareAndWrite, handle: 1, count: 512, buffer: memory.baseAddress, tag: 7)
        let header = try #require(unsafe core.begin(compare))
        #expect(header.length == 1024)
        core.suspend()
        try greet(core, .session)
        core.suspend()
        try greet(core, .slots)
        let isRepeated = unsafe core.nextRepeat(handle: 2, isShared: false) != nil
        #expect(!isRepeated)
        var ends: [ChannelCompletion] = []
        while core.takeCompletions({ for index in $0.indices { ends.append($0[index]) } }) {}
        #expect(ends == [ChannelCompletion(tag: 7, value: 0, status: .outcomeUnknown)])
    }

    @Test("one that the restarted server had is repeated, since that server knows its answer")
    func comparisonOfNewServer() throws {
        let core = ChannelCore()
        try greet(core, .fresh)
        core.suspend()
        try greet(core, .session)
        let isRepeated = unsafe core.nextRepeat(handle: 2, isShared: false) != nil
        #expect(!isRepeated)
        let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: 1024, alignment: 8)
        defer { unsafe memory.deallocate() }
        let compare = unsafe ChannelRequest(
            .compareAndWrite, handle: 2, count: 512, buffer: memory.baseAddress, tag: 7)
        let header = try #require(unsafe core.begin(compare))
        core.suspend()
        try greet(core, .slots)
        let again = try #require(unsafe core.nextRepeat(handle: 3, isShared: false)?.header)
        #expect(again.slot == header.slot && again.sequence == header.sequence && again.handle == 3)
    }

    @Test("one that waits for a capability can be given up before its owner has taken it")
    func givingUpWhatIsHeld() throws {
        let core = ChannelCore()
        core.holdsExpired = true
        try greet(core, .fresh)
        let request = unsafe ChannelRequest(.flush, handle: 1, tag: 9)
        let header = try #require(unsafe core.begin(request))
        let refusal = ReplyHeader(to: header, status: .expired).bytes
        unsafe core.room.copyBytes(from: refusal)
        try core.received(refusal.count, isDirect: false)
        core.giveUp(tag: 9)
        var ends: [ChannelCompletion] = []
        while core.takeCompletions({ for index in $0.indices { ends.append($0[index]) } }) {}
        #expect(ends == [ChannelCompletion(tag: 9, value: 0, status: .timedOut)])
        #expect(unsafe core.takeExpired().isEmpty)
    }
}
