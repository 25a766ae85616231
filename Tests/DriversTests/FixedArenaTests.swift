import Core
import DriverKit
import Reactor
import Simulation
import TestSupport
import Testing

@testable import Drivers

@Suite("Pinned pieces of an arena", .serialized, .blocking)
struct FixedArenaTests {
    private static let piece = UInt64(Limits.filePinnedPieceBytes)

    private static func reactor() throws -> Reactor {
        var options = Reactor.Options()
        options.entries = 16
        options.receiveBufferCount = 1
        options.receiveBufferBytes = 4096
        return try Reactor(options)
    }

    /// What the ring knows each range of an arena by.
    private static func names(
        _ fixed: inout FixedArena, _ ranges: [(offset: UInt64, length: UInt64)]
    ) -> [FixedBuffer?] {
        ranges.map { fixed.buffer(offset: $0.offset, length: $0.length) }
    }

    @Test("a piece has a name when as many bytes were moved as it has, and its neighbours have none")
    func useful() throws {
        let reactor = try Self.reactor()
        var fixed = try FixedArena(Arena(bytes: 4 << 20), reactor: reactor)
        let requests = Int(Self.piece / 4096)
        let before = Self.names(
            &fixed, (0..<requests).map { (offset: UInt64($0) * 4096, length: 4096) })
        #expect(before == [FixedBuffer?](repeating: nil, count: requests))
        let names = Self.names(&fixed, [(0, 4096), (Self.piece, 4096), (8192, 4096)])
        #expect(names[0] != nil && names[1] == nil && names[2] == names[0])
        fixed.removeAll()
        #expect(Self.names(&fixed, [(0, 4096)]) == [nil])
    }

    @Test("a piece has one name, each piece its own, and what lies in two pieces has none")
    func pieces() throws {
        let reactor = try Self.reactor()
        // The arena ends in the middle of the third.
        var fixed = try FixedArena(Arena(bytes: 5 << 20), reactor: reactor)
        _ = Self.names(&fixed, [(0, Self.piece), (Self.piece, Self.piece), (2 * Self.piece, 1 << 20)])
        let names = Self.names(
            &fixed,
            [
                (0, 4096), (Self.piece - 4096, 4096), (0, Self.piece), (Self.piece, 4096),
                (2 * Self.piece, 1 << 20), (Self.piece - 4096, 8192),
            ])
        let first = try #require(names[0])
        #expect(names[1] == first && names[2] == first)
        let second = try #require(names[3])
        let third = try #require(names[4])
        #expect(Set([first, second, third]).count == 3)
        #expect(names[5] == nil)
        fixed.removeAll()
    }

    @Test("where the kernel allows no more, the rest of the arena is used without")
    func refused() throws {
        let reactor = try Self.reactor()
        let arena = try Arena(bytes: 4 << 20)
        var fixed = FixedArena(arena, reactor: reactor)
        let ranges: [(UInt64, UInt64)] = [(0, 4096), (Self.piece, 4096)]
        _ = Self.names(&fixed, [(0, Self.piece), (Self.piece, Self.piece)])
        let first = try #require(Self.names(&fixed, [ranges[0]])[0])
        let page = unsafe UnsafeMutableRawBufferPointer(start: arena.base, count: 4096)
        var others: [FixedBuffer] = []
        while let other = unsafe reactor.fix(page) { others.append(other) }
        #expect(Self.names(&fixed, ranges) == [first, nil])
        // It does not ask again at every request, though it would be allowed now.
        reactor.unfix(try #require(others.last))
        #expect(Self.names(&fixed, ranges) == [first, nil])
        fixed.removeAll()
    }

    @Test(
        "direct requests keep their data wherever their buffers lie in the arena", arguments: [true, false])
    func data(direct: Bool) throws {
        let folder = try TestFolder()
        let settings = ["direct": direct ? "true" : "false"]
        let rig = try DriverRig(FileDriver(DriverEnvironment(settings: settings, folder: folder.path)))
        try rig.driver.createVolume(.test(1), size: 8 << 20)
        try rig.open(.test(1), index: 0)
        for buffer in stride(from: 0, to: 3 * Self.piece, by: 1 << 20) {
            let read = DriverRequest(
                opcode: .read, index: 0, tag: 0, offset: 0, length: 1 << 20, buffer: buffer)
            // From the third on, direct ones find the piece pinned.
            let completions = try rig.perform([read, read, read])
            #expect(completions.allSatisfy { $0.status == Status.ok.rawValue })
        }
        var generator = SplitMix(seed: 7)
        let bytes = generator.bytes(16384)
        // At the edge of a piece, over it, and in a third one.
        for offset in [Self.piece - 16384, Self.piece - 8192, 2 * Self.piece] {
            let buffer = ArenaBuffer(offset: offset, bytes: 16384)
            rig.fill(buffer, bytes)
            let write = DriverRequest(
                opcode: .write, index: 0, tag: 0, offset: offset, length: 16384, buffer: offset)
            #expect(try rig.status(write) == .ok)
            rig.fill(buffer, [UInt8](repeating: 0xEE, count: 16384))
            #expect(areEqual(try rig.read(16384, at: offset), bytes))
            var read = write
            read.rawOpcode = DriverOpcode.read.rawValue
            #expect(try rig.status(read) == .ok)
            #expect(areEqual(rig.bytes(buffer, 16384), bytes))
        }
        try rig.stop()
    }
}
