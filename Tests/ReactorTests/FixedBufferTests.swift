import CURing
import Core
import Glibc
import TestSupport
import Testing

@testable import Reactor

@Suite("Memory that a ring knows", .serialized, .blocking)
struct FixedBufferTests {
    /// A file without a name.
    private static func file() throws -> FileDescriptor {
        let stream = try unsafe #require(tmpfile())
        defer { _ = unsafe fclose(stream) }
        return FileDescriptor(owning: dup(unsafe fileno(stream)))
    }

    private static func secondHalf(_ memory: Memory) -> UnsafeMutableRawBufferPointer {
        unsafe UnsafeMutableRawBufferPointer(rebasing: memory.bytes[4096..<8192])
    }

    @Test("what is written from it is read back into it, on any ring", arguments: [true, false])
    func roundTrip(isRestricted: Bool) throws {
        var options = Reactor.Options.small
        options.isRestricted = isRestricted
        let file = try Self.file()
        let fd = file.raw
        let memory = Memory(8192, fill: 7)
        var steps: [Int32] = []
        try withReactor(options) { reactor, finish in
            let probe = Probe()
            let target = reactor.register(probe)
            var fixed: FixedBuffer?
            probe.onCompletion = { token, result, _ in
                switch token {
                case 0:
                    // The ring runs, with its restrictions in force.
                    fixed = unsafe reactor.fix(memory.bytes)
                    #expect(fixed != nil)
                    unsafe Self.secondHalf(memory).initializeMemory(as: UInt8.self, repeating: 0)
                    unsafe reactor.write(
                        fd: fd, from: UnsafeRawBufferPointer(start: memory.bytes.baseAddress, count: 4096),
                        at: 0, dataSync: true, fixed: fixed, target: target, token: 1)
                case 1:
                    steps.append(result)
                    unsafe reactor.read(
                        fd: fd, into: Self.secondHalf(memory), at: 0, fixed: fixed, target: target, token: 2)
                default:
                    steps.append(result)
                    if let fixed { reactor.unfix(fixed) }
                    finish()
                }
            }
            reactor.noOperation(target: target, token: 0)
        }
        #expect(steps == [4096, 4096])
        #expect(memory.contents == [UInt8](repeating: 7, count: 8192))
    }

    @Test("other memory is refused under its name, and so is a name that was given back")
    func otherMemory() throws {
        let file = try Self.file()
        let fd = file.raw
        let known = Memory(4096, fill: 1)
        let other = Memory(4096, fill: 2)
        var results: [Int32] = []
        try withReactor { reactor, finish in
            let probe = Probe()
            let target = reactor.register(probe)
            let fixed = unsafe reactor.fix(known.bytes)
            #expect(fixed != nil)
            probe.onCompletion = { token, result, _ in
                results.append(result)
                if token == 2 { return finish() }
                if token == 1, let fixed { reactor.unfix(fixed) }
                unsafe reactor.write(
                    fd: fd, from: token == 0 ? other.readOnly : known.readOnly, at: 0, fixed: fixed,
                    target: target, token: token + 1)
            }
            unsafe reactor.write(
                fd: fd, from: known.readOnly, at: 0, fixed: fixed, target: target, token: 0)
        }
        #expect(results == [4096, -EFAULT, -EFAULT])
    }

    @Test("what the kernel refuses costs no place, and a full table has room again after one was given back")
    func places() throws {
        let reactor = try Reactor(.small)
        let memory = Memory(4096)
        let gone = try unsafe #require(mmap(nil, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))
        unsafe munmap(gone, 4096)
        #expect(unsafe reactor.fix(UnsafeMutableRawBufferPointer(start: gone, count: 4096)) == nil)
        var places = Set<FixedBuffer>()
        while let fixed = unsafe reactor.fix(memory.bytes) { places.insert(fixed) }
        #expect(places.count == Limits.fixedBuffersMax)
        let one = try #require(places.first)
        reactor.unfix(one)
        #expect(unsafe reactor.fix(memory.bytes) == one)
        #expect(unsafe reactor.fix(memory.bytes) == nil)
    }
}
