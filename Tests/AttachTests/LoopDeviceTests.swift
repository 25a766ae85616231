import CFUSE
import Core
import Glibc
import SluiceClient
import TestSupport
import Testing

@testable import Attach

/// Loop devices among others' loop devices; needs root, /dev/fuse and /dev/loop-control. Only devices that the tests made
/// are touched.
@Suite(.enabled(if: AttachedFile.isPossible), .serialized, .blocking)
struct LoopDeviceTests {
    static let mebibyte: UInt64 = 1 << 20

    private static func record(_ loop: LoopOwner) throws -> AttachmentRecord {
        AttachmentRecord(
            key: "db@h", volume: "db", volumeID: "00", server: "https://h:7480", device: loop.device,
            mark: loop.mark, identity: loop.identity, folder: loop.folder,
            process: try #require(ProcessIdentity.current), since: 5, size: mebibyte, blockSize: 512,
            isReadOnly: false, channels: 1, detachesOnUnmount: true, state: .attached)
    }

    @Test(
        "a device is told from the next one of its name, and nothing that holds for the one is done to the other"
    )
    func identity() throws {
        let first = try AttachedFile(size: Self.mebibyte)
        #expect(first.loop.isPresent)
        _ = try HeldDevice(try Self.record(first.loop))
        var former = first.loop
        try first.release()
        #expect(!former.isPresent)
        // The kernel says so after it has happened.
        while first.closedCount == 0 { sched_yield() }
        // What has its name now, if anything has, is not it, and is left alone.
        let second = try AttachedFile(size: Self.mebibyte)
        former.device = second.device
        former.identity?.number = try #require(second.loop.identity?.number)
        #expect(!former.isPresent)
        #expect(throws: AttachError.self) { _ = try HeldDevice(try Self.record(former)) }
        #expect(try LoopDevice.release(former) == nil)
        #expect(try LoopDevice.release(former, isForced: true) == nil)
        #expect(try LoopDevice.abandon(former) == nil)
        #expect(throws: AttachError.self) { try LoopDevice.flush(former) }
        #expect(second.loop.isPresent)
        #expect(try Device.read(second.device, count: 4096, at: 0).count == 4096)
        try second.close()
        try first.close()
    }

    @Test("partitions come with the volume, keep it while one is mounted or open, and go with it")
    func partitions() throws {
        // One DOS partition of 16 MiB, as of the first MiB.
        var label = [UInt8](repeating: 0, count: 512)
        label.replaceSubrange(446..<462, with: [0, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0x80, 0, 0])
        label.replaceSubrange(510..<512, with: [0x55, 0xAA])
        let file = try AttachedFile(size: 32 * Self.mebibyte, contents: label)
        let partition = file.device + "p1"
        #expect(DiskNumbers(path: file.device)?.partitions == [partition])
        let folder = file.folder + "/files"
        #expect(unsafe mkdir(folder, 0o700) == 0)
        #expect(try Subprocess.run(["mkfs.ext4", "-q", partition]).code == 0)
        #expect(try Subprocess.run(["mount", partition, folder]).code == 0)
        #expect(DeviceUse.of(file.device).mounts == [folder])
        for isForced in [false, true] {
            let error = #expect(throws: AttachError.self) { try file.release(isForced: isForced) }
            #expect(error?.message.contains(folder) == true, "\(error?.message ?? "")")
        }
        #expect(try Subprocess.run(["umount", folder]).code == 0)
        try file.release()
        #expect(unsafe access(partition, F_OK) != 0)
        try file.close()
    }

    @Test("who has the device open by another name is named at once, and afterwards everything is as it was")
    func otherName() throws {
        let file = try AttachedFile(size: Self.mebibyte)
        let node = file.folder + "/node"
        let number = try #require(file.loop.identity?.number.split(separator: ":").compactMap { UInt32($0) })
        #expect(unsafe mknod(node, S_IFBLK | 0o600, gnu_dev_makedev(number[0], number[1])) == 0)
        let child = try Subprocess.start(["sh", "-c", "exec sleep 300 <\(node)"], output: -1, errors: -1)
        while !DeviceUse.of(file.device).openers.contains("sleep (pid \(child))") { sched_yield() }
        let error = #expect(throws: AttachError.self) { try file.release() }
        #expect(error?.message.contains("open in sleep (pid \(child))") == true, "\(error?.message ?? "")")
        // By force it is given up, and goes with its last opener.
        let keeper = try file.release(isForced: true)
        #expect(keeper?.contains("sleep (pid \(child)) closes it") == true, "\(keeper ?? "")")
        #expect(file.loop.isPresent)
        kill(child, SIGKILL)
        _ = try Subprocess.wait(child)
        while file.loop.isPresent { sched_yield() }
        try file.close()
    }

