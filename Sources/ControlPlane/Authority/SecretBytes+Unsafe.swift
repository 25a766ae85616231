import Core

extension SecretBytes {
    /// The bytes as an array, for a computation that takes one; it is not wiped.
    var copied: [UInt8] { unsafe withBytes { unsafe [UInt8]($0) } }
}
