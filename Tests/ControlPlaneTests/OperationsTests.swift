import Catalog
import Core
import DriverKit
import Foundation
import HTTPTypes
import Services
import Synchronization
import TestSupport
import Testing

@testable import ControlPlane

extension Identifier {
    fileprivate static func test(_ number: UInt64) -> Identifier { Identifier(high: 0x7E57, low: number) }
}

/// The table of long work, as a value.
@Suite struct OperationsTests {
    private func making(_ number: UInt64, size: UInt64 = 1000) -> LongOperation {
        LongOperation(
            making: VolumeRecord(
                id: .test(number), name: "v\(number)", pool: "p", size: size, accessMode: .singleWriter,
                createdAt: number))
    }

    private func grown(
        of volume: UInt64, from size: UInt64, to larger: UInt64, _ number: UInt64
    ) -> LongOperation? {
        let volume = VolumeRecord(
            id: .test(volume), name: "v", pool: "p", size: size, accessMode: .singleWriter, createdAt: 1)
        return LongOperation(
            IntentRecord(resizing: volume, to: larger, operation: .test(number), since: 5))
    }

    @Test func oneIsUnderWayOnAVolumeAtATime() throws {
        var operations = Operations()
        let found = grown(of: 1, from: 10, to: 30, 7)
        let growth = try #require(found)
        #expect(growth.total == 20 && growth.left == 20 && growth.id == .test(7) && growth.since == 5)
        let begun = [growth, growth, making(1), making(2)].map { operations.begin($0) }
        #expect(begun == [true, false, false, true])
        #expect(operations.underWay(on: .test(1)) == growth)
        operations.end(growth, .cancelled, at: 9)
        #expect(operations.underWay(on: .test(1)) == nil)
        let isBegun = operations.begin(making(1))
        #expect(isBegun)
    }

    @Test func whatHasEndedStaysAsItIsAndMovesNoMore() throws {
        var operations = Operations()
        let one = making(1)
        _ = operations.begin(one)
        operations.advance(one, left: 400)
        let news = (1...3).map { _ in operations.hold(one, "the pool is away") }
        #expect(news == [true, false, false])
        let held = operations.underWay(on: one.volume)
        #expect(held?.state == .waiting("the pool is away") && held?.left == 400)
        operations.advance(one, left: 5000)
        #expect(operations.underWay(on: one.volume)?.left == 1000, "no more than all of it is left")
        operations.end(one, .failed("broken"), at: 10)
        operations.end(one, .done, at: 11)
        operations.advance(one, left: 1)
        let isHeld = operations.hold(one, "late")
        #expect(!isHeld)
        let ended = try #require(operations.all(at: 11).first)
        #expect(ended.state == .failed("broken") && ended.endedAt == 10 && ended.left == 1000)
        // What failed is taken up again, and is there once.
        let isBegun = operations.begin(one)
        #expect(isBegun && operations.all(at: 11).count == 1)
        operations.end(one, .done, at: 12)
        #expect(operations.all(at: 12).first?.left == 0)
    }

    @Test func whatHasEndedIsKeptForAnHourAndBounded() {
        var operations = Operations()
        for number in 1...UInt64(Limits.endedOperationsMax + 10) {
            _ = operations.begin(making(number))
            operations.end(making(number), .done, at: number)
        }
        _ = operations.begin(making(5000))
        let all = operations.all(at: 1010)
        #expect(all.count == Limits.endedOperationsMax + 1)
        #expect(all.map(\.since).min() == 11, "the oldest go first")
        #expect(operations.all(at: 1010 + Limits.endedOperationSeconds).count == 2)
        #expect(operations.all(at: 1011 + Limits.endedOperationSeconds).map(\.id) == [.test(5000)])
        #expect(operations.counts == [.prepareVolume: ["running": 1]])
    }

    @Test func intentsOfEarlierVersionsAreOperationsToo() throws {
        let volume = VolumeRecord(
            id: .test(1), name: "v", pool: "p", size: 10, accessMode: .singleWriter, createdAt: 3)
        let intent = IntentRecord(resizing: volume, to: 30, operation: .test(7), since: 5)
        let stored = try JSONSerialization.jsonObject(with: JSONEncoder().encode(intent))
        var members = try #require(stored as? [String: Any])
        members["operation"] = nil
        members["since"] = nil
        let bytes = try JSONSerialization.data(withJSONObject: members)
        let old = try JSONDecoder().decode(IntentRecord.self, from: bytes)
        #expect(old.operation == nil && old.since == nil)
        let found = LongOperation(old)
        let growth = try #require(found)
        #expect(growth.id == volume.id && growth.since == 3 && growth.size == 30)
        let other = LongOperation(IntentRecord(.deleteVolume, volume: volume))
        #expect(other == nil)
    }
}

