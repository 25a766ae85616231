import Core
import Simulation
import Testing

@testable import sluiced

/// Settings from a file, the environment and the command line: whatever is written there is taken or told, never worse.
@Suite struct SettingsFuzzTests {
    private static let files = Fuzzer(
        "settings files",
        texts: [
            """
            sluice:
              control: ["192.0.2.10:7480", "[2001:db8::1]:7480"]
              channel: 0.0.0.0:7481
              reactors: 4
              cpus: [0]
              poll: 50
              driver:
                host: /usr/lib/sluice/sluice-driver
                quarantine: {losses: 5}
              session: {linger: 60}
              stop: {seconds: 60}
              watchdog: 5
              log:
                format: json
            """,
            "sluice:\n  reactors: 2 # two\n  log: {format: text}\n",
            "sluice:\n  control:\n    - \"[::]:7480\"\n", "sluice: ~\n",
            "", "---\n...\n", "sluice: &a {watchdog: 0}\nother: *a\n", "reactors: 2\n", "sluice: [1, 2]\n",
            "? [a]\n: b\n",
            "sluice:\n  driver:\n    host: \"/a\\x1b[2J\\u202e\"\n", "\u{1b}[2J: 'x\n",
            "a: 'b\u{202e}\n  - c: d: e\n",
        ],
        tokens: [
            "sluice", ":", ": ", "\n", "\n  ", "[", "]", "{", "}", "- ", "'", "\"", "|\n", ">\n", "#", "&a ",
            "*a", "!!int ", "~",
            "0x10", "1e3", "-1", "9223372036854775808", "reactors", "driver.host", "\t", "\u{301}",
            "\u{202e}", "\u{1b}[2J", "%YAML 1.2\n",
        ])

    @Test func aFileIsTakenOrEachFaultIsToldInOneLine() {
        var taken = 0
        var told = 0
        Self.files.run(6000) { input, place, _ in
            let file = SettingsFile(
                path: "/etc/sluice/sluiced.yaml", text: String(decoding: input, as: UTF8.self))
            taken += file.found.count
            told += file.problems.count
            for problem in file.problems {
                #expect(
                    ShownText.isPlain(problem) && problem.hasPrefix("/etc/sluice/"), "\(place): \(problem)")
            }
            guard !file.found.isEmpty else { return }
            let written = Self.written(file.found)
            #expect(ShownText.lines(written) == written, "\(place)")
            let again = SettingsFile(path: "again", text: written)
            #expect(again.problems.isEmpty, "\(place): \(again.problems)")
            #expect(Self.written(again.found) == written, "\(place)")
        }
        #expect(taken > 100 && told > 1000)
    }

    /// However deep it goes: the parser calls itself for each level.
    @Test(arguments: ["[", "{a: ", "- ", "? "]) func aFileThatIsDeepIsRefused(piece: String) {
        let text =
            "sluice: " + (piece.hasSuffix(" ") && piece != "{a: " ? "\n" : "")
            + String(repeating: piece, count: 100_000)
        let file = SettingsFile(path: "deep", text: text)
        #expect(!file.problems.isEmpty && file.found.isEmpty)
    }

    private static let variables = Fuzzer(
        "settings in the environment",
        texts: [
            "SLUICE_CONTROL=192.0.2.10:7480,[2001:db8::1]:7480", "SLUICE_CPUS=0, 0,0", "SLUICE_REACTORS=64",
            "SLUICE_LOG_FORMAT=json",
            "SLUICE_DRIVER_QUARANTINE_LOSSES=1000000", "SLUICE_DRIVER_HOST=/usr/bin/x",
            "SLUICE_SERVER=https://io1", "SLUICE_REACTOR=1",
            "SLUICE_WATCHDOG=0", "PATH=/bin", "SLUICE_=x", "SLUICE_CHANNEL=",
        ],
        tokens: [
            "SLUICE_", "=", ",", " ", ":", "[", "]", "0", "65536", "18446744073709551616", "+1", "١",
            "\u{301}", "\u{1b}[2J", "\u{202e}", "fe80::1%eth0",
            "unix:/run/x",
        ])

    @Test func aVariableIsTakenOrToldInOneLine() {
        var taken = 0
        Self.variables.run(20_000) { input, place, _ in
            let text = String(decoding: input, as: UTF8.self)
            let sides = text.utf8.split(
                separator: UInt8(ascii: "="), maxSplits: 1, omittingEmptySubsequences: false)
            guard sides.count == 2, let name = String(sides[0]), let value = String(sides[1]) else { return }
            var table = SettingsTable()
            table.add(environment: [name: value])
            for problem in table.problems + table.warnings {
                #expect(ShownText.isPlain(problem), "\(place): \(problem)")
            }
            for key in SettingKey.all {
                guard table.value(key) != nil else { continue }
                taken += 1
                // The command line has the same rules, for what is no list.
                guard !key.isList, key.flag != nil else { continue }
                var other = SettingsTable()
                other.add(flag: key, [value])
                #expect(
                    other.problems.isEmpty && other.value(key)?.yaml == table.value(key)?.yaml,
                    "\(place): \(text)")
            }
        }
        #expect(taken > 100)
    }

    /// The settings as `check-config` prints them.
    private static func written(_ found: [SettingKey: (value: SettingValue, place: SettingPlace)]) -> String {
        var text = "sluice:\n"
        var seen: Set<[String]> = []
        for key in SettingKey.all {
            guard let value = found[key]?.value else { continue }
            for depth in 1..<max(1, key.path.count) where seen.insert(Array(key.path[..<depth])).inserted {
                text += String(repeating: "  ", count: depth) + key.path[depth - 1] + ":\n"
            }
            text +=
                String(repeating: "  ", count: key.path.count) + key.path[key.path.count - 1]
                + ": \(value.yaml)\n"
        }
        return text
    }
}
