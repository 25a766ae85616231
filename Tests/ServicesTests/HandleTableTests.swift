import Core
import Testing
import Wire

@testable import Services

@Suite struct HandleTableTests {
    private var live: Handle {
        var handle = Handle()
        handle.authority.denial = .ok
        handle.authority.rights = [.read, .write]
        handle.authority.rangeStart = 4096
        handle.authority.rangeEnd = 1 << 19
        handle.authority.terms.deadline = 100
        handle.opened = .volume(OpenVolume(size: 1 << 20, blockSize: 512, maximumTransfer: 1 << 16))
        return handle
    }

    private func insert(into table: inout HandleTable) throws -> (id: UInt32, position: UInt8) {
        let result = table.insert(live)
        return try #require(result)
    }

    private func isFull(_ table: HandleTable) -> Bool {
        var copy = table
        return copy.insert(live) == nil
    }

    @Test func anIdNamesNothingAfterItsHandleIsGone() throws {
        var table = HandleTable()
        let first = try insert(into: &table)
        #expect(first.id != 0)
        #expect(table.find(first.id) == first.position)
        table.remove(first.position)
        #expect(table.find(first.id) == nil)
        let second = try insert(into: &table)
        #expect(second.position == first.position)
        #expect(second.id != first.id)
        #expect(table.find(first.id) == nil)
    }

    @Test func inventedIdsNameNothing() throws {
        var table = HandleTable()
        let real = try insert(into: &table).id
        for id in [0, 1, 255, real ^ 1, real ^ 0x100, .max] where id != real {
            #expect(table.find(id) == nil)
        }
    }

    @Test func generationsNeverBecomeZero() throws {
        var table = HandleTable()
        let first = try insert(into: &table)
        table.remove(first.position)
        table[first.position].generation = 0xFF_FFFF
        let next = try insert(into: &table)
        #expect(next.id >> 8 == 1)
    }

    @Test func aFullTableTakesNoMore() throws {
        var table = HandleTable(capacity: 2)
        _ = try insert(into: &table)
        let second = try insert(into: &table)
        #expect(isFull(table))
        table[second.position].isClosing = true
        #expect(table.find(second.id) == nil, "a closing handle takes no request")
        #expect(isFull(table), "and keeps its entry")
        table.remove(second.position)
        #expect(!isFull(table))
    }

    @Test func requestsAreHeldAgainstRightsPlaceAndShape() {
        func check(
            _ handle: Handle, _ offset: UInt64, _ count: UInt32, needed: Rights = .read, covers: Bool = true,
            moves: Bool = true, kind: OpcodeKind = .volume, now: UInt64 = 99
        ) -> Status {
            let demand = RequestDemand(
                kind: kind, rights: needed, covers: covers, moves: moves, count: count, offset: offset)
            return handle.check(demand, now: now)
        }
        let handle = live
        #expect(check(handle, 4096, 512) == .ok)
        #expect(check(handle, (1 << 19) - 512, 512) == .ok)
        #expect(check(handle, (1 << 19) - 512, 1024) == .denied)
        #expect(check(handle, 3584, 512) == .denied)
        #expect(check(handle, 1 << 20, 512) == .outOfRange)
        #expect(check(handle, .max - 255, 512) == .outOfRange)
        #expect(check(handle, 4096, 0) == .badLength)
        #expect(check(handle, 4097, 512) == .unaligned)
        #expect(check(handle, 4096, 513) == .unaligned)
        #expect(check(handle, 4096, (1 << 16) + 512) == .tooLarge)
        #expect(check(handle, 4096, (1 << 16) + 512, moves: false) == .ok)
        #expect(check(handle, 4096, 512, needed: .discard) == .denied)
        #expect(check(handle, 4096, 512, now: 100) == .expired)
        var revoked = handle
        revoked.authority.denial = .revoked
        #expect(check(revoked, 4096, 512, now: 200) == .revoked)
        #expect(check(handle, 0, 0, covers: false, moves: false, now: 0) == .ok)
        #expect(check(handle, 4096, 512, kind: .control) == .badHandle)
        var nothing = handle
        nothing.opened = .nothing
        #expect(check(nothing, 4096, 512) == .badHandle)
    }

    /// What is copied and looked at for every request: these had 264 and 128 bytes when a volume's fields and those of
    /// its operations were in them, and a request was the frame's header of 32.
    @Test func whatEveryRequestTouchesIsSmall() {
        #expect(MemoryLayout<Handle>.stride <= 232)
        #expect(MemoryLayout<Slot>.stride <= 72)
        #expect(MemoryLayout<ResourceRequest>.stride <= 32)
        #expect(MemoryLayout<RequestAnswer>.stride <= 32)
    }
}
