import Testing

@testable import Attach

@Suite struct MountTableTests {
    @Test("a line gives device number, folder, kind and source, whatever optional fields it has")
    func parse() {
        let text = """
            36 35 98:0 / /mnt rw,noatime master:1 - ext3 /dev/root rw,errors=continue
            40 35 7:3 / /mnt/with\\040space\\011tab rw shared:2 master:1 - ext4 /dev/loop3 rw
            41 35 0:50 / /run/sluice/db@h.fuse rw - fuse.sluice volume/db rw
            """
        let mounts = MountTable.parse(text)
        #expect(mounts.map(\.deviceNumber) == ["98:0", "7:3", "0:50"])
        #expect(mounts.map(\.folder) == ["/mnt", "/mnt/with space\ttab", "/run/sluice/db@h.fuse"])
        #expect(mounts.map(\.kind) == ["ext3", "ext4", "fuse.sluice"])
        #expect(mounts.map(\.source) == ["/dev/root", "/dev/loop3", "volume/db"])
    }

    @Test(
        "a line that is none is left out",
        arguments: [
            "", "-", "a - b", "1 2 3 4 5 - ext4", "36 35 98:0 / /mnt rw -", "36 35 98:0 / /mnt rw - ext4",
        ])
    func malformed(line: String) {
        #expect(MountTable.parse(line).isEmpty)
    }

    @Test(
        "an escape that is none stays as it is",
        arguments: [
            ("a\\", "a\\"), ("a\\04", "a\\04"), ("\\999", "\\999"), ("\\134", "\\"), ("a\\040b", "a b"),
        ])
    func escapes(text: String, expected: String) {
        #expect(MountTable.unescape(Substring(text)) == expected)
    }

    @Test("this process has a root file system")
    func live() {
        #expect(MountTable.read().contains { $0.folder == "/" || $0.folder == "/proc" })
    }
}