    @Test("a device that somebody unseen has open is not left to vanish later")
    func unseen() throws {
        let file = try AttachedFile(size: Self.mebibyte)
        // A mapping keeps it open without a descriptor.
        let descriptor = unsafe open(file.device, O_RDONLY | O_CLOEXEC)
        let memory = unsafe mmap(nil, 4096, PROT_READ, MAP_SHARED, descriptor, 0)
        close(descriptor)
        let error = #expect(throws: AttachError.self) { try file.release() }
        #expect(error?.reason == .busy && error?.message.contains("does not show") == true)
        unsafe munmap(memory, 4096)
        // It was taken back: the last close has not freed it.
        #expect(file.loop.isPresent)
        #expect(try Device.read(file.device, count: 4096, at: 0).count == 4096)
        try file.close()
    }

    @Test("a free device that others hold is passed over")
    func claim() throws {
        let control = unsafe open("/dev/loop-control", O_RDWR | O_CLOEXEC)
        defer { close(control) }
        // The lowest free ones, held for this process alone. Others may take some meanwhile.
        var held: [Int32] = []
        for _ in 0..<2 {
            let number = sluice_loop_get_free(control)
            let descriptor = unsafe open("/dev/loop\(number)", O_RDWR | O_EXCL | O_CLOEXEC)
            if descriptor >= 0 { held.append(descriptor) }
        }
        let file = try AttachedFile(size: Self.mebibyte)
        #expect(try Device.read(file.device, count: 4096, at: 0).count == 4096)
        held.forEach { close($0) }
        try file.close()
    }

    @Test("a volume is blank only where everything was read as zero")
    func content() throws {
        let file = try AttachedFile(size: 16 * Self.mebibyte)
        let record = try Self.record(file.loop)
        #expect(try VolumeContent.find(on: HeldDevice(record), extents: nil) == nil)
        // What the server calls zero is not read, but where signatures are.
        let holes = [VolumeExtent(offset: 0, length: 16 * Self.mebibyte, flags: .zero)]
        let place = 5 * Self.mebibyte
        try Device.write(file.device, [UInt8](repeating: 7, count: 512), at: place)
        #expect(try VolumeContent.find(on: HeldDevice(record), extents: holes) == nil)
        let found = "data, such as at byte \(place)"
        #expect(try VolumeContent.find(on: HeldDevice(record), extents: nil) == found)
        // A part of a volume: its extents begin where the part does.
        let data = [
            VolumeExtent(offset: 1 << 30, length: 4 * Self.mebibyte, flags: .zero),
            VolumeExtent(offset: 1 << 30 + 4 * Self.mebibyte, length: 12 * Self.mebibyte, flags: .allocated),
        ]
        #expect(
            try VolumeContent.find(on: HeldDevice(record), extents: data)
                == "\(found), 12MiB allocated")
        #expect(try Subprocess.run(["mkfs.ext4", "-q", "-L", "kept", file.device]).code == 0)
        #expect(try VolumeContent.find(on: HeldDevice(record), extents: nil) == "ext4 'kept'")
        try file.close()
    }

    @Test("what cannot be read is not blank")
    func unreadable() throws {
        let file = try AttachedFile(size: 16 * Self.mebibyte)
        let record = try Self.record(file.loop)
        file.failVolume(.ioError)
        let error = #expect(throws: AttachError.self) {
            try VolumeContent.find(on: HeldDevice(record), extents: nil)
        }
        #expect(error?.message.contains("nobody knows what is on it") == true, "\(error?.message ?? "")")
        #expect(throws: AttachError.self) { try VolumeContent.checkReadable(HeldDevice(record)) }
        try file.close(isForced: true)
    }
}