/// `/v1/operations` over a device that is slow to be made ready.
@Suite(.timeLimit(.minutes(1)), .serialized, .blocking)
struct OperationRoutesTests {
    private static let mebibyte: UInt64 = 1 << 20
    private static let ram = #"{"name":"ram","driver":"memory"}"#
    private static let volume = #"{"name":"disk","size":"8MiB","pool":"ram"}"#

    private func needs(_ left: UInt64, _ rig: ControlRig, failing: StatusError? = nil) {
        rig.machine.preparation.withLock { $0 = (left, failing) }
    }

    /// The operation when it is as `isWanted` says.
    private func operation(
        _ rig: ControlRig, _ id: JSONValue?, when isWanted: (JSONValue) -> Bool
    ) async throws -> JSONValue {
        guard case .string(let id)? = id else { throw Problem(.notFound, "there is no operation") }
        while true {
            let answer = try await rig.ask(.get, "/v1/operations/\(id)")
            try #require(answer.status == 200)
            if isWanted(answer.json) { return answer.json }
            await Task.yield()
        }
    }

    private func isIn(_ state: String) -> (JSONValue) -> Bool { { $0["state"] == .string(state) } }

    /// A volume that is ready, in a pool whose device needs a MiB for it to be larger.
    private func growing(_ rig: ControlRig) async throws -> ControlRig.Answer {
        #expect(try await rig.ask(.post, "/v1/pools", Self.ram).status == 201)
        #expect(try await rig.ask(.post, "/v1/volumes", Self.volume).status == 201)
        needs(Self.mebibyte, rig)
        return try await rig.ask(.patch, "/v1/volumes/disk", #"{"size":"16MiB"}"#)
    }

    private func text(_ value: JSONValue?) -> String {
        if case .string(let text)? = value { text } else { "" }
    }

    @Test func makingAVolumeShowsHowFarItIsUntilItCanBeUsed() async throws {
        try await withControlPlane { rig async throws in
            #expect(try await rig.ask(.get, "/v1/operations").text == #"{"items":[]}"# + "\n")
            #expect(try await rig.ask(.post, "/v1/pools", Self.ram).status == 201)
            needs(6 * Self.mebibyte, rig)
            let made = try await rig.ask(.post, "/v1/volumes", Self.volume)
            #expect(made.status == 202 && made.json["state"] == .string("preparing"), "\(made.text)")
            #expect(made.json["progress"]?["done"] == .integer(2 * Self.mebibyte))
            let id = made.json["operation"]
            let list = try await rig.ask(.get, "/v1/operations").json["items"]
            guard case .array(let items)? = list, let shown = items.first else {
                Issue.record("nothing is listed")
                return
            }
            #expect(items.count == 1 && shown["id"] == id && shown["kind"] == .string("volume.prepare"))
            #expect(shown["resource"] == .string("volume/disk") && shown["endedAt"] == .null)
            #expect(shown["size"] == .integer(8 * Self.mebibyte))
            needs(Self.mebibyte, rig)
            _ = try await operation(rig, id) { $0["progress"]?["done"] == .integer(7 * Self.mebibyte) }
            let metrics = try await rig.ask(.get, "/metrics").text
            #expect(metrics.contains(#"sluice_operations{kind="volume.prepare",state="running"} 1"# + "\n"))
            needs(0, rig)
            let done = try await operation(rig, id, when: isIn("done"))
            #expect(done["endedAt"] != .null && done["progress"]?["done"] == .integer(8 * Self.mebibyte))
            let ready = try await rig.ask(.get, "/v1/volumes/disk").json
            #expect(ready["state"] == .string("ready") && ready["operation"] == nil)
            #expect(ready["progress"] == nil)
            let refused = try await rig.ask(.delete, "/v1/operations/\(text(id))")
            #expect(refused.code == "CONFLICT" && refused.text.contains("done"))
        }
    }

    @Test func whoCancelsTheMakingOfAVolumeRemovesIt() async throws {
        try await withControlPlane { rig async throws in
            #expect(try await rig.ask(.post, "/v1/pools", Self.ram).status == 201)
            needs(Self.mebibyte, rig)
            let made = try await rig.ask(.post, "/v1/volumes", Self.volume)
            let target = "/v1/operations/\(text(made.json["operation"]))"
            #expect(try await rig.ask(.get, target, role: .observer).status == 200)
            #expect(try await rig.ask(.get, "/v1/operations", role: .observer).status == 200)
            #expect(try await rig.ask(.delete, target, role: .observer).code == "FORBIDDEN")
            #expect(try await rig.ask(.delete, target, role: nil).status == 401)
            #expect(try await rig.ask(.delete, target).status == 204)
            #expect(try await rig.ask(.delete, target).status == 204, "a repeat is harmless")
            #expect(try await rig.ask(.get, "/v1/volumes/disk").status == 404)
            #expect(try await rig.ask(.get, target).json["state"] == .string("cancelled"))
            #expect(
                try await rig.ask(.delete, "/v1/operations/\(Identifier.test(9).hex)").code == "NOT_FOUND")
            #expect(try await rig.ask(.get, "/v1/operations/x").code == "NOT_FOUND")
            needs(0, rig)
            #expect(try await rig.ask(.post, "/v1/volumes", Self.volume).status == 201)
        }
    }

