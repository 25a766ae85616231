import Glibc
import TestSupport
import Testing

@testable import Attach

@Suite(.serialized, .blocking) struct SubprocessTests {
    @Test("output, errors and the exit code are collected, however much there is")
    func collect() throws {
        let result = try Subprocess.run(["sh", "-c", "echo out; echo err >&2; exit 3"])
        #expect(result.code == 3 && result.output == "out\n" && result.errors == "err\n")
        let much = try Subprocess.run([
            "sh", "-c", "head -c 1000000 /dev/zero >&2; head -c 1000000 /dev/zero",
        ])
        #expect(much.code == 0 && much.output.utf8.count == 64 << 10 && much.errors.utf8.count == 64 << 10)
    }

    @Test("a signal's end is 128 and the signal; a program that is not there is an error")
    func ends() throws {
        #expect(try Subprocess.run(["sh", "-c", "kill -9 $$"]).code == 137)
        #expect(throws: AttachError.self) { try Subprocess.run(["/nowhere/at/all"]) }
    }

    @Test("a child gets the descriptors that it is given and no other, and default signals")
    func descriptors() throws {
        let other = try Subprocess.pipe()
        let extra = try Subprocess.pipe()
        // A descriptor without close-on-exec is the kind that would leak.
        let leaky = dup(other.read)
        let child = try Subprocess.start(
            ["sh", "-c", "ls /proc/self/fd | tr '\\n' ' ' >&3; grep SigIgn /proc/self/status >&3"],
            output: -1,
            errors: -1, extra: extra.write)
        close(extra.write)
        let text = String(decoding: TextFile.bytes(descriptor: extra.read, max: 4096) ?? [], as: UTF8.self)
        // 0 to 3, and the one with which ls reads the folder.
        #expect(text.hasPrefix("0 1 2 3 4 SigIgn:\t"), "\(text)")
        // Signals 32 and 33 are the C library's own.
        let ignored = text.split(separator: "\t").last.flatMap { UInt64($0.prefix(16), radix: 16) }
        #expect(ignored.map { $0 & 0x7fff_ffff } == 0, "\(text)")
        #expect(try Subprocess.wait(child) == 0)
        for descriptor in [leaky, other.read, other.write, extra.read] { close(descriptor) }
    }
}
