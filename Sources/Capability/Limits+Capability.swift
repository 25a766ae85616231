import Core

extension Limits {
    /// The deepest nesting of arrays and maps in a capability: token, list of blocks, block, header map.
    public static let capabilityNestingMax = 4
    /// The longest key id in a capability's header, in bytes.
    public static let capabilityKeyIDBytesMax = 32
    /// The longest text form of a capability that is read, in characters.
    public static let capabilityTextCharactersMax =
        Capability.textPrefix.utf8.count + (capabilityBytesMax * 4 + 2) / 3
}
