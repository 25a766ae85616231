import Core
import Foundation
import Glibc
import Testing

@testable import Wire

/// The tables of API/data-channel.md and the code say the same.
@Suite struct DocumentedProtocolTests {
    /// The rows below a heading, as cells.
    private func rows(of section: String) throws -> [[String]] {
        let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent()
        let text = try String(contentsOf: root.appending(path: "API/data-channel.md"), encoding: .utf8)
        let part = try #require(
            text.components(separatedBy: "\n## ").first { $0.hasPrefix(section) }, "no section \(section)")
        return part.components(separatedBy: "\n").filter { $0.hasPrefix("|") }.map { line in
            line.split(separator: "|").map { cell in
                cell.trimmingCharacters(in: CharacterSet(charactersIn: " `"))
            }
        }
    }

    private func number(_ text: String) -> UInt16? {
        text.hasPrefix("0x") ? UInt16(text.dropFirst(2), radix: 16) : UInt16(text)
    }

    @Test func everyOpcodeHasItsRow() throws {
        let rows = try rows(of: "2. Frames").filter {
            $0.count == 9 && Opcode.allCases.map(\.name).contains($0[0])
        }
        #expect(rows.count == Opcode.allCases.count)
        for row in rows {
            let opcode = try #require(Opcode.allCases.first { $0.name == row[0] })
            let rule = opcode.rule
            #expect(number(row[1]) == opcode.rawValue, "\(row)")
            let rights = row[2].split(separator: ",").map { $0.trimmingCharacters(in: .whitespaces) }
            #expect(rule.rights.names == rights, "\(row)")
            #expect(rule.usesHandle == (row[3] == "yes"), "\(row)")
            #expect((rule.covers == .nothing) == (row[4] == "0, 0"), "\(row)")
            #expect(rule.flags.contains(.fua) == row[6].contains("FUA"), "\(row)")
            #expect(rule.flags.contains(.noUnmap) == row[6].contains("NO_UNMAP"), "\(row)")
            #expect(rule.isIdempotent == (row[8] == "yes"), "\(row)")
        }
    }

    @Test func everyStatusHasItsRow() throws {
        let numbers: [String: Int32] = [
            "": 0, "EINVAL": EINVAL, "ERANGE": ERANGE, "EBADF": EBADF, "ENOENT": ENOENT, "EMSGSIZE": EMSGSIZE,
            "EOPNOTSUPP": EOPNOTSUPP, "EEXIST": EEXIST, "EILSEQ": EILSEQ, "EACCES": EACCES, "EIO": EIO,
            "EROFS": EROFS, "EBUSY": EBUSY, "EAGAIN": EAGAIN, "ETIMEDOUT": ETIMEDOUT, "ENOSPC": ENOSPC,
        ]
        let rows = try rows(of: "10. Statuses").filter { $0.count == 4 && number($0[0]) != nil }
        #expect(rows.count == Status.allCases.count)
        for row in rows {
            let status = try #require(number(row[0]).flatMap(Status.init), "\(row)")
            #expect(status.name == row[1], "\(row)")
            #expect(status.kind?.rawValue ?? "" == row[2], "\(row)")
            #expect(numbers[row[3]] == status.errno, "\(row)")
        }
    }

    @Test func everyLimitAndTimerIsThatOfTheCode() throws {
        let rows = try rows(of: "3. Limits and timeouts")
        let said = Dictionary(rows.map { ($0[0], $0[1]) }) { first, _ in first }
        func written(_ number: Int) -> String {
            var digits = String(number)
            for place in stride(from: digits.count - 3, to: 0, by: -3) {
                digits.insert(",", at: digits.index(digits.startIndex, offsetBy: place))
            }
            return digits
        }
        let limits: [(String, String)] = [
            ("header", written(Limits.headerBytes)),
            ("payload before HELLO is answered", written(Limits.helloBytesMax)),
            (
                "payload after it, either way",
                "what HELLO granted: \(written(Limits.payloadBytesMin)) to \(written(Limits.payloadBytesMax))"
            ),
            ("slots of a channel", "what HELLO granted: 1 to \(Limits.slotsPerChannelMax)"),
            ("channels of a session", "what HELLO said, at most \(Limits.channelsPerSessionMax)"),
            ("open handles of a channel", "what HELLO said, at most \(Limits.handlesPerChannelMax)"),
            ("capability, binary form", written(Limits.capabilityBytesMax)),
            ("error message; payload of an event", written(Limits.errorMessageBytesMax)),
            ("client and server name", written(Limits.peerNameBytesMax)),
            (
                "from accept to a valid HELLO, TLS handshake included",
                written(Int(Limits.helloDeadlineSeconds))
            ),
            ("from the first to the last byte of one frame", written(Int(Limits.frameDeadlineSeconds))),
            ("output waits and the client takes none of it", written(Int(Limits.sendDeadlineSeconds))),
        ]
        for (name, value) in limits { #expect(said[name] == value, "\(name)") }
        #expect(Limits.eventBytesMax == Limits.errorMessageBytesMax)
    }
}
