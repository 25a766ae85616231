/// Text from a server, a file or a peer as it may be shown: nothing in it steers a terminal, changes the direction of
/// what stands beside it, hides, or begins a line of its own.
///
/// Control characters, line and paragraph separators, and the format characters of Unicode (bidirectional controls
/// and what is invisible) become `\n`, `\t` or `\u202e`, the escapes of JSON strings (RFC 8259 §7); the zero-width
/// joiners, which scripts and emoji need, stay. In a JSON text these characters stand inside of strings only, so that
/// `lines` changes none of its values.
public enum ShownText {
    /// One line.
    public static func line(_ text: String) -> String { escaped(text, keepsLineFeeds: false) }

    /// One line of at most so many characters of `text`; an ellipsis stands for the rest.
    public static func line(_ text: String, charactersMax: Int) -> String {
        // A character can be made of any number of scalars.
        let scalars = text.unicodeScalars
        guard scalars.count > charactersMax else { return line(text) }
        return line(String(String.UnicodeScalarView(scalars.prefix(charactersMax)))) + "…"
    }

    /// The lines of a text of our own, which may hold a peer's values; line feeds stay.
    public static func lines(_ text: String) -> String { escaped(text, keepsLineFeeds: true) }

    /// Whether `line` would change nothing.
    public static func isPlain(_ text: String) -> Bool { text.unicodeScalars.allSatisfy { !isHarmful($0) } }

    private static func escaped(_ text: String, keepsLineFeeds: Bool) -> String {
        func stays(_ scalar: Unicode.Scalar) -> Bool {
            !isHarmful(scalar) || keepsLineFeeds && scalar == "\n"
        }
        guard !text.unicodeScalars.allSatisfy(stays) else { return text }
        var result = String.UnicodeScalarView()
        for scalar in text.unicodeScalars {
            if stays(scalar) { result.append(scalar) } else { result.append(contentsOf: escape(scalar)) }
        }
        return String(result)
    }

    private static func isHarmful(_ scalar: Unicode.Scalar) -> Bool {
        switch scalar.value {
        case 0x20...0x7E: return false
        case 0x200C, 0x200D: return false
        default: break
        }
        return switch scalar.properties.generalCategory {
        case .control, .format, .lineSeparator, .paragraphSeparator: true
        // Fillers are letters by their category. How a character before it is drawn, a variation selector says.
        default: scalar.properties.isDefaultIgnorableCodePoint && !scalar.properties.isVariationSelector
        }
    }

    private static func escape(_ scalar: Unicode.Scalar) -> String.UnicodeScalarView {
        switch scalar {
        case "\n": return "\\n".unicodeScalars
        case "\r": return "\\r".unicodeScalars
        case "\t": return "\\t".unicodeScalars
        default: break
        }
        var text = ""
        for unit in String(scalar).utf16 {
            let digits = String(unit, radix: 16)
            text += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
        }
        return text.unicodeScalars
    }
}