    @Test func aVolumeThatGrowsKeepsItsSizeUntilItHasGrown() async throws {
        try await withControlPlane { rig async throws in
            let accepted = try await growing(rig)
            #expect(accepted.status == 202, "\(accepted.text)")
            let id = accepted.json["operation"]
            #expect(accepted.headers[.location] == "/v1/operations/\(text(id))")
            #expect(accepted.json["size"] == .integer(8 * Self.mebibyte))
            #expect(accepted.json["state"] == .string("ready"))
            let other = try await rig.ask(.patch, "/v1/volumes/disk", #"{"size":"32MiB"}"#)
            #expect(other.code == "CONFLICT" && other.text.contains("/v1/operations/\(text(id))"))
            let again = try await rig.ask(.patch, "/v1/volumes/disk", #"{"size":"16MiB"}"#)
            #expect(again.status == 202 && again.json["operation"] == id)
            let labelled = try await rig.ask(.patch, "/v1/volumes/disk", #"{"labels":{"a":"b"}}"#)
            #expect(labelled.status == 200 && labelled.json["operation"] == id)
            #expect(try await rig.ask(.get, "/v1/volumes/disk").json["operation"] == id)
            needs(0, rig)
            let done = try await operation(rig, id, when: isIn("done"))
            #expect(done["kind"] == .string("volume.grow"))
            #expect(done["progress"]?["total"] == .integer(8 * Self.mebibyte))
            let grown = try await rig.ask(.get, "/v1/volumes/disk").json
            #expect(grown["size"] == .integer(16 * Self.mebibyte) && grown["operation"] == nil)
            #expect(grown["labels"]?["a"] == .string("b"))
            let events = rig.events.events(after: 0, limit: 100).events
            #expect(events.contains { $0.kind == .volumeGrown && $0.subject == "volume/disk" })
            #expect(try await rig.ask(.get, "/metrics").text.contains(#"sluice_records{kind="intent"} 0"#))
        }
    }

    @Test func whoCancelsAGrowthLeavesTheVolumeAsItIs() async throws {
        try await withControlPlane { rig async throws in
            let accepted = try await growing(rig)
            let target = "/v1/operations/\(text(accepted.json["operation"]))"
            #expect(try await rig.ask(.delete, target).status == 204)
            #expect(try await rig.ask(.get, target).json["state"] == .string("cancelled"))
            let volume = try await rig.ask(.get, "/v1/volumes/disk").json
            #expect(volume["size"] == .integer(8 * Self.mebibyte) && volume["operation"] == nil)
            #expect(try await rig.ask(.get, "/metrics").text.contains(#"sluice_records{kind="intent"} 0"#))
            let next = try await rig.ask(.patch, "/v1/volumes/disk", #"{"size":"32MiB"}"#)
            #expect(next.status == 202 && next.json["operation"] != accepted.json["operation"])
            needs(0, rig)
            _ = try await operation(rig, next.json["operation"], when: isIn("done"))
            #expect(
                try await rig.ask(.get, "/v1/volumes/disk").json["size"] == .integer(32 * Self.mebibyte))
            #expect(try await rig.ask(.get, target).json["state"] == .string("cancelled"))
            // In pages, in order of the beginning.
            let first = try await rig.ask(.get, "/v1/operations?limit=1").json
            let second = try await rig.ask(
                .get, "/v1/operations?limit=1&cursor=\(text(first["nextCursor"]))")
            #expect(second.status == 200 && second.json["nextCursor"] == nil)
            let wrong = try await rig.ask(.get, "/v1/operations?cursor=c1eA")
            #expect(wrong.code == "INVALID_CURSOR")
        }
    }

    @Test func deletingAVolumeEndsItsGrowth() async throws {
        try await withControlPlane { rig async throws in
            let accepted = try await growing(rig)
            #expect(try await rig.ask(.delete, "/v1/volumes/disk").status == 200)
            _ = try await operation(rig, accepted.json["operation"], when: isIn("cancelled"))
            #expect(try await rig.ask(.get, "/metrics").text.contains(#"sluice_records{kind="intent"} 0"#))
        }
    }

    @Test func whatADeviceRefusesWaitsOrFailsAndSaysWhy() async throws {
        try await withControlPlane { rig async throws in
            let accepted = try await growing(rig)
            let id = accepted.json["operation"]
            needs(0, rig, failing: StatusError(.busy, "the host is being replaced"))
            let waiting = try await operation(rig, id, when: isIn("waiting"))
            #expect(waiting["message"] == .string("the host is being replaced"))
            needs(0, rig, failing: StatusError(.ioError, "the disk is gone"))
            let failed = try await operation(rig, id, when: isIn("failed"))
            #expect(failed["message"] == .string("the disk is gone") && failed["endedAt"] != .null)
            let volume = try await rig.ask(.get, "/v1/volumes/disk").json
            #expect(volume["size"] == .integer(8 * Self.mebibyte) && volume["state"] == .string("ready"))
            let events = rig.events.events(after: 0, limit: 100).events
            #expect(events.contains { $0.kind == .volumeNotGrown && $0.message.contains("the disk is gone") })
            needs(0, rig)
            #expect(try await rig.ask(.patch, "/v1/volumes/disk", #"{"size":"16MiB"}"#).status == 200)
        }
    }

    @Test func aVolumeThatCouldNotBeMadeIsGoneOnWithWhenItsPoolIsRestarted() async throws {
        try await withControlPlane { rig async throws in
            #expect(try await rig.ask(.post, "/v1/pools", Self.ram).status == 201)
            needs(Self.mebibyte, rig)
            let made = try await rig.ask(.post, "/v1/volumes", Self.volume)
            needs(0, rig, failing: StatusError(.ioError, "the disk is gone"))
            let failed = try await operation(rig, made.json["operation"], when: isIn("failed"))
            #expect(text(failed["message"]).contains("when pool ram is restarted"))
            let volume = try await rig.ask(.get, "/v1/volumes/disk").json
            #expect(volume["state"] == .string("unavailable"))
            needs(0, rig)
            #expect(try await rig.ask(.post, "/v1/pools/ram/restart").status == 200)
            _ = try await operation(rig, made.json["operation"], when: isIn("done"))
            #expect(try await rig.ask(.get, "/v1/volumes/disk").json["state"] == .string("ready"))
        }
    }

    @Test func aRestartGoesOnWithAGrowthUnderItsId() async throws {
        let machine = try await ControlRig.Machine()
        var rig = try await ControlRig(machine)
        let accepted = try await growing(rig)
        let id = accepted.json["operation"]
        try await rig.stop()
        rig = try await ControlRig(machine)
        let running = try await operation(rig, id, when: isIn("running"))
        #expect(running["size"] == .integer(16 * Self.mebibyte))
        #expect(try await rig.ask(.get, "/v1/volumes/disk").json["size"] == .integer(8 * Self.mebibyte))
        try await rig.stop()
        // Its pool does not start.
        machine.isBroken.withLock { $0 = true }
        rig = try await ControlRig(machine)
        let waiting = try await operation(rig, id, when: isIn("waiting"))
        #expect(text(waiting["message"]).contains("pool ram does not run"))
        machine.isBroken.withLock { $0 = false }
        needs(0, rig)
        #expect(try await rig.ask(.post, "/v1/pools/ram/restart").status == 200)
        _ = try await operation(rig, id, when: isIn("done"))
        #expect(try await rig.ask(.get, "/v1/volumes/disk").json["size"] == .integer(16 * Self.mebibyte))
        try await rig.stop()
    }
}
