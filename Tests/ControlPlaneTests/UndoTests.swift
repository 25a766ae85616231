import Catalog
import Core
import Foundation
import Reactor
import Services
import TestSupport
import Testing

@testable import ControlPlane

/// What was done on a device and could not be written down afterwards.
@Suite(.timeLimit(.minutes(1)), .serialized, .blocking)
struct UndoTests {
    private static let ram = #"{"name":"ram","driver":"memory"}"#

    @Test func aPoolWhoseRecordCannotBeWrittenIsNotLeftRunning() async throws {
        let machine = try await ControlRig.Machine()
        let rig = try await ControlRig(machine)
        machine.commits.refuse { $0 == 2 }
        #expect(try await rig.ask(.post, "/v1/pools", Self.ram).code == "CATALOG_FAILED")
        let host = try #require(rig.host("ram"))
        #expect(host.state.withLock { $0.isShutDown })
        #expect(try await rig.ask(.get, "/v1/pools/ram").status == 404)
        #expect(try await rig.ask(.get, "/metrics").text.contains(#"sluice_records{kind="intent"} 0"#))
        let again = try await rig.ask(.post, "/v1/pools", Self.ram)
        #expect(again.status == 201, "\(again.text)")
        try await rig.stop()
    }

    @Test func aPoolThatACrashLeftHalfMadeIsGoneAndItsNewFolderToo() async throws {
        let machine = try await ControlRig.Machine()
        var rig = try await ControlRig(machine)
        let kept = "\(machine.folder.poolsFolder)/kept"
        try FileManager.default.createDirectory(atPath: kept, withIntermediateDirectories: true)
        try Data("x".utf8).write(to: URL(filePath: "\(kept)/chosen-folder"))
        for name in ["ram", "kept"] {
            let body = #"{"name":"\#(name)","driver":"memory"}"#
            machine.commits.endAfter(1)
            #expect(try await rig.ask(.post, "/v1/pools", body).code == "CATALOG_FAILED")
        }
        try await rig.stop()
        // As its driver had begun to.
        let new = "\(machine.folder.poolsFolder)/ram"
        try FileManager.default.createDirectory(atPath: new, withIntermediateDirectories: true)
        try Data("x".utf8).write(to: URL(filePath: "\(new)/chosen-folder"))
        rig = try await ControlRig(machine)
        #expect(rig.host("ram") == nil)
        #expect(try await rig.ask(.get, "/v1/pools/ram").status == 404)
        #expect(!FileManager.default.fileExists(atPath: new))
        #expect(FileManager.default.fileExists(atPath: "\(kept)/chosen-folder"), "it was there before")
        #expect(try await rig.ask(.get, "/metrics").text.contains(#"sluice_records{kind="intent"} 0"#))
        #expect(try await rig.ask(.post, "/v1/pools", Self.ram).status == 201)
        try await rig.stop()
    }

    @Test func aPoolWithAWrongSettingIsRefusedAsBefore() async throws {
        let machine = try await ControlRig.Machine()
        let rig = try await ControlRig(machine)
        let wrong = #"{"name":"ram","driver":"memory","settings":{"size":"x"}}"#
        let refused = try await rig.ask(.post, "/v1/pools", wrong)
        #expect(refused.code == "INVALID_FIELD" && refused.json["field"] == .string("settings"))
        #expect(try await rig.ask(.post, "/v1/pools", Self.ram).status == 201)
        try await rig.stop()
    }

    @Test func aModeThatIsRefusedIsNotOnRecord() async throws {
        let machine = try await ControlRig.Machine()
        let (rig, services) = try await ControlRig.spied(machine)
        let volume = #"{"name":"disk","size":1048576,"accessMode":"shared"}"#
        #expect(try await rig.ask(.post, "/v1/volumes", volume).status == 201)
        services.refuse("updateVolume", StatusError(.busy, "2 sessions write to the volume"))
        let change = #"{"accessMode":"single-writer","size":2097152}"#
        #expect(try await rig.ask(.patch, "/v1/volumes/disk", change).code == "BUSY")
        let shown = try await rig.ask(.get, "/v1/volumes/disk").json
        #expect(shown["accessMode"] == .string("shared") && shown["size"] == .integer(1_048_576))
        services.allow()
        // In force and not on record: taken back.
        machine.commits.refuse { _ in true }
        let limits = #"{"limits":{"iops":5}}"#
        #expect(try await rig.ask(.patch, "/v1/volumes/disk", limits).code == "CATALOG_FAILED")
        machine.commits.refuse { _ in false }
        #expect(services.count(of: "updateVolume") == 3)
        #expect(try await rig.ask(.patch, "/v1/volumes/disk", limits).status == 200)
        try await rig.stop()
    }

    @Test func aVolumeThatTurnsOutBrokenIsNotShownReadyFromBefore() async throws {
        try await withControlPlane { rig async throws in
            let made = try await rig.ask(.post, "/v1/volumes", #"{"name":"disk","size":1048576}"#)
            guard case .string(let text)? = made.json["id"], let id = Identifier(hex: text) else {
                Issue.record("no id: \(made.text)")
                return
            }
            for _ in 0..<2 {
                #expect(try await rig.ask(.get, "/v1/volumes/disk").json["state"] == .string("ready"))
            }
            // As a start of its pool finds it.
            rig.plane.live.withLock { $0.volumeFaults[id] = "its device is gone" }
            let broken = try await rig.ask(.get, "/v1/volumes/disk").json
            #expect(broken["state"] == .string("unavailable"))
            #expect(broken["message"] == .string("its device is gone"))
            rig.plane.live.withLock { $0.volumeFaults[id] = nil }
            #expect(try await rig.ask(.get, "/v1/volumes/disk").json["state"] == .string("ready"))
        }
    }

    @Test func aDriverSaysWhetherItsVolumesAreGoneWithTheServer() async throws {
        try await withControlPlane { rig async throws in
            func isVolatile(_ driver: String, _ settings: [String: String] = [:]) -> Bool {
                rig.plane.isVolatile(
                    PoolRecord(
                        id: .random(using: SystemRandom()), name: "p", driver: driver, settings: settings,
                        createdAt: 1))
            }
            #expect(isVolatile("memory") && !isVolatile("file") && !isVolatile("unknown"))
            #expect(isVolatile("fault", ["driver": "memory", "quarantine": "fail", "inner.size": "1GiB"]))
            #expect(!isVolatile("fault", ["driver": "file"]) && !isVolatile("fault"))
        }
    }
}
