extension String {
    /// A host's words as people may see them, in logs too: it must not be able to write lines of its own there.
    var onOneLine: String {
        var shown = UnicodeScalarView()
        for scalar in unicodeScalars {
            switch scalar.properties.generalCategory {
            case .control, .format, .lineSeparator, .paragraphSeparator, .privateUse, .unassigned:
                shown.append(" ")
            default: shown.append(scalar)
            }
        }
        return String(shown)
    }
}
