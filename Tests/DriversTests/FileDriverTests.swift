import Core
import DriverKit
import Glibc
import Reactor
import TestSupport
import Testing

@testable import Drivers

@Suite("The file driver", .serialized, .blocking)
struct FileDriverTests {
    private static let id = Identifier.test(1)
    private static let needsRoot: Comment = "needs root and mount(2)"

    @Test("a folder serves one server at a time")
    func lock() throws {
        let folder = try TestFolder()
        var first: FileDriver? = try FileDriver(DriverEnvironment(settings: [:], folder: folder.path))
        let error = try #require(throws: StatusError.self) {
            _ = try FileDriver(DriverEnvironment(settings: [:], folder: folder.path))
        }
        #expect(error.status == .busy && error.message.contains("another pool"))
        _ = first
        first = nil
        _ = try FileDriver(DriverEnvironment(settings: [:], folder: folder.path))
    }

    @Test(
        "settings that are not known or not valid are refused by name",
        arguments: [
            (["size": "1GiB"], "size"), (["direct": "yes"], "direct"), (["path": "/dev/null"], "/dev/null"),
            (["path": "/no/such"], "/no/such"),
        ])
    func settings(settings: [String: String], word: String) throws {
        let folder = try TestFolder()
        let error = try #require(throws: StatusError.self) {
            _ = try FileDriver(DriverEnvironment(settings: settings, folder: folder.path))
        }
        #expect(error.message.contains(word))
        let memory = try #require(throws: StatusError.self) {
            _ = try MemoryDriver(DriverEnvironment(settings: ["size": "0"], folder: folder.path))
        }
        #expect(memory.status == .badRequest)
    }

    @Test("volumes outlive the driver; unfinished ones and strangers' files are not volumes")
    func restart() throws {
        let folder = try TestFolder()
        do {
            let driver = try FileDriver(DriverEnvironment(settings: [:], folder: folder.path))
            try driver.createVolume(Self.id, size: 1 << 20)
        }
        for name in [
            Identifier.test(2).hex + ".new", "README", "abc", Identifier.test(0xAB).hex.uppercased(),
        ] {
            try TestFileSystem.run(["/usr/bin/touch", folder.path + "/" + name])
        }
        let driver = try FileDriver(DriverEnvironment(settings: [:], folder: folder.path))
        #expect(try driver.volumes() == [Self.id: 1 << 20])
        #expect(unsafe access(folder.path + "/" + Identifier.test(2).hex + ".new", F_OK) != 0)
        #expect(unsafe access(folder.path + "/README", F_OK) == 0)
    }

    @Test("a link in the place of a volume is not followed")
    func links() throws {
        let folder = try TestFolder()
        let driver = try FileDriver(DriverEnvironment(settings: [:], folder: folder.path))
        try TestFileSystem.run(["/bin/ln", "-s", "/etc/passwd", folder.path + "/" + Self.id.hex])
        #expect(throws: StatusError.self) { _ = try driver.openVolume(Self.id, index: 0) }
    }

    @Test(
        "what somebody put in a volume's place is skipped, told, and not opened",
        arguments: ["mkfifo", "mkdir", "ln -s /etc/passwd", "ln README", "mknod"])
    func strangers(kind: String) throws {
        let folder = try TestFolder()
        let place = folder.path + "/"
        try TestFileSystem.run(["/usr/bin/touch", place + "README"])
        let commands: (String) -> [String] = { name in
            switch kind {
            case "mkdir": ["/bin/mkdir", place + name]
            case "ln -s /etc/passwd": ["/bin/ln", "-s", "/etc/passwd", place + name]
            case "ln README": ["/bin/ln", place + "README", place + name]
            case "mknod": ["/bin/mknod", place + name, "c", "1", "3"]
            default: ["/usr/bin/mkfifo", place + name]
            }
        }
        for name in [Self.id.hex, "z.new", "probe.new", "device-volume"] {
            try TestFileSystem.run(commands(name))
        }
        let driver = try FileDriver(DriverEnvironment(settings: [:], folder: folder.path))
        #expect(driver.notes.contains { $0.contains(Self.id.hex) }, "\(driver.notes)")
        try driver.createVolume(.test(2), size: 1 << 20)
        #expect(try driver.volumes() == [.test(2): 1 << 20])
        #expect(try driver.usage().keys.elementsEqual([.test(2)]))
        _ = try driver.capacity()
        #expect(throws: StatusError.self) { _ = try driver.openVolume(Self.id, index: 0) }
        #expect(throws: StatusError.self) { try driver.createVolume(Self.id, size: 4096) }
        _ = try driver.openVolume(.test(2), index: 0)
        #expect(try PoolFolder(place + "other", store: NoDescriptorStore()).words("nothing") == nil)
    }

    @Test(
        "a pool on a device does not open a FIFO in its record's place",
        .enabled(if: TestFileSystem.isAllowed, needsRoot))
    func strangeRecord() throws {
        let device = try TestFileSystem.loop(bytes: 4 << 20, in: "/tmp")
        let folder = try TestFolder()
        try TestFileSystem.run(["/usr/bin/mkfifo", folder.path + "/device-volume"])
        let driver = try FileDriver(DriverEnvironment(settings: ["path": device.path], folder: folder.path))
        let error = #expect(throws: StatusError.self) { _ = try driver.volumes() }
        #expect(error?.message.contains("device-volume") == true)
        _ = device.path
    }

    @Test("a pool works in a folder of the operator's choice, and in no other that takes its place")
    func chosenFolder() throws {
        let (own, chosen) = (try TestFolder(), try TestFolder())
        func open(_ folder: String) throws -> FileDriver {
            try FileDriver(DriverEnvironment(settings: ["path": chosen.path], folder: folder))
        }
        try TestFileSystem.run(["/usr/bin/touch", chosen.path + "/somebody-elses"])
        do {
            let driver = try open(own.path)
            try driver.createVolume(Self.id, size: 1 << 20)
        }
        #expect(unsafe access(chosen.path + "/sluice-pool/" + Self.id.hex, F_OK) == 0)
        #expect(unsafe access(own.path + "/" + Self.id.hex, F_OK) != 0)
        #expect(try open(own.path).volumes() == [Self.id: 1 << 20])
        #expect(
            try FileDriver.needs(settings: ["path": chosen.path]).folder == chosen.path + "/sluice-pool")
        // Another pool.
        let other = try TestFolder()
        let second = #expect(throws: StatusError.self) { _ = try open(other.path) }
        #expect(second?.message.contains("another pool") == true, "\(second?.message ?? "")")
        // The file system is not mounted.
        try TestFileSystem.run(["/bin/mv", chosen.path + "/sluice-pool", chosen.path + "/away"])
        let missing = #expect(throws: StatusError.self) { _ = try open(own.path) }
        #expect(missing?.message.contains("mounted") == true, "\(missing?.message ?? "")")
        #expect(unsafe access(chosen.path + "/sluice-pool", F_OK) != 0)
        try TestFileSystem.run(["/bin/mv", chosen.path + "/away", chosen.path + "/sluice-pool"])
        do {
            let driver = try open(own.path)
            #expect(try driver.volumes() == [Self.id: 1 << 20])
            try driver.deleteVolume(Self.id)
        }
        // Without volumes it is the next one's who wants it, and not the first one's any more.
        _ = try open(other.path)
        let late = #expect(throws: StatusError.self) { _ = try open(own.path) }
        #expect(late?.message.contains("another") == true, "\(late?.message ?? "")")
    }

    @Test("the margin is a sixty-fourth within 17 and 256 MiB, and less of a small file system")
    func sizeOfTheMargin() {
        let mebibyte: UInt64 = 1 << 20
        let sizes = [16, 256, 1 << 10, 8 << 10, 16 << 10, 1 << 20] as [UInt64]
        let margins = sizes.map { PoolFolder.margin(total: $0 * mebibyte) / mebibyte }
        #expect(margins == [2, 17, 17, 128, 256, 256])
    }

    @Test(
        "a pool leaves a margin of its file system, and writes over what it has all the same",
        .enabled(if: TestFileSystem.isAllowed, needsRoot))
    func margin() throws {
        let mounted = try TestFileSystem.tmpfs(bytes: 24 << 20)
        let rig = try DriverRig(FileDriver(DriverEnvironment(settings: [:], folder: mounted.path + "/pool")))
        try rig.driver.createVolume(Self.id, size: 1 << 30)
        try rig.open(Self.id, index: 0)
        var place: UInt64 = 0
        while try rig.write([UInt8](repeating: 1, count: 64 << 10), at: place) == .ok { place += 64 << 10 }
        #expect(try rig.driver.capacity().free == 0)
        var space = statvfs()
        #expect(unsafe statvfs(mounted.path, &space) == 0)
        #expect(UInt64(space.f_bavail) * UInt64(space.f_frsize) > 512 << 10)
        #expect(place > 20 << 20)
        #expect(try rig.write([UInt8](repeating: 2, count: 64 << 10), at: 0) == .ok)
        #expect(try rig.write([UInt8](repeating: 2, count: 64 << 10), at: place) == .noSpace)
        #expect(try rig.range(.writeZeroes, at: 1 << 29, 64 << 10, flags: .noUnmap) == .noSpace)
        // While the kernel changes where the file has its space nobody asks it, which would keep the pool waiting: what may
        // have its space is written, and what could take much is not.
        let volume = try #require((rig.driver as? FileDriver)?.openVolume(0))
        volume.mapChangeBegan()
        #expect(try rig.write([UInt8](repeating: 2, count: 4 << 10), at: place) == .ok)
        #expect(try rig.range(.writeZeroes, at: 1 << 29, 64 << 10, flags: .noUnmap) == .noSpace)
        volume.mapChangeEnded()
        #expect(try rig.write([UInt8](repeating: 2, count: 4 << 10), at: place + (64 << 10)) == .noSpace)
        #expect(try rig.range(.discard, at: 0, 4 << 20) == .ok)
        // One request that is larger than what is left takes no more of the margin than a small one.
        #expect(try rig.range(.writeZeroes, at: 1 << 29, 16 << 20, flags: .noUnmap) == .noSpace)
        #expect(unsafe statvfs(mounted.path, &space) == 0)
        #expect(UInt64(space.f_bavail) * UInt64(space.f_frsize) > 512 << 10)
        #expect(try rig.range(.discard, at: 1 << 29, 16 << 20) == .ok)
        #expect(try rig.write([UInt8](repeating: 2, count: 64 << 10), at: place) == .ok)
        #expect(try rig.driver.usage()[Self.id].map { $0 < place } == true)
        // It can be started, and deleted from, with nothing left at all.
        try TestFileSystem.run(["/bin/sh", "-c", "cat /dev/zero > \(mounted.path)/rest; true"])
        try rig.stop()
        let again = try FileDriver(DriverEnvironment(settings: [:], folder: mounted.path + "/pool2"))
        #expect(try again.capacity().free == 0)
        _ = mounted.path
    }

    @Test("a file that was cut short fails its reads and never makes data up")
    func truncated() throws {
        let folder = try TestFolder()
        let rig = try DriverRig(FileDriver(DriverEnvironment(settings: [:], folder: folder.path)))
        try rig.driver.createVolume(Self.id, size: 1 << 20)
        try rig.open(Self.id, index: 0)
        #expect(unsafe truncate(folder.path + "/" + Self.id.hex, 4096) == 0)
        #expect(try rig.read(4096, at: 0) == [UInt8](repeating: 0, count: 4096))
        let request = DriverRequest(opcode: .read, index: 0, tag: 0, offset: 0, length: 8192, buffer: 0)
        #expect(try rig.status(request) == .mediumError)
        try rig.stop()
    }

    @Test("unaligned requests are refused on a direct volume with its own block size")
    func blockSize() throws {
        let folder = try TestFolder()
        let rig = try DriverRig(FileDriver(DriverEnvironment(settings: [:], folder: folder.path)))
        try rig.driver.createVolume(Self.id, size: 1 << 20)
        let geometry = try rig.open(Self.id, index: 0)
        #expect([512, 1024, 2048, 4096].contains(geometry.blockSize))
        let half = UInt64(geometry.blockSize / 2)
        #expect(try rig.range(.read, at: half, half * 2) == .unaligned)
        #expect(try rig.range(.read, at: 0, half) == .unaligned)
        try rig.stop()
    }

    @Test(
        "a full file system answers NO_SPACE, keeps what it has, and goes on when space is made",
        .enabled(if: TestFileSystem.isAllowed, needsRoot), arguments: [true, false])
    func full(direct: Bool) throws {
        let device = try TestFileSystem.loop(bytes: 24 << 20, in: "/tmp")
        let mounted = try TestFileSystem.ext4(on: device)
        do {
            let pool = mounted.path + "/pool"
            let rig = try DriverRig(
                FileDriver(DriverEnvironment(settings: ["direct": direct ? "true" : "false"], folder: pool)))
            try rig.driver.createVolume(Self.id, size: 1 << 30)
            try rig.open(Self.id, index: 0)
            var written: UInt64 = 0
            var last: Status?
            while written < 64 {
                last = try rig.write(
                    [UInt8](repeating: UInt8(written + 1), count: 1 << 20), at: written << 20)
                if last == .ok { last = try rig.range(.flush) }
                if last != .ok { break }
                written += 1
            }
            #expect(last == .noSpace)
            #expect(written > 8)
            for place in 0..<written {
                #expect(areAll(try rig.read(1 << 20, at: place << 20), UInt8(place + 1)))
            }
            #expect(try rig.range(.discard, at: 0, 4 << 20) == .ok)
            #expect(try rig.write([UInt8](repeating: 0xAA, count: 1 << 20), at: 100 << 20) == .ok)
            #expect(areAll(try rig.read(1 << 20, at: 100 << 20), 0xAA))
            try rig.stop()
        }
        _ = mounted.path + device.path
    }

    @Test(
        "a lost write-back fails every FLUSH until the volume is opened anew",
        .enabled(if: TestFileSystem.isAllowed, needsRoot))
    func lostWriteBack() throws {
        // The device promises 64 MiB and has 16: what the page cache took cannot all be written.
        let small = try TestFileSystem.tmpfs(bytes: 16 << 20)
        let device = try TestFileSystem.loop(bytes: 64 << 20, in: small.path)
        let mounted = try TestFileSystem.ext4(on: device)
        do {
            let rig = try DriverRig(
                FileDriver(DriverEnvironment(settings: ["direct": "false"], folder: mounted.path + "/pool")))
            try rig.driver.createVolume(Self.id, size: 48 << 20)
            try rig.open(Self.id, index: 0)
            for place in 0..<40 as Range<UInt64> {
                #expect(try rig.write([UInt8](repeating: 5, count: 1 << 20), at: place << 20) == .ok)
            }
            let failure = try rig.range(.flush)
            #expect(failure != .ok)
            // The kernel has reported it and would now say that all is well.
            #expect(try rig.range(.flush) == failure)
            #expect(try rig.range(.flush) == failure)
            try rig.open(Self.id, index: 0)
            let reopened = (rig.driver as? FileDriver)?.openVolume(UInt32(0))
            #expect(reopened?.flushStatus == .ok)
            try rig.stop()
        }
        _ = mounted.path + device.path + small.path
    }

    @Test(
        "a read-only folder is refused in words, by volumes and by whole pools",
        .enabled(if: TestFileSystem.isAllowed, needsRoot))
    func readOnly() throws {
        let mounted = try TestFileSystem.tmpfs(bytes: 4 << 20)
        let driver = try FileDriver(DriverEnvironment(settings: [:], folder: mounted.path))
        try TestFileSystem.run(["/bin/mount", "-o", "remount,ro", mounted.path])
        let error = try #require(throws: StatusError.self) { try driver.createVolume(Self.id, size: 4096) }
        #expect(error.status == .readOnly && error.message.contains("remount"))
        let whole = try #require(throws: StatusError.self) {
            _ = try FileDriver(DriverEnvironment(settings: [:], folder: mounted.path + "/pool"))
        }
        #expect(whole.status == .readOnly)
    }

    @Test(
        "a device is zeroed in pieces, as far as its volume reaches, and goes on where it was",
        .enabled(if: TestFileSystem.isAllowed, needsRoot))
    func zeroing() throws {
        let device = try TestFileSystem.loop(bytes: 80 << 20, in: "/tmp")
        let folder = try TestFolder()
        let fill =
            "tr '\\0' '\\252' </dev/zero | dd of=\(device.path) bs=1M count=80 iflag=fullblock 2>/dev/null"
        try TestFileSystem.run(["/bin/sh", "-c", fill])
        let environment = DriverEnvironment(
            settings: ["path": device.path, "erase": "true"], folder: folder.path)
        let size: UInt64 = 40 << 20
        do {
            let driver = try FileDriver(environment)
            try driver.createVolume(Self.id, size: size)
            #expect(throws: StatusError.self) { try driver.openVolume(Self.id, index: 0) }
        }
        // Another process of the pool goes on.
        let rig = try DriverRig(FileDriver(environment))
        var left = try rig.driver.prepareVolume(Self.id, to: size)
        while left > 0 { left = try rig.driver.prepareVolume(Self.id, to: size) }
        try rig.open(Self.id, index: 0)
        for place in 0..<40 as Range<UInt64> { #expect(areAll(try rig.read(1 << 20, at: place << 20), 0)) }
        #expect(try rig.write([UInt8](repeating: 1, count: 4096), at: 0) == .ok)
        #expect(try rig.driver.prepareVolume(Self.id, to: size) == 0)
        #expect(areAll(try rig.read(4096, at: 0), 1))
        // What lies beyond is zeroed when the volume grows to it.
        let beyond = try TestFileSystem.run([
            "/bin/sh", "-c", "dd if=\(device.path) bs=1M skip=40 count=1 2>/dev/null | od -An -tx1 | head -1",
        ])
        #expect(beyond.contains("aa aa aa"))
        try rig.driver.resizeVolume(Self.id, to: 80 << 20)
        try rig.changed(0)
        for place in 40..<80 as Range<UInt64> { #expect(areAll(try rig.read(1 << 20, at: place << 20), 0)) }
        try rig.stop()
        _ = device.path
    }

    @Test(
        "a device that holds data anywhere it is looked at is not taken for blank",
        .enabled(if: TestFileSystem.isAllowed, needsRoot),
        arguments: [0, 5 << 20, 10 << 20, (16 << 20) - 512])
    func notBlank(place: Int) throws {
        let device = try TestFileSystem.loop(bytes: 16 << 20, in: "/tmp")
        let folder = try TestFolder()
        let count = min(512, ((16 << 20) - place) / 512)
        try TestFileSystem.run([
            "/bin/dd", "if=/dev/urandom", "of=" + device.path, "bs=512", "seek=\(place / 512)",
            "count=\(count)",
            "status=none",
        ])
        let driver = try FileDriver(DriverEnvironment(settings: ["path": device.path], folder: folder.path))
        let error = #expect(throws: StatusError.self) { try driver.createVolume(Self.id, size: 4 << 20) }
        #expect(error?.status == .alreadyExists)
        #expect(try driver.volumes().isEmpty)
        _ = device.path
    }

    @Test(
        "a device without bytes is no device: neither its capacity nor a start says that all is well",
        .enabled(if: TestFileSystem.isAllowed, needsRoot))
    func deviceGone() throws {
        let device = try TestFileSystem.loop(bytes: 4 << 20, in: "/tmp")
        let folder = try TestFolder()
        let environment = DriverEnvironment(settings: ["path": device.path], folder: folder.path)
        let driver = try FileDriver(environment)
        #expect(try driver.capacity().total == 4 << 20)
        // The loop device stays open, and has lost what it was bound to.
        let truncated = try TestFileSystem.run([
            "/sbin/losetup", "--noheadings", "-O", "BACK-FILE", device.path,
        ])
        #expect(unsafe truncate(truncated, 0) == 0)
        try TestFileSystem.run(["/sbin/losetup", "-c", device.path])
        let error = #expect(throws: StatusError.self) { _ = try driver.capacity() }
        #expect(error?.status == .driverFailed && error?.message.contains(device.path) == true)
        #expect(throws: StatusError.self) { _ = try FileDriver(environment) }
        _ = device.path
    }

    @Test("a block device holds one volume, and keeps it", .enabled(if: TestFileSystem.isAllowed, needsRoot))
    func blockDevice() throws {
        let device = try TestFileSystem.loop(bytes: 16 << 20, in: "/tmp")
        let folder = try TestFolder()
        let bytes = SeededBytes.make(1 << 20, seed: 9)
        do {
            let rig = try DriverRig(
                FileDriver(DriverEnvironment(settings: ["path": device.path], folder: folder.path)))
            #expect(throws: StatusError.self) { try rig.driver.createVolume(Self.id, size: 32 << 20) }
            try rig.driver.createVolume(Self.id, size: 8 << 20)
            try rig.driver.createVolume(Self.id, size: 8 << 20)
            let second = #expect(throws: StatusError.self) {
                try rig.driver.createVolume(.test(2), size: 4096)
            }
            #expect(second?.status == .notSupported && second?.message.contains("holds one") == true)
            let early = #expect(throws: StatusError.self) { try rig.open(Self.id, index: 0) }
            #expect(early?.status == .busy, "it is not zeroed yet")
            while try rig.driver.prepareVolume(Self.id, to: 8 << 20) > 0 {}
            while try rig.driver.prepareVolume(Self.id, to: 16 << 20) > 0 {}
            try rig.driver.resizeVolume(Self.id, to: 16 << 20)
            let geometry = try rig.open(Self.id, index: 0)
            #expect(geometry.size == 16 << 20)
            #expect(try rig.write(bytes, at: 1 << 20, flags: .fua) == .ok)
            #expect(try rig.range(.discard, at: 0, 1 << 20) == .ok)
            #expect(try rig.range(.writeZeroes, at: 2 << 20, 1 << 20, flags: .noUnmap) == .ok)
            #expect(try rig.range(.flush) == .ok)
            #expect(areAll(try rig.read(1 << 20, at: 2 << 20), 0))
            try rig.stop()
        }
        let rig = try DriverRig(
            FileDriver(DriverEnvironment(settings: ["path": device.path], folder: folder.path)))
        #expect(try rig.driver.volumes() == [Self.id: 16 << 20])
        try rig.open(Self.id, index: 0)
        #expect(areEqual(try rig.read(1 << 20, at: 1 << 20), bytes))
        // Data at the start is not overwritten by a new volume unless the settings say so.
        #expect(try rig.write(bytes, at: 0) == .ok)
        try rig.close(0)
        try rig.driver.deleteVolume(Self.id)
        #expect(try rig.driver.volumes().isEmpty)
        let error = try #require(throws: StatusError.self) {
            try rig.driver.createVolume(.test(2), size: 4096)
        }
        #expect(error.message.contains("erase=true"))
        try rig.stop()
        _ = device.path
    }
}

