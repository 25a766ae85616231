import Core
import DriverKit
import Glibc
import Reactor
import Synchronization
import TestSupport
import Testing

@testable import Drivers

@Suite("What outlives a driver's process", .serialized, .blocking)
struct KeptStateTests {
    private static let id = Identifier.test(1)
    private static let needsRoot: Comment = "needs root and mount(2)"

    // MARK: Files

    @Test("the folder's lock is taken over, and nobody else gets it meanwhile")
    func lock() throws {
        let folder = try TestFolder()
        let store = HeldDescriptors()
        let environment = DriverEnvironment(settings: [:], folder: folder.path, store: store)
        var first: FileDriver? = try FileDriver(environment)
        try first?.createVolume(Self.id, size: 1 << 20)
        var second: FileDriver? = try FileDriver(environment)
        #expect(try second?.volumes() == [Self.id: 1 << 20])
        func stranger() throws { _ = try FileDriver(DriverEnvironment(settings: [:], folder: folder.path)) }
        #expect(throws: StatusError.self) { try stranger() }
        first = nil
        #expect(throws: StatusError.self) { try stranger() }
        _ = second
        second = nil
        // Between two processes of the pool, too.
        #expect(throws: StatusError.self) { try stranger() }
        store.forget("lock")
        // A child that another test starts has every descriptor from fork to exec.
        let deadline = SystemClock().now() + 20_000_000_000
        while (try? stranger()) == nil {
            try #require(SystemClock().now() < deadline, "the lock is still held")
        }
    }

    @Test("the folder is used by descriptor: it works where its path does not lead")
    func pathIsGone() throws {
        let parent = try TestFolder()
        let rig = try DriverRig(
            FileDriver(DriverEnvironment(settings: [:], folder: parent.path + "/pool")))
        #expect(unsafe rename(parent.path + "/pool", parent.path + "/moved") == 0)
        try rig.driver.createVolume(Self.id, size: 1 << 20)
        try rig.open(Self.id, index: 0)
        #expect(try rig.write([UInt8](repeating: 3, count: 4096), at: 0) == .ok)
        #expect(try rig.driver.volumes() == [Self.id: 1 << 20])
        #expect(try rig.driver.capacity().total > 0)
        try rig.driver.deleteVolume(Self.id)
        try rig.stop()
    }

    @Test("a witness is kept for each open volume, and not longer")
    func witness() throws {
        let folder = try TestFolder()
        let store = HeldDescriptors()
        let driver = try FileDriver(DriverEnvironment(settings: [:], folder: folder.path, store: store))
        try driver.createVolume(Self.id, size: 1 << 20)
        #expect(store.names == ["lock"])
        _ = try driver.openVolume(Self.id, index: 7)
        #expect(store.names == ["lock", "witness/7"])
        driver.closeVolume(7)
        #expect(store.names == ["lock"])
    }

    @Test(
        "a witness tells of a lost write-back that the driver's process had heard of and taken with it",
        .enabled(if: TestFileSystem.isAllowed, needsRoot))
    func lostWriteBack() throws {
        // The device promises 64 MiB and has 16: what the page cache took cannot all be written.
        let small = try TestFileSystem.tmpfs(bytes: 16 << 20)
        let device = try TestFileSystem.loop(bytes: 64 << 20, in: small.path)
        let mounted = try TestFileSystem.ext4(on: device)
        let store = HeldDescriptors()
        do {
            let rig = try DriverRig(
                FileDriver(
                    DriverEnvironment(
                        settings: ["direct": "false"], folder: mounted.path + "/pool", store: store)))
            try rig.driver.createVolume(Self.id, size: 48 << 20)
            try rig.open(Self.id, index: 0)
            let early = try store.require("witness/0")
            #expect(BlockDevices.takeWriteBackError(fd: early.raw) == nil)
            for place in 0..<40 as Range<UInt64> {
                #expect(try rig.write([UInt8](repeating: 5, count: 1 << 20), at: place << 20) == .ok)
            }
            #expect(try rig.range(.flush) != .ok)
            try rig.stop()
        }
        let witness = try store.require("witness/0")
        // A new open file hears of nothing: someone has been told already.
        let late = FileDescriptor(
            owning: unsafe open(mounted.path + "/pool/" + Self.id.hex, O_RDONLY))
        #expect(BlockDevices.takeWriteBackError(fd: late.raw) == nil)
        let told = BlockDevices.takeWriteBackError(fd: witness.raw)
        #expect(told == EIO || told == ENOSPC)
        #expect(BlockDevices.takeWriteBackError(fd: witness.raw) == nil)
        store.forget("witness/0")
        store.forget("lock")
        _ = mounted.path + device.path + small.path
    }

