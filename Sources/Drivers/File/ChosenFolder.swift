import Core
import DriverKit
import Glibc

/// The folder that a pool makes in one of the operator's choice.
///
/// It has a mark, which the pool's own folder has too: where the operator's file system is not mounted, the pool does
/// not start, and its volumes are not taken for lost; and no two pools share it.
enum ChosenFolder {
    private static let name = "sluice-pool"
    private static let mark = "pool"
    private static let record = "chosen-folder"
    private static let unfinished = "unfinished"

    static func isFolder(_ path: String) -> Bool {
        var status = stat()
        return unsafe stat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR
    }

    /// The pool's folder in the operator's.
    static func path(in path: String) -> String { path.hasSuffix("/") ? path + name : path + "/" + name }

    /// Opens the pool's folder in the operator's, and makes it the first time.
    static func open(
        in parent: String, pool: PoolFolder, store: any DescriptorStore
    ) throws(StatusError) -> PoolFolder {
        let path = path(in: parent)
        let known = try pool.words(record)
        guard let known, let id = known.first else {
            let id = SystemRandomNumberGenerator.hex()
            try pool.write([id, unfinished], to: record)
            return try finish(path, id, pool, store)
        }
        if known.last == unfinished { return try finish(path, id, pool, store) }
        guard isFolder(path) else {
            throw StatusError(
                .driverFailed,
                "the pool's folder \(path) is not there; is its file system mounted? Mount it, then restart the pool"
            )
        }
        let folder = try PoolFolder(path, store: store, lock: "folder")
        guard try folder.words(mark) == [id] else {
            throw StatusError(.driverFailed, "\(path) is not the folder of this pool, but of another one")
        }
        return folder
    }

    private static func finish(
        _ path: String, _ id: String, _ pool: PoolFolder, _ store: any DescriptorStore
    ) throws(StatusError) -> PoolFolder {
        let folder = try PoolFolder(path, store: store, lock: "folder")
        let found = try folder.words(mark)
        // A pool that was deleted leaves its mark, and nothing else.
        let isFree = if found == nil || found == [id] { true } else { try folder.names() == [mark] }
        guard isFree else {
            throw StatusError(
                .alreadyExists,
                "\(path) is the folder of another pool, or of one that is no more and left its volumes there: a folder holds"
                    + " one pool. Choose another folder, or move away what is in it")
        }
        if found != [id] { try folder.write([id], to: mark) }
        try pool.write([id], to: record)
        return folder
    }
}

extension SystemRandomNumberGenerator {
    /// 32 hex digits.
    fileprivate static func hex() -> String {
        var random = SystemRandomNumberGenerator()
        return Hex.encode((0..<16).map { _ in UInt8.random(in: 0...255, using: &random) })
    }
}