@Suite("The memory driver")
struct MemoryDriverTests {
    @Test("a full pool answers NO_SPACE, keeps what it has, and goes on when space is made")
    func full() throws {
        let rig = try DriverRig(MemoryDriver(DriverEnvironment(settings: ["size": "8MiB"], folder: "")))
        try rig.driver.createVolume(.test(1), size: 1 << 30)
        try rig.driver.createVolume(.test(2), size: 1 << 30)
        try rig.open(.test(1), index: 0)
        try rig.open(.test(2), index: 1)
        for place in 0..<3 as Range<UInt64> {
            #expect(try rig.write([UInt8](repeating: 1, count: 4096), at: place * (2 << 20)) == .ok)
        }
        #expect(try rig.write([UInt8](repeating: 2, count: 4096), at: 0, volume: 1) == .ok)
        #expect(try rig.write([UInt8](repeating: 2, count: 4096), at: 2 << 20, volume: 1) == .noSpace)
        #expect(try rig.range(.writeZeroes, at: 2 << 20, 4096, volume: 1) == .ok)
        #expect(try rig.range(.writeZeroes, at: 2 << 20, 4096, volume: 1, flags: .noUnmap) == .noSpace)
        #expect(try rig.driver.capacity() == PoolCapacity(total: 8 << 20, used: 8 << 20, free: 0))
        #expect(areAll(try rig.read(4096, at: 0), 1))
        #expect(try rig.range(.discard, at: 0, 2 << 20) == .ok)
        #expect(areAll(try rig.read(4096, at: 0), 0))
        #expect(try rig.write([UInt8](repeating: 2, count: 4096), at: 2 << 20, volume: 1) == .ok)
        try rig.close(1)
        try rig.driver.deleteVolume(.test(2))
        #expect(try rig.driver.capacity().used == 4 << 20)
        try rig.stop()
    }

    @Test("a volume larger than an address space is refused")
    func tooLarge() throws {
        let driver = try MemoryDriver(DriverEnvironment(settings: [:], folder: ""))
        let error = try #require(throws: StatusError.self) {
            try driver.createVolume(.test(1), size: 1 << 60)
        }
        #expect(error.status == .tooLarge)
    }
}
