import Core
import DriverKit
import Services
import TestSupport
import Testing

@testable import ControlPlane

/// What deletions answer where the driver cannot be asked, and what goes with what is deleted.
@Suite(.timeLimit(.minutes(1)), .serialized, .blocking)
struct DeletionTests {
    private static let volume = #"{"name": "disk", "size": 1048576}"#

    private func events(_ rig: ControlRig, _ kind: ServerEvent.Kind) -> [ServerEvent] {
        rig.events.events(after: 0, limit: 1000).events.filter { $0.kind == kind }
    }

    @Test func whatIsMadeGrownAndDeletedIsOnRecordWithWhoDidIt() async throws {
        try await withControlPlane { rig async throws in
            #expect(try await rig.ask(.post, "/v1/volumes", Self.volume).status == 201)
            #expect(try await rig.ask(.patch, "/v1/volumes/disk", #"{"size": 2097152}"#).status == 200)
            #expect(try await rig.ask(.patch, "/v1/volumes/disk", #"{"size": 2097152}"#).status == 200)
            #expect(try await rig.ask(.delete, "/v1/volumes/disk?force=true").status == 200)
            for (kind, words) in [
                (ServerEvent.Kind.volumeCreated, "created by admin:"), (.volumeGrown, "2097152 bytes"),
                (.volumeDeleted, "with force"),
            ] {
                let found = events(rig, kind)
                #expect(found.map(\.subject) == ["volume/disk"])
                #expect(found.allSatisfy { $0.message.contains(words) && $0.message.contains("admin:") })
            }
        }
    }

    private func text(_ value: JSONValue?) -> String {
        if case .string(let text)? = value { text } else { "" }
    }

    @Test func aVolumeWhoseDeviceRefusesToDeleteItSaysWhyItIsStillThere() async throws {
        let machine = try await ControlRig.Machine()
        let (rig, services) = try await ControlRig.spied(machine)
        #expect(try await rig.ask(.post, "/v1/volumes", Self.volume).status == 201)
        services.refuse("deleteVolume", StatusError(.ioError, "the disk is gone"))
        #expect(try await rig.ask(.delete, "/v1/volumes/disk").code == "DEVICE_FAILED")
        let kept = try await rig.ask(.get, "/v1/volumes/disk")
        #expect(kept.json["state"] == .string("deleting"))
        let message = text(kept.json["message"])
        #expect(message.contains("the disk is gone") && message.contains("'sluice volume delete disk'"))
        #expect(try await rig.ask(.get, "/v1/operations").json["items"] == .array([]))
        services.allow()
        #expect(try await rig.ask(.delete, "/v1/volumes/disk").status == 200)
        #expect(try await rig.ask(.get, "/v1/volumes/disk").status == 404)
        try await rig.stop()
    }

