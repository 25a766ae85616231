import Core
import DriverKit
import HTTPTypes
import Services
import Synchronization
import Testing

@testable import ControlPlane

@Suite struct PoolSpaceTests {
    private static let gibibyte: UInt64 = 1 << 30

    private func state(
        total: UInt64, used: UInt64, free: UInt64, provisioned: UInt64, refusedAt: UInt64? = nil
    ) -> SpaceState {
        let space = PoolSpace(
            capacity: PoolCapacity(total: total, used: used, free: free), lastRefusal: refusedAt)
        return SpaceState(space, provisioned: provisioned, now: 1000)
    }

    @Test func aPoolIsNearlyFullOrFullWhereMoreWasPromisedThanIsLeft() {
        let one = Self.gibibyte
        #expect(state(total: 100 * one, used: 10 * one, free: 90 * one, provisioned: 1000 * one) == .ok)
        #expect(state(total: 100 * one, used: 91 * one, free: 9 * one, provisioned: 1000 * one) == .nearFull)
        #expect(state(total: 100 * one, used: 100 * one, free: 0, provisioned: 1000 * one) == .full)
        // Everything that was promised is there, however little is left: a device that is one volume's.
        #expect(state(total: 100 * one, used: 100 * one, free: 0, provisioned: 100 * one) == .ok)
        #expect(state(total: 100 * one, used: 95 * one, free: 5 * one, provisioned: 100 * one) == .ok)
        // A file system that does not tell.
        #expect(state(total: 0, used: 0, free: 0, provisioned: one) == .ok)
        // A tenth of very much is much.
        let much = 100_000 * one
        #expect(state(total: much, used: much - 300 * one, free: 300 * one, provisioned: 2 * much) == .ok)
        #expect(
            state(total: much, used: much - 200 * one, free: 200 * one, provisioned: 2 * much) == .nearFull)
        // A write found no space, whatever the figures say; a while ago does not count.
        #expect(state(total: one, used: 0, free: one, provisioned: one, refusedAt: 995) == .full)
        #expect(state(total: one, used: 0, free: one, provisioned: one, refusedAt: 900) == .ok)
    }

    @Test func whatIsProvisionedAndOvercommittedIsSaid() async throws {
        try await withControlPlane { rig async throws in
            let pool = #"{"name":"ram","driver":"memory","settings":{"size":"64MiB"},"whenFull":"fail"}"#
            #expect(try await rig.ask(.post, "/v1/pools", pool).status == 201)
            let fits = try await rig.ask(.post, "/v1/volumes", #"{"name":"a","size":"32MiB","pool":"ram"}"#)
            #expect(fits.status == 201 && fits.json["warning"] == nil)
            #expect(fits.json["blockSize"] == .integer(512))
            let more = try await rig.ask(.post, "/v1/volumes", #"{"name":"b","size":"1GiB","pool":"ram"}"#)
            guard case .string(let warning)? = more.json["warning"] else {
                Issue.record("no warning: \(more.text)")
                return
            }
            #expect(warning.contains("64MiB") && warning.contains("fail"))
            let grown = try await rig.ask(.patch, "/v1/volumes/a", #"{"size":"48MiB"}"#)
            guard case .string(let again)? = grown.json["warning"] else {
                Issue.record("no warning: \(grown.text)")
                return
            }
            #expect(again.contains("for volumes of \(ByteCount((1 << 30) + (48 << 20)))"), "\(again)")
            let same = try await rig.ask(.patch, "/v1/volumes/a", #"{"size":"48MiB","labels":{"a":"b"}}"#)
            #expect(same.status == 200 && same.json["warning"] == nil)
            let shown = try await rig.ask(.get, "/v1/pools/ram")
            #expect(shown.json["capacity"]?["provisioned"] == .integer((1 << 30) + (48 << 20)))
            #expect(shown.json["space"]?["state"] == .string("ok"))
            #expect(shown.json["whenFull"] == .string("fail"))
            let changed = try await rig.ask(.patch, "/v1/pools/ram", #"{"whenFull":"wait"}"#)
            #expect(changed.json["whenFull"] == .string("wait"))
            #expect(try await rig.ask(.patch, "/v1/pools/ram", #"{"whenFull":"no"}"#).code == "INVALID_FIELD")
        }
    }

    @Test func aVolumesBlocksAreItsOwnAndNotThoseOfItsPool() async throws {
        try await withControlPlane { rig async throws in
            let body = #"{"name":"a","size":"32MiB","blockSize":4096}"#
            let made = try await rig.ask(.post, "/v1/volumes", body)
            #expect(made.status == 201 && made.json["blockSize"] == .integer(4096))
            let shown = try await rig.ask(.get, "/v1/volumes/a")
            #expect(shown.json["blockSize"] == .integer(4096))
            let wrong = try await rig.ask(
                .post, "/v1/volumes", #"{"name":"b","size":"1MiB","blockSize":1024}"#)
            #expect(wrong.code == "INVALID_FIELD")
        }
    }

    @Test func aPoolIsDeletedWhenItHasNoVolumesAndItsNameIsFreeThen() async throws {
        try await withControlPlane { rig async throws in
            let pool = #"{"name":"ram","driver":"memory"}"#
            let volume = #"{"name":"a","size":"1MiB","pool":"ram"}"#
            #expect(try await rig.ask(.post, "/v1/pools", pool).status == 201)
            #expect(try await rig.ask(.post, "/v1/volumes", volume).status == 201)
            let refused = try await rig.ask(.delete, "/v1/pools/ram")
            #expect(refused.code == "IN_USE" && refused.text.contains("such as a"), "\(refused.text)")
            #expect(try await rig.ask(.delete, "/v1/volumes/a").status == 200)
            let host = try #require(rig.host("ram"))
            #expect(try await rig.ask(.delete, "/v1/pools/ram").status == 200)
            let isShutDown = host.state.withLock { $0.isShutDown }
            #expect(isShutDown)
            #expect(try await rig.ask(.get, "/v1/pools/ram").status == 404)
            #expect(try await rig.ask(.delete, "/v1/pools/ram").code == "NOT_FOUND")
            #expect(try await rig.ask(.post, "/v1/volumes", volume).code == "INVALID_FIELD")
            #expect(try await rig.ask(.post, "/v1/pools", pool).status == 201)
            #expect(try await rig.ask(.post, "/v1/volumes", volume).status == 201)
        }
    }
}
