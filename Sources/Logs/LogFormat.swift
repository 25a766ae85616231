import Core
import Logging

/// The forms of a log line. Whatever a message or value holds, a line is one line, of printable characters, and its
/// values cannot be taken for other values.
public enum LogFormat: String, CaseIterable, Sendable {
    /// `TIME LEVEL LABEL MESSAGE KEY=VALUE…`. What could be misread is quoted as JSON strings are: a message with
    /// a quote or an equals sign, a value with a space.
    case text
    /// One JSON object a line (RFC 8259): `time`, `level`, `label`, `message`, and `values` where there are some.
    case json
}

/// What a line says, before it has a form.
struct LogLine {
    /// Milliseconds of Unix time.
    var milliseconds: UInt64
    var level: Logger.Level
    var label: String
    var message: String
    /// In the order in which they are shown.
    var values: [(key: String, value: String)]

    /// The line with its end.
    func bytes(_ format: LogFormat) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(128 + message.utf8.count + 48 * values.count)
        switch format {
        case .text: writeText(to: &bytes)
        case .json: writeJSON(to: &bytes)
        }
        bytes.append(UInt8(ascii: "\n"))
        return bytes
    }

    private var time: String {
        let fraction = String(milliseconds % 1000)
        return Timestamp.text(milliseconds / 1000).dropLast() + "."
            + String(repeating: "0", count: 3 - fraction.count)
            + fraction + "Z"
    }

    private func writeText(to bytes: inout [UInt8]) {
        bytes += Array("\(time) \(level.rawValue) \(LogText.key(label)) ".utf8)
        LogText.write(message, isPlain: LogText.isPlainMessage(message), to: &bytes)
        for (key, value) in values.prefix(Limits.logValuesMax) {
            bytes += Array(" \(LogText.key(key))=".utf8)
            LogText.write(value, isPlain: LogText.isPlainValue(value), to: &bytes)
        }
    }

    private func writeJSON(to bytes: inout [UInt8]) {
        bytes += Array("{\"time\":\"\(time)\",\"level\":\"\(level.rawValue)\",\"label\":\"".utf8)
        bytes += Array("\(LogText.key(label))\",\"message\":".utf8)
        LogText.write(message, isPlain: false, to: &bytes)
        var separator = ",\"values\":{"
        for (key, value) in values.prefix(Limits.logValuesMax) {
            bytes += Array("\(separator)\"\(LogText.key(key))\":".utf8)
            LogText.write(value, isPlain: false, to: &bytes)
            separator = ","
        }
        bytes += Array(values.isEmpty ? "}".utf8 : "}}".utf8)
    }
}

/// Text from anywhere as a log line may hold it.
enum LogText {
    /// Writes a text as it is, or as a JSON string; both end at `Limits.logValueBytesMax`, and say so.
    static func write(_ text: String, isPlain: Bool, to bytes: inout [UInt8]) {
        if isPlain, text.utf8.count <= Limits.logValueBytesMax { return bytes.append(contentsOf: text.utf8) }
        bytes.append(UInt8(ascii: "\""))
        var used = 0
        for scalar in text.unicodeScalars {
            let width = UTF8.width(scalar)
            guard used + width <= Limits.logValueBytesMax else {
                bytes += Array("… (\(text.utf8.count - used) more bytes)".utf8)
                break
            }
            used += width
            write(scalar, to: &bytes)
        }
        bytes.append(UInt8(ascii: "\""))
    }

    /// Whether a value needs no quotes: it has printable ASCII characters only, no space, and none that has a meaning
    /// in a line.
    static func isPlainValue(_ text: String) -> Bool {
        !text.isEmpty
            && text.utf8.allSatisfy { (0x21...0x7E).contains($0) && !hasMeaning($0) }
    }

    /// Whether a message needs no quotes: likewise, but it may have spaces within.
    static func isPlainMessage(_ text: String) -> Bool {
        !text.isEmpty && text.utf8.allSatisfy { (0x20...0x7E).contains($0) && !hasMeaning($0) }
            && text.utf8.first != UInt8(ascii: " ") && text.utf8.last != UInt8(ascii: " ")
    }

    /// A key with nothing in it that has a meaning in a line.
    static func key(_ text: String) -> String {
        String(
            decoding: text.utf8.prefix(64).map { byte in
                isPlainKey(byte) ? byte : UInt8(ascii: "_")
            }, as: UTF8.self)
    }

    private static func isPlainKey(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: "-"), UInt8(ascii: "_"):
            true
        default: false
        }
    }

    private static func hasMeaning(_ byte: UInt8) -> Bool {
        byte == UInt8(ascii: "=") || byte == UInt8(ascii: "\"") || byte == UInt8(ascii: "\\")
    }

    /// Writes a character of a JSON string: what is not printable is escaped, also where JSON does not ask for it, so
    /// that it cannot steer a terminal or hide what stands beside it.
    private static func write(_ scalar: Unicode.Scalar, to bytes: inout [UInt8]) {
        switch scalar {
        case "\"": bytes += Array("\\\"".utf8)
        case "\\": bytes += Array("\\\\".utf8)
        case "\n": bytes += Array("\\n".utf8)
        case "\r": bytes += Array("\\r".utf8)
        case "\t": bytes += Array("\\t".utf8)
        case "\u{20}"..."\u{7E}": bytes.append(UInt8(scalar.value))
        default:
            if isPrintable(scalar) {
                bytes += Array(String(scalar).utf8)
            } else {
                for unit in UTF16.encode(scalar).map({ Array($0) }) ?? [] {
                    let digits = String(unit, radix: 16)
                    bytes += Array("\\u\(String(repeating: "0", count: 4 - digits.count))\(digits)".utf8)
                }
            }
        }
    }

    private static func isPrintable(_ scalar: Unicode.Scalar) -> Bool {
        switch scalar.properties.generalCategory {
        case .control, .format, .lineSeparator, .paragraphSeparator, .spaceSeparator, .privateUse,
            .unassigned,
            .surrogate:
            false
        default: true
        }
    }
}