    @Test func nothingIsDeletedOfAPoolThatDoesNotRun() async throws {
        let machine = try await ControlRig.Machine()
        var rig = try await ControlRig(machine)
        #expect(try await rig.ask(.post, "/v1/volumes", Self.volume).status == 201)
        #expect(try await rig.ask(.post, "/v1/pools", #"{"name":"ram","driver":"memory"}"#).status == 201)
        try await rig.stop()
        machine.isBroken.withLock { $0 = true }
        rig = try await ControlRig(machine)
        #expect(events(rig, .poolNotStarted).map(\.subject).sorted() == ["pool/default", "pool/ram"])
        let shown = try await rig.ask(.get, "/v1/pools/default")
        #expect(text(shown.json["message"]).contains("sluice pool restart default"))
        #expect(!text(shown.json["since"]).isEmpty)
        for target in ["/v1/volumes/disk", "/v1/pools/ram"] {
            let refused = try await rig.ask(.delete, target)
            #expect(refused.code == "CONFLICT", "\(refused.text)")
            #expect(refused.text.contains("does not run") && refused.text.contains("the disk is gone"))
            #expect(refused.text.contains("sluice pool restart"))
            let kept = try await rig.ask(.get, target)
            #expect(kept.status == 200 && kept.json["state"] != .string("deleting"))
        }
        let forgotten = try await rig.ask(.delete, "/v1/volumes/disk?force=true")
        #expect(
            forgotten.status == 200 && text(forgotten.json["note"]).contains("stays"), "\(forgotten.text)")
        #expect(events(rig, .volumeForgotten).map(\.subject) == ["volume/disk"])
        #expect(try await rig.ask(.get, "/v1/volumes/disk").status == 404)
        let pool = try await rig.ask(.delete, "/v1/pools/ram?force=true")
        #expect(pool.status == 200 && text(pool.json["note"]).contains("stays"), "\(pool.text)")
        #expect(events(rig, .poolForgotten).map(\.subject) == ["pool/ram"])
        machine.isBroken.withLock { $0 = false }
        #expect(try await rig.ask(.post, "/v1/pools/default/restart").status == 200)
        #expect(events(rig, .poolWorks).map(\.subject) == ["pool/default"])
        #expect(try await rig.ask(.post, "/v1/volumes", Self.volume).status == 201)
        let deleted = try await rig.ask(.delete, "/v1/volumes/disk")
        #expect(deleted.status == 200 && deleted.json["note"] == nil)
        try await rig.stop()
    }

    @Test func aVolumeOfAQuarantinedPoolIsNotReadyAndNotDeleted() async throws {
        try await withControlPlane { rig async throws in
            #expect(try await rig.ask(.post, "/v1/volumes", Self.volume).status == 201)
            _ = try await rig.ask(.get, "/v1/volumes/disk")
            let host = try #require(rig.host("default"))
            host.state.withLock { state in
                state.report.state = .quarantined
                state.report.stateSince = 1_795_838_400
                state.report.reason = "8 processes were lost within 60 s, the last one: killed by signal 9"
            }
            for target in ["/v1/pools/default", "/v1/drivers/default", "/v1/volumes/disk"] {
                let shown = try await rig.ask(.get, target)
                let message = text(shown.json["message"])
                #expect(message.contains("8 processes") && message.contains("sluice pool restart default"))
            }
            let since = Timestamp.text(1_795_838_400)
            #expect(try await rig.ask(.get, "/v1/pools/default").json["since"] == .string(since))
            #expect(try await rig.ask(.get, "/v1/drivers/default").json["stateSince"] == .string(since))
            let list = try await rig.ask(.get, "/v1/volumes")
            #expect(list.text.contains(#""state":"unavailable""#), "\(list.text)")
            let refused = try await rig.ask(.delete, "/v1/volumes/disk")
            #expect(refused.code == "CONFLICT" && refused.text.contains("quarantined"), "\(refused.text)")
            host.state.withLock { $0.report = DriverHostReport(state: .running) }
            #expect(try await rig.ask(.get, "/v1/volumes/disk").json["state"] == .string("ready"))
        }
    }

    @Test func theEventOfAQuarantineSaysWhatToDo() {
        let log = EventLog(wallClock: MovableClock())
        log.append(pool: "fast", DriverHostEvent(state: .quarantined, message: "8 processes were lost"))
        let message = log.events(after: 0, limit: 1).events.first?.message
        #expect(message?.contains("8 processes") == true)
        #expect(message?.contains("'sluice pool restart fast'") == true)
    }

    @Test func aDeletionSaysHowManyGrantsWentWithItAndANodesIsAnEvent() async throws {
        try await withControlPlane { rig async throws in
            #expect(try await rig.ask(.post, "/v1/volumes", Self.volume).status == 201)
            for node in ["n1", "n2"] {
                #expect(try await rig.ask(.post, "/v1/nodes", #"{"name":"\#(node)"}"#).status == 201)
                let grant =
                    #"{"name":"\#(node)-disk","node":"\#(node)","resource":"volume/disk","rights":["read"]}"#
                #expect(try await rig.ask(.post, "/v1/grants", grant).status == 201)
            }
            #expect(try await rig.ask(.delete, "/v1/nodes/n1").status == 204)
            #expect(events(rig, .nodeRemoved).map(\.subject) == ["node/n1"])
            #expect(events(rig, .nodeRemoved).first?.message.contains("with 1 grant:") == true)
            let deleted = try await rig.ask(.delete, "/v1/volumes/disk")
            #expect(deleted.text == #"{"grants":1,"resource":"volume/disk"}"# + "\n")
        }
    }

    @Test func aFolderOfAnotherPoolIsRefusedWithItsName() async throws {
        try await withControlPlane { rig async throws in
            func pool(_ name: String, _ path: String) async throws -> ControlRig.Answer {
                let body = #"{"name":"\#(name)","driver":"file","settings":{"path":"\#(path)"}}"#
                return try await rig.ask(.post, "/v1/pools", body)
            }
            #expect(try await pool("small", "/srv/small").status == 201)
            for path in ["/srv/small", "/srv//small/", "/srv/./small/sluice-pool"] {
                let refused = try await pool("small2", path)
                #expect(refused.code == "INVALID_FIELD", "\(refused.text)")
                #expect(refused.text.contains("is that of pool small of this server"), "\(refused.text)")
            }
            #expect(try await pool("small2", "/srv/small2").status == 201)
        }
    }

    @Test func aGrantBeyondItsVolumeIsSaidToBe() async throws {
        try await withControlPlane { rig async throws in
            #expect(try await rig.ask(.post, "/v1/volumes", Self.volume).status == 201)
            #expect(try await rig.ask(.post, "/v1/nodes", #"{"name":"n1"}"#).status == 201)
            for (name, length, isBeyond) in [("within", 1_048_576, false), ("beyond", 1_048_577, true)] {
                let body =
                    #"{"name":"\#(name)","node":"n1","resource":"volume/disk","rights":["read"],"#
                    + #""range":{"offset":0,"length":\#(length)}}"#
                let made = try await rig.ask(.post, "/v1/grants", body)
                #expect(made.status == 201)
                #expect(
                    text(made.json["warning"]).contains("volume disk at 1MiB") == isBeyond, "\(made.text)")
            }
            // A change says it as well, also one that changes nothing or something else.
            for (range, isBeyond) in [("8388608", true), ("8388608", true), ("512", false)] {
                let body = #"{"range":{"offset":0,"length":\#(range)}}"#
                let changed = try await rig.ask(.patch, "/v1/grants/within", body)
                #expect(changed.status == 200)
                #expect(
                    text(changed.json["warning"]).contains("volume disk at 1MiB") == isBeyond,
                    "\(changed.text)")
            }
            let labelled = try await rig.ask(.patch, "/v1/grants/beyond", #"{"labels":{"a":"b"}}"#)
            #expect(text(labelled.json["warning"]).contains("volume disk at 1MiB"))
        }
    }
}