    @Test("a device is taken over too", .enabled(if: TestFileSystem.isAllowed, needsRoot))
    func device() throws {
        let device = try TestFileSystem.loop(bytes: 16 << 20, in: "/tmp")
        let folder = try TestFolder()
        let store = HeldDescriptors()
        let environment = DriverEnvironment(
            settings: ["path": device.path], folder: folder.path, store: store)
        let bytes = SeededBytes.make(1 << 20, seed: 4)
        do {
            let rig = try DriverRig(FileDriver(environment))
            try rig.driver.createVolume(Self.id, size: 16 << 20)
            while try rig.driver.prepareVolume(Self.id, to: 16 << 20) > 0 {}
            try rig.open(Self.id, index: 0)
            #expect(store.names == ["device", "lock", "witness/0"])
            #expect(try rig.write(bytes, at: 0, flags: .fua) == .ok)
            let next = try DriverRig(FileDriver(environment))
            try next.open(Self.id, index: 0)
            #expect(areEqual(try next.read(1 << 20, at: 0), bytes))
            try next.stop()
            try rig.stop()
        }
        // Nobody has the device open but the store.
        #expect(throws: StatusError.self) {
            let other = try TestFolder()
            _ = try FileDriver(DriverEnvironment(settings: ["path": device.path], folder: other.path))
        }
        for name in store.names { store.forget(name) }
        _ = device.path
    }

    // MARK: Memory

    private func memory(_ store: HeldDescriptors) throws -> MemoryDriver {
        try MemoryDriver(DriverEnvironment(settings: ["size": "64MiB"], folder: "", store: store))
    }

    @Test("memory volumes are there again: sizes, bytes, holes and how full the pool is")
    func memoryVolumes() throws {
        let store = HeldDescriptors()
        let bytes = SeededBytes.make(1 << 20, seed: 5)
        do {
            let rig = try DriverRig(memory(store))
            try rig.driver.createVolume(Self.id, size: 5 << 20)
            try rig.driver.createVolume(.test(2), size: 1 << 30)
            try rig.open(Self.id, index: 0)
            #expect(try rig.write(bytes, at: 3 << 20) == .ok)
            try rig.driver.resizeVolume(Self.id, to: 5 << 20 | 4096)
            try rig.driver.resizeVolume(Self.id, to: 20 << 20)
            try rig.changed(0)
            #expect(try rig.write(bytes, at: 19 << 20) == .ok)
            #expect(try rig.write(bytes, at: 10 << 20) == .ok)
            #expect(try rig.range(.discard, at: 10 << 20, 2 << 20) == .ok)
            #expect(try rig.driver.capacity().used == 4 << 20)
            try rig.stop()
        }
        let next = try DriverRig(memory(store))
        #expect(try next.driver.volumes() == [Self.id: 20 << 20, .test(2): 1 << 30])
        #expect(try next.driver.capacity().used == 4 << 20)
        try next.open(Self.id, index: 0)
        #expect(areEqual(try next.read(1 << 20, at: 3 << 20), bytes))
        #expect(areEqual(try next.read(1 << 20, at: 19 << 20), bytes))
        #expect(areAll(try next.read(1 << 20, at: 10 << 20), 0))
        #expect(areAll(try next.read(1 << 20, at: 2 << 20), 0))
        try next.close(0)
        try next.driver.deleteVolume(Self.id)
        #expect(store.names.allSatisfy { !$0.contains(Self.id.hex) })
        #expect(try memory(store).volumes() == [.test(2): 1 << 30])
        try next.stop()
    }

    @Test("two processes of a pool see one memory while one takes over from the other")
    func takeOver() throws {
        let store = HeldDescriptors()
        let old = try DriverRig(memory(store))
        try old.driver.createVolume(Self.id, size: 8 << 20)
        try old.open(Self.id, index: 0)
        let new = try DriverRig(memory(store))
        // The old one goes on for a while.
        #expect(try old.write([UInt8](repeating: 8, count: 4096), at: 4 << 20) == .ok)
        try new.open(Self.id, index: 0)
        #expect(areAll(try new.read(4096, at: 4 << 20), 8))
        #expect(try new.driver.capacity().used == 2 << 20)
        #expect(try new.range(.discard, at: 4 << 20, 2 << 20) == .ok)
        #expect(try new.driver.capacity().used == 0)
        #expect(areAll(try old.read(4096, at: 4 << 20), 0))
        try old.stop()
        try new.stop()
    }

    @Test("what a process that died was at is finished: its writers are gone, its holes are holes")
    func unfinished() throws {
        let store = HeldDescriptors()
        do {
            let driver = try memory(store)
            let rig = try DriverRig(driver)
            try driver.createVolume(Self.id, size: 8 << 20)
            try rig.open(Self.id, index: 0)
            for place in 0..<3 as Range<UInt64> {
                #expect(try rig.write([UInt8](repeating: 9, count: 4096), at: place * (2 << 20)) == .ok)
            }
            let segment = try #require(driver.openVolume(UInt32(0))?.segments.first)
            // Three writers in the first chunk; the second was being given back.
            for _ in 0..<3 { #expect(segment.beginWrite(0)) }
            unsafe segment.words[1].store(.max, ordering: .relaxed)
            try rig.stop()
        }
        let rig = try DriverRig(memory(store))
        try rig.open(Self.id, index: 0)
        #expect(try rig.driver.capacity().used == 4 << 20)
        #expect(areAll(try rig.read(4096, at: 0), 9))
        #expect(areAll(try rig.read(4096, at: 2 << 20), 0))
        #expect(areAll(try rig.read(4096, at: 4 << 20), 9))
        // Only a chunk without writers can be given back.
        #expect(try rig.range(.discard, at: 0, 2 << 20) == .ok)
        #expect(try rig.driver.capacity().used == 2 << 20)
        #expect(try rig.write([UInt8](repeating: 1, count: 4096), at: 2 << 20) == .ok)
        #expect(areAll(try rig.read(4096, at: 2 << 20), 1))
        try rig.stop()
    }

    @Test("a volume whose deletion was cut short is gone; one whose memory is damaged is not made up")
    func damaged() throws {
        let store = HeldDescriptors()
        let driver = try memory(store)
        try driver.createVolume(Self.id, size: 2 << 20)
        try driver.resizeVolume(Self.id, to: 8 << 20)
        try driver.createVolume(.test(2), size: 2 << 20)
        #expect(store.names.filter { $0.contains(Self.id.hex) }.count == 2)
        store.forget("memory/\(Self.id.hex)/0")
        #expect(try memory(store).volumes() == [.test(2): 2 << 20])
        #expect(store.names.filter { $0.contains(Self.id.hex) }.isEmpty)
        let memory = try store.require("memory/\(Identifier.test(2).hex)/0")
        var size: UInt64 = 1 << 40
        #expect(unsafe pwrite(memory.raw, &size, 8, 16) == 8)
        let error = try #require(throws: StatusError.self) { _ = try self.memory(store) }
        #expect(error.status == .driverFailed && error.message.contains("damaged"))
    }
}
