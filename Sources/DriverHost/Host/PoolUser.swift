/// The user of a pool's driver host: one for each pool, so that hosts cannot touch each other or each other's
/// files.
enum PoolUser {
    /// Users that no distribution gives out (`nss-systemd` and containers end below them).
    private static let first: UInt32 = 0x7000_0000
    private static let count: UInt32 = 0x0FFF_0000

    /// The user of the pool in this folder: always the same.
    static func id(folder: String) -> UInt32 {
        var hash: UInt32 = 2_166_136_261
        for byte in folder.utf8 { hash = (hash ^ UInt32(byte)) &* 16_777_619 }
        return first + hash % count
    }
}
