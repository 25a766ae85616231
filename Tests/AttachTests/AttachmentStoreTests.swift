import Glibc
import Testing

@testable import Attach

@Suite struct AttachmentStoreTests {
    private static func record(
        _ key: String, process: ProcessIdentity, device: String = "/dev/loop99",
        server: String = "https://h:7480"
    ) -> AttachmentRecord {
        AttachmentRecord(
            key: key, volume: "db", volumeID: "00", server: server, device: device,
            mark: "sluice:x",
            folder: "/nowhere/\(key).fuse", process: process, since: 5, size: 4096, blockSize: 512,
            isReadOnly: false, channels: 1, detachesOnUnmount: true, state: .attached)
    }

    private func withStore(_ body: (AttachmentStore) throws -> Void) throws {
        let folder = try TemporaryFolder.make()
        defer { try? FileTools.remove(folder) }
        let store = AttachmentStore(folder: folder + "/run/sluice")
        try store.create()
        try body(store)
    }

    @Test("the folder is for this user only, and a record is read as it was written")
    func roundTrip() throws {
        try withStore { store in
            var status = stat()
            #expect(unsafe stat(store.folder, &status) == 0)
            #expect(status.st_mode & 0o777 == 0o700)
            let record = Self.record("db@h_7480", process: try #require(.current))
            try store.write(record)
            #expect(store.records() == [record])
            store.remove(record.key)
            #expect(store.records().isEmpty)
        }
    }

    @Test("a device grows with its volume as far as its capability lets it")
    func growth() throws {
        try withStore { store in
            var record = Self.record("db@h_7480", process: try #require(.current))
            for (sizeMax, grows) in [(nil, true), (8192, true), (4096, false)] as [(UInt64?, Bool)] {
                record.sizeMax = sizeMax
                let attachment = Attachment(record, store: store, mounts: [])
                #expect(attachment.mayGrow(from: 4096) == grows)
                #expect(!attachment.mayGrow(from: 2048), "it has grown already")
            }
        }
    }

    @Test("a file that is no record, or that of another key, is left out")
    func foreign() throws {
        try withStore { store in
            try FileTools.write(store.path("a", ".json"), "{")
            try FileTools.write(store.path("b", ".json"), "{\"key\":\"b\"}")
            let record = Self.record("c", process: try #require(.current))
            try store.write(record)
            #expect(unsafe rename(store.path("c", ".json"), store.path("d", ".json")) == 0)
            #expect(store.records().isEmpty)
        }
    }

    @Test("a key is claimed once, until its claim is closed")
    func claim() throws {
        try withStore { store in
            let first = try #require(try store.claim("k"))
            #expect(try store.claim("k") == nil)
            let other = try #require(try store.claim("other"))
            close(other)
            close(first)
            let again = try #require(try store.claim("k"))
            close(again)
        }
    }

    @Test("a key holds nothing that a path or another volume could be made of")
    func key() {
        #expect(AttachmentStore.key(volume: "db", server: "https://10.0.0.1:7480") == "db@10.0.0.1_7480")
        #expect(AttachmentStore.key(volume: "db", server: "https://[::1]:7480") == "db@___1__7480")
        #expect(!AttachmentStore.key(volume: "db", server: "https://h/../../x").contains("/"))
        #expect(
            AttachmentStore.key(volume: "db", server: String(repeating: "h", count: 500)).utf8.count < 200)
    }

    @Test("an attachment is found by volume and by device, and what is not there is said to be missing")
    func find() throws {
        try withStore { store in
            #expect(throws: AttachError.self) { try Attachments.find("volume/db", in: store) }
            try store.write(Self.record("db@h_7480", process: try #require(.current)))
            #expect(try Attachments.find("volume/db", in: store).device == "/dev/loop99")
            #expect(try Attachments.find("/dev/loop99", in: store).volume == "volume/db")
            let error = #expect(throws: AttachError.self) { try Attachments.find("volume/other", in: store) }
            #expect(error?.reason == .notFound)
            #expect(error?.message.contains("volume/db") == true)
            try store.write(
                Self.record(
                    "db@i_7480", process: try #require(.current), device: "/dev/loop98",
                    server: "https://i:7480"))
            let ambiguous = #expect(throws: AttachError.self) { try Attachments.find("volume/db", in: store) }
            #expect(ambiguous?.reason == .usage)
            #expect(ambiguous?.message.contains("--server") == true)
            let chosen = try Attachments.find("volume/db", server: "https://i:7480", in: store)
            #expect(chosen.device == "/dev/loop98")
            let other = #expect(throws: AttachError.self) {
                try Attachments.find("volume/db", server: "https://z:7480", isOnly: true, in: store)
            }
            #expect(other?.reason == .notFound && other?.message.contains("https://i:7480") == true)
        }
    }

    @Test(
        "what another run of the machine left is stale, is cleaned up without a look at the device, and blocks nothing"
    )
    func otherBoot() throws {
        try withStore { store in
            var process = try #require(ProcessIdentity.current)
            process.boot = "another"
            // A device that is there, and somebody else's now.
            var record = Self.record("db@h_7480", process: process, device: "/dev/null")
            record.identity = LoopIdentity(
                number: "7:0", sequence: 1, fileDevice: 1, fileInode: 2, boot: "another")
            try store.write(record)
            let attachment = try Attachments.find("volume/db", in: store)
            #expect(attachment.state == "stale" && attachment.mounts.isEmpty)
            #expect(attachment.message?.contains("an earlier run of this machine") == true)
            #expect(try Attachments.detach(attachment, isForced: false, in: store) == nil)
            #expect(TextFile.names(in: store.folder).isEmpty, "\(TextFile.names(in: store.folder))")
        }
    }

    @Test("a device that is not its attachment's any more is stale, whatever the record says")
    func deviceTaken() throws {
        try withStore { store in
            var record = Self.record("db@h_7480", process: try #require(.current))
            record.identity = LoopIdentity(
                number: "7:99999", sequence: 1, fileDevice: 1, fileInode: 2, boot: ProcessIdentity.currentBoot
            )
            try store.write(record)
            let attachment = try Attachments.find("volume/db", in: store)
            #expect(attachment.state == "stale")
            #expect(attachment.message?.contains("taken away from outside") == true)
            record.device = "/dev/null"
            let error = #expect(throws: AttachError.self) { _ = try HeldDevice(record) }
            #expect(error?.message.contains("was not touched") == true)
        }
    }

    @Test(
        "nothing is left in the folder when an attachment has gone, and a claim survives the removal of its file"
    )
    func leavings() throws {
        try withStore { store in
            let claim = try #require(try store.claim("k"))
            try FileTools.write(store.logFile("k"), "log")
            store.remove("k")
            #expect(TextFile.names(in: store.folder).isEmpty)
            // The file is another one now: it is claimed anew, and by one at a time.
            let second = try #require(try store.claim("k"))
            #expect(try store.claim("k") == nil)
            close(claim)
            #expect(try store.claim("k") == nil)
            close(second)
        }
    }

    @Test("a command that detaches is seen by others as long as it is there")
    func detaching() throws {
        try withStore { store in
            #expect(!store.isDetaching("k"))
            let claim = try #require(try store.claimDetaching("k"))
            #expect(store.isDetaching("k"))
            #expect(try store.claimDetaching("k") == nil)
            store.endDetaching("k", claim)
            #expect(!store.isDetaching("k"))
        }
    }

    @Test("what was lost is remembered, whatever has become of its process, until it is given up")
    func loss() throws {
        try withStore { store in
            var ended = try #require(ProcessIdentity.current)
            ended.startTicks += 1
            var record = Self.record("db@h_7480", process: ended)
            record.failures = AttachmentRecord.Failures(
                since: 1, count: 3, lost: 0, reason: "read was answered X")
            #expect(record.loss == nil)
            record.failures?.lost = 2
            try store.write(record)
            let attachment = try Attachments.find("volume/db", in: store)
            #expect(attachment.lostRequests == 2)
            for _ in 0..<2 {
                let error = #expect(throws: AttachError.self) {
                    try Attachments.detach(attachment, isForced: false, in: store)
                }
                #expect(error?.message.contains("sluice detach --force volume/db") == true)
            }
            #expect(store.records() == [record])
            try Attachments.detach(attachment, isForced: true, in: store)
            #expect(store.records().isEmpty)
            // Older versions did not tell reads from writes.
            record.failures?.lost = nil
            #expect(record.loss != nil)
        }
    }

    @Test("what is being attached is shown with its reason as long as its process is there")
    func attaching() throws {
        try withStore { store in
            var process = try #require(ProcessIdentity.current)
            var record = AttachingRecord(
                key: "db@h_7480", volume: "db", server: "https://h:7480", isReadOnly: false, channels: 1,
                detachesOnUnmount: false, process: process, since: 5, reason: "the server")
            try store.write(record)
            let attachment = try Attachments.find("volume/db", in: store)
            #expect(attachment.isAttaching && attachment.pid == getpid() && attachment.device.isEmpty)
            #expect(attachment.message?.contains("it waits: the server") == true)
            // It has its device.
            try store.write(Self.record("db@h_7480", process: process))
            #expect(Attachments.list(store).map(\.state) == ["stale"])
            store.remove("db@h_7480")
            #expect(TextFile.names(in: store.folder).isEmpty)
            process.startTicks += 1
            record.process = process
            try store.write(record)
            #expect(Attachments.list(store).isEmpty)
        }
    }

    @Test("a mount in another namespace is not to be unmounted from this one")
    func mountElsewhere() {
        var use = DeviceUse()
        use.mountsElsewhere = [MountElsewhere(folder: "/mnt/x", process: "12", name: "sleep")]
        #expect(!use.mayPass && !use.isNone)
        let text = use.refusal(of: "/dev/loop3").message
        #expect(text.contains("nsenter -t 12 -m umount /mnt/x") && !text.contains("sluice umount"))
    }

    @Test("what an ended process left is shown as stale, and detaching clears it")
    func stale() throws {
        try withStore { store in
            var ended = try #require(ProcessIdentity.current)
            ended.startTicks += 1
            try store.write(Self.record("db@h_7480", process: ended))
            let attachment = try Attachments.find("volume/db", in: store)
            #expect(attachment.state == "stale")
            try Attachments.detach(attachment, isForced: false, in: store)
            #expect(store.records().isEmpty)
            #expect(throws: AttachError.self) {
                try Attachments.detach(attachment, isForced: false, in: store)
            }
        }
    }
}
