import Core
import Testing

@testable import DriverKit

@Suite("ArenaAllocator")
struct ArenaAllocatorTests {
    @Test("every size around the edges is given until the arena is full, and the whole of it comes back")
    func everySize() throws {
        let arena = try Arena(bytes: 4 << 20)
        let allocator = ArenaAllocator(arena: arena)
        for size in [
            1, 511, 512, 4095, 4096, 4097, 16383, 16384, 16385, (1 << 20) - 1, 1 << 20, (1 << 20) + 1,
            4 << 20,
        ] {
            for backwards in [false, true] {
                var held: [ArenaBuffer] = []
                while let buffer = allocator.allocate(size) {
                    #expect(Int(buffer.bytes) >= size)
                    held.append(buffer)
                    if held.count > arena.bytes / Limits.arenaGranule { break }
                }
                #expect(held.count == arena.bytes / Int(held.first?.bytes ?? 1), "\(size)")
                for buffer in backwards ? held.reversed() : held { allocator.free(buffer) }
                #expect(allocator.usedBytes == 0)
            }
        }
        #expect(allocator.allocate((4 << 20) + 1) == nil)
    }

    @Test(
        "buffers are granule-aligned, large enough, within the arena and apart",
        arguments: [1, 2, 3] as [UInt64])
    func random(seed: UInt64) throws {
        let arena = try Arena(bytes: (4 << 20) + 3 * 4096)
        let allocator = ArenaAllocator(arena: arena)
        var state = seed
        func next(_ bound: Int) -> Int {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Int(state >> 33) % bound
        }
        var owner = [Int](repeating: -1, count: arena.bytes / 4096)
        var held: [ArenaBuffer] = []
        for step in 0..<5000 {
            if next(5) < 3, let buffer = allocator.allocate(1 + next([4096, 65_536, 1 << 20][next(3)])) {
                #expect(buffer.offset % 4096 == 0)
                #expect(buffer.offset + UInt64(buffer.bytes) <= UInt64(arena.bytes))
                for granule in granules(buffer) {
                    #expect(owner[granule] == -1, "step \(step)")
                    owner[granule] = step
                }
                held.append(buffer)
            } else if !held.isEmpty {
                let buffer = held.remove(at: next(held.count))
                for granule in granules(buffer) { owner[granule] = -1 }
                allocator.free(buffer)
            }
            #expect(allocator.usedBytes == held.reduce(0) { $0 + Int($1.bytes) })
        }
        for buffer in held { allocator.free(buffer) }
        #expect(allocator.usedBytes == 0)
        // However it was used, all of it comes together again.
        #expect(allocator.allocate(4 << 20) != nil)
    }

    private func granules(_ buffer: ArenaBuffer) -> Range<Int> {
        Int(buffer.offset / 4096)..<Int((buffer.offset + UInt64(buffer.bytes)) / 4096)
    }

    @Test("a full arena answers nil, and never more than its largest buffer")
    func bounded() throws {
        let allocator = ArenaAllocator(arena: try Arena(bytes: 1 << 20))
        var held: [ArenaBuffer] = []
        while let buffer = allocator.allocate(4096) { held.append(buffer) }
        #expect(held.count == 256)
        #expect(allocator.allocate(1) == nil)
        allocator.free(held.removeLast())
        #expect(allocator.allocate(4097) == nil)
        #expect(allocator.allocate(4096) != nil)
        #expect(allocator.allocate((1 << 20) + 1) == nil)
        #expect(allocator.largestBytes == 1 << 20)
    }

    @Test("an arena is seen by who maps its descriptor")
    func shared() throws {
        let arena = try Arena(bytes: 8192)
        let other = try Arena(mapping: arena.descriptor(), bytes: 8192)
        unsafe arena.base.storeBytes(of: 42, toByteOffset: 5000, as: UInt8.self)
        #expect(unsafe other.base.load(fromByteOffset: 5000, as: UInt8.self) == 42)
        #expect(throws: StatusError.self) { _ = try Arena(mapping: arena.descriptor(), bytes: 12288) }
        #expect(throws: StatusError.self) { _ = try Arena(bytes: 0) }
    }
}
