import Core
import Glibc
import TestSupport
import Testing

@testable import Attach

/// A real block device over FUSE and loop; needs root, /dev/fuse and /dev/loop-control.
@Suite(.enabled(if: AttachedFile.isPossible), .serialized, .blocking)
struct FuseVolumeTests {
    static let mebibyte: UInt64 = 1 << 20

    @Test("the kernel sends its requests by the way it was offered", arguments: FuseTransport.possible)
    func transport(_ transport: FuseTransport) throws {
        let file = try transport.prepared { try AttachedFile(size: Self.mebibyte) }
        #expect(try Device.read(file.device, count: 4096, at: 0).count == 4096)
        #expect((file.ringEntries > 0) == (transport == .ring))
        try file.close()
    }

    @Test(
        "what is written to the device is in the volume, and read back, at every size",
        arguments: FuseTransport.possible)
    func roundTrip(_ transport: FuseTransport) throws {
        let file = try transport.prepared { try AttachedFile(size: 64 * Self.mebibyte) }
        for size in [512, 4096, 65_536, 1 << 20, 3 << 20] {
            let bytes = (0..<size).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ size) }
            try Device.write(file.device, bytes, at: UInt64(size))
            #expect(try Device.read(file.device, count: size, at: UInt64(size)) == bytes)
            #expect(try Device.read(file.backing, count: size, at: UInt64(size)) == bytes)
        }
        try file.close()
    }

    @Test(
        "requests above the server's maximum are sent in pieces, and a shortage of slots only delays",
        arguments: FuseTransport.possible)
    func splitting(_ transport: FuseTransport) throws {
        let file = try transport.prepared {
            try AttachedFile(size: 32 * Self.mebibyte, maximumTransfer: 65_536, slots: 3)
        }
        let bytes = (0..<(4 << 20)).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ $0 >> 9) }
        try Device.write(file.device, bytes, at: Self.mebibyte)
        #expect(try Device.read(file.device, count: bytes.count, at: Self.mebibyte) == bytes)
        let state = file.state
        #expect(state.largest == 65_536)
        #expect(state.refusals > 0)
        try file.close()
    }

    @Test(
        "fsync, discard and zeroing of the device reach the volume as what they are",
        arguments: FuseTransport.possible)
    func operations(_ transport: FuseTransport) throws {
        let file = try transport.prepared { try AttachedFile(size: 16 * Self.mebibyte) }
        let bytes = [UInt8](repeating: 7, count: 2 << 20)
        try Device.write(file.device, bytes, at: 0)
        let flushes = file.state.requests[.flush] ?? 0
        try Device.sync(file.device)
        #expect(file.state.requests[.flush, default: 0] > flushes)
        #expect(try Subprocess.run(["blkdiscard", "-f", "-o", "0", "-l", "1048576", file.device]).code == 0)
        #expect(file.state.requests[.discard] == 1)
        #expect(
            try Subprocess.run(["blkdiscard", "-f", "-z", "-o", "1048576", "-l", "524288", file.device]).code
                == 0)
        #expect(file.state.requests[.writeZeroes] == 1)
        #expect(
            try Device.read(file.device, count: 2 << 20, at: 0) == [UInt8](repeating: 0, count: 3 << 19)
                + [UInt8](repeating: 7, count: 1 << 19))
        try file.close()
    }

    @Test(
        "a volume that can give no space back says so, and the kernel zeroes by itself what must read as zero",
        arguments: FuseTransport.possible)
    func noDiscard(_ transport: FuseTransport) throws {
        let file = try transport.prepared { try AttachedFile(size: 16 * Self.mebibyte) }
        file.lackDiscard()
        let old = [UInt8](repeating: 7, count: 1 << 20)
        try Device.write(file.device, old, at: 0)
        try Device.sync(file.device)
        let device = file.device
        #expect(try Subprocess.run(["fallocate", "-p", "-o", "0", "-l", "65536", device]).code != 0)
        #expect(try Device.read(device, count: 1 << 20, at: 0) == old)
        // The kernel falls back to writing zeroes.
        #expect(try Subprocess.run(["blkdiscard", "-f", "-z", "-o", "0", "-l", "65536", device]).code == 0)
        let half = [UInt8](repeating: 0, count: 65536) + [UInt8](repeating: 7, count: (1 << 20) - 65536)
        #expect(try Device.read(device, count: 1 << 20, at: 0) == half)
        // ext4 asks for zeroed inode tables, which may be unmapped.
        let fill = [UInt8](repeating: 0xAA, count: 1 << 20)
        for place in 0..<16 as Range<UInt64> { try Device.write(device, fill, at: place << 20) }
        let make = [
            "mkfs.ext4", "-q", "-F", "-b", "4096", "-N", "2048", "-O", "^has_journal", "-E",
            "nodiscard,lazy_itable_init=0", device,
        ]
        #expect(try Subprocess.run(make).code == 0)
        #expect(try Subprocess.run(["e2fsck", "-fn", device]).code == 0)
        #expect(file.failures.isEmpty)
        try file.close()
    }

    @Test(
        "writes for which there is no space wait, reads go on, and all is written when there is some",
        arguments: FuseTransport.possible)
    func noSpaceYet(_ transport: FuseTransport) throws {
        let file = try transport.prepared { try AttachedFile(size: 16 * Self.mebibyte, slots: 4) }
        let old = [UInt8](repeating: 7, count: 1 << 20)
        try Device.write(file.device, old, at: 8 << 20)
        file.fill(true)
        let output = try Subprocess.pipe()
        let script =
            "tr '\\0' '\\005' </dev/zero | dd of=\(file.device) bs=1M count=4 iflag=fullblock oflag=direct"
        let writer = try Subprocess.start(["sh", "-c", script], output: output.write, errors: -1)
        close(output.write)
        for _ in 0..<3 { #expect(file.waitWasTold()) }
        #expect(file.waits.contains { $0 > 0 })
        #expect(try Device.read(file.device, count: 1 << 20, at: 8 << 20) == old)
        #expect(try Device.read(file.device, count: 4096, at: 0) == [UInt8](repeating: 0, count: 4096))
        file.fill(false)
        #expect(try Subprocess.wait(writer) == 0)
        close(output.read)
        #expect(file.waits.last == 0)
        #expect(try Device.read(file.device, count: 4 << 20, at: 0) == [UInt8](repeating: 5, count: 4 << 20))
        #expect(file.failures.isEmpty)
        try file.close()
    }

    @Test(
        "a write that waits for space ends at its time-out, and by force", arguments: FuseTransport.possible)
    func noSpaceInTime(_ transport: FuseTransport) throws {
        let file = try transport.prepared {
            try AttachedFile(size: 16 * Self.mebibyte, slots: 4, timeoutSeconds: 2)
        }
        file.fill(true)
        #expect(throws: (any Error).self) {
            try Device.write(file.device, [UInt8](repeating: 3, count: 4096), at: 0)
        }
        #expect(file.failures == [.timedOut])
        file.fill(false)
        try Device.write(file.device, [UInt8](repeating: 3, count: 4096), at: 0)
        #expect(try Device.read(file.device, count: 4096, at: 0) == [UInt8](repeating: 3, count: 4096))
        try file.close()
    }

    @Test(
        "writes that wait for space fail together once the pool is to let them fail",
        arguments: FuseTransport.possible)
    func noSpaceAfterAll(_ transport: FuseTransport) throws {
        let file = try transport.prepared { try AttachedFile(size: 16 * Self.mebibyte, slots: 32) }
        file.fill(true)
        let output = try Subprocess.pipe()
        let writer = try Subprocess.start(
            [
                "fio", "--name=w", "--filename=\(file.device)", "--direct=1", "--ioengine=libaio",
                "--rw=write",
                "--bs=4k", "--size=128k", "--iodepth=32", "--continue_on_error=write",
            ], output: output.write, errors: -1)
        close(output.write)
        while file.waits.last != 32 { try #require(file.waitWasTold()) }
        file.fail(.noSpace)
        file.fill(false)
        _ = try Subprocess.wait(writer)
        close(output.read)
        // One asks whether there is space; the answer is for all of them.
        let after = file.waits.drop { $0 != 32 }
        #expect(after.last == 0 && after.allSatisfy { [32, 31, 0].contains($0) }, "\(file.waits)")
        file.fail(nil)
        #expect(file.failures.contains(.noSpace))
        try file.close()
    }

    @Test(
        "a discard without the right to it is refused here, and no failure", arguments: FuseTransport.possible
    )
    func discardWithoutRight(_ transport: FuseTransport) throws {
        let file = try transport.prepared {
            try AttachedFile(size: 4 * Self.mebibyte, allowsDiscard: false)
        }
        _ = try Subprocess.run(["blkdiscard", "-f", file.device])
        #expect(file.state.requests[.discard] == nil && file.failures.isEmpty)
        try Device.write(file.device, [UInt8](repeating: 1, count: 4096), at: 0)
        try file.close()
    }

    @Test("fio finds every block as it wrote it, from 512 bytes to 1 MiB", arguments: FuseTransport.possible)
    func verify(_ transport: FuseTransport) throws {
        let file = try transport.prepared { try AttachedFile(size: 64 * Self.mebibyte, slots: 16) }
        let result = try Subprocess.run([
            "fio", "--name=verify", "--filename=\(file.device)", "--direct=1", "--ioengine=libaio",
            "--rw=randwrite",
            "--bsrange=512-1M", "--blockalign=512", "--size=48M", "--iodepth=32", "--verify=crc32c",
            "--do_verify=1", "--verify_fatal=1", "--verify_state_save=0",
        ])
        #expect(result.code == 0, "\(result.output) \(result.errors)")
        try file.close()
    }

    @Test(
        "a request that takes too long fails, those that wait behind it too, and then the device works",
        arguments: FuseTransport.possible)
    func timeout(_ transport: FuseTransport) throws {
        let file = try transport.prepared {
            try AttachedFile(size: 16 * Self.mebibyte, slots: 2, timeoutSeconds: 1)
        }
        file.hold(true)
        let bytes = [UInt8](repeating: 3, count: 8 << 20)
        // More than the two slots take: some of it is never sent.
        #expect(throws: (any Error).self) { try Device.write(file.device, bytes, at: 0) }
        #expect(file.state.givenUp > 0)
        #expect(file.failures.first == .timedOut)
        file.hold(false)
        try Device.write(file.device, bytes, at: 0)
        #expect(try Device.read(file.device, count: bytes.count, at: 0) == bytes)
        try file.close()
    }

    @Test(
        "a mounted file system gets an I/O error at once, and the device can be given up by force",
        arguments: FuseTransport.possible)
    func failure(_ transport: FuseTransport) throws {
        let file = try transport.prepared { try AttachedFile(size: 64 * Self.mebibyte) }
        let folder = file.folder + "/files"
        #expect(unsafe mkdir(folder, 0o700) == 0)
        #expect(try Subprocess.run(["mkfs.ext4", "-q", file.device]).code == 0)
        #expect(try Subprocess.run(["mount", file.device, folder]).code == 0)
        try FileTools.write(folder + "/before", "kept")
        file.fail(.revoked)
        let descriptor = unsafe open(folder + "/after", O_RDWR | O_CREAT, 0o600)
        if descriptor >= 0 {
            #expect(unsafe write(descriptor, "lost", 4) < 0 || fsync(descriptor) < 0)
            #expect(errno == EIO || errno == EROFS)
            close(descriptor)
        }
        #expect(file.failures.first == .revoked)
        #expect(throws: AttachError.self) { try file.release() }
        #expect(throws: AttachError.self) { try file.release(isForced: true) }
        file.fail(nil)
        #expect(try Subprocess.run(["umount", folder]).code == 0)
        try file.close()
    }

    @Test(
        "a flush that fails has lost what was given back since the last, and nothing where nothing was",
        arguments: FuseTransport.possible)
    func failedFlush(_ transport: FuseTransport) throws {
        let file = try transport.prepared { try AttachedFile(size: 16 * Self.mebibyte) }
        try Device.sync(file.device)
        file.fail(.ioError)
        #expect(throws: AttachError.self) { try Device.sync(file.device) }
        let without = file.failed
        #expect(without.all > 0 && without.lost == 0)
        file.fail(nil)
        #expect(try Subprocess.run(["blkdiscard", "-f", "-o", "0", "-l", "1048576", file.device]).code == 0)
        file.fail(.ioError)
        #expect(throws: AttachError.self) { try Device.sync(file.device) }
        #expect(file.failed.lost > 0)
        file.fail(nil)
        try file.close()
    }

    @Test(
        "while a device is open somewhere it is not given up, and the refusal names who has it open",
        arguments: FuseTransport.possible)
    func refusal(_ transport: FuseTransport) throws {
        let file = try transport.prepared { try AttachedFile(size: 4 * Self.mebibyte) }
        let answers = try Subprocess.pipe()
        let commands = try Subprocess.pipe()
        let other = try Subprocess.start(
            ["sh", "-c", "exec 5<\(file.device); echo ready; read line <&3"], output: answers.write,
            errors: -1, extra: commands.read)
        close(answers.write)
        var line = [UInt8](repeating: 0, count: 6)
        #expect(unsafe read(answers.read, &line, 6) == 6)
        let error = #expect(throws: AttachError.self) { try file.release() }
        #expect(error?.reason == .busy)
        #expect(error?.message.contains("sh (pid \(other))") == true, "\(error?.message ?? "")")
        #expect(unsafe write(commands.write, "\n", 1) == 1)
        #expect(try Subprocess.wait(other) == 0)
        close(answers.read)
        close(commands.read)
        close(commands.write)
        try file.close()
    }

    @Test(
        "after the volume has grown the device has the new size, without being opened anew",
        arguments: FuseTransport.possible)
    func growth(_ transport: FuseTransport) throws {
        let file = try transport.prepared { try AttachedFile(size: 4 * Self.mebibyte) }
        #expect(try file.resize(to: 12 * Self.mebibyte) == 12 * Self.mebibyte)
        #expect(try Device.size(file.device) == 12 * Self.mebibyte)
        let bytes = [UInt8](repeating: 9, count: 4096)
        try Device.write(file.device, bytes, at: 8 * Self.mebibyte)
        #expect(try Device.read(file.backing, count: 4096, at: 8 * Self.mebibyte) == bytes)
        try file.close()
    }

    @Test("a read-only attachment refuses writes", arguments: FuseTransport.possible)
    func readOnly(_ transport: FuseTransport) throws {
        let file = try transport.prepared {
            try AttachedFile(size: 4 * Self.mebibyte, blockSize: 4096, isReadOnly: true)
        }
        #expect(throws: (any Error).self) {
            try Device.write(file.device, [UInt8](repeating: 1, count: 4096), at: 0)
        }
        #expect(try Device.read(file.device, count: 4096, at: 0).count == 4096)
        // Whoever has no right to write has none to flush: the server would refuse it.
        file.fail(.denied)
        try FileTools.sync(file.device)
        file.fail(nil)
        #expect(file.state.requests[.write] == nil && file.state.requests[.flush] == nil)
        #expect(file.failures.isEmpty)
        try file.close()
    }

    @Test(
        "after the volume has failed for good, every request fails and none hangs",
        arguments: FuseTransport.possible)
    func failedForGood(_ transport: FuseTransport) throws {
        let file = try transport.prepared { try AttachedFile(size: 16 * Self.mebibyte, slots: 2) }
        file.failVolume(.ioError)
        #expect(throws: (any Error).self) { try Device.read(file.device, count: 4 << 20, at: 0) }
        #expect(throws: (any Error).self) {
            try Device.write(file.device, [UInt8](repeating: 1, count: 512), at: 0)
        }
        #expect(throws: AttachError.self) { try file.release() }
        try file.close(isForced: true)
    }
}
