import Core

/// Where things are in a data folder, and who may use it.
public struct DataFolder: Sendable, Hashable {
    /// The path, absolute or relative to the working folder.
    public let path: String

    /// A folder that may or may not exist.
    public init(_ path: String) {
        self.path = path.count > 1 && path.hasSuffix("/") ? String(path.dropLast()) : path
    }

    /// What the marker file says; the number is the version of the folder's layout.
    static let marker = "sluice data folder, version 1\n"

    /// Written last by `init`: a folder with it is complete.
    var markerFile: String { "\(path)/sluice-data" }
    /// Written first by `init` and removed last: a folder with it can be made anew.
    var unfinishedFile: String { "\(path)/.unfinished" }
    var lockFile: String { "\(path)/lock" }
    /// The catalog.
    public var catalogFile: String { "\(path)/catalog.sqlite" }
    /// Where each pool has a folder.
    public var poolsFolder: String { "\(path)/pools" }
    /// Where what was changed since markers is noted.
    public var markersFolder: String { "\(path)/markers" }
    /// What happened.
    public var eventsFile: String { "\(path)/events.jsonl" }
    /// Where the running server tells tools its ports.
    public var endpointsFile: String { "\(path)/run/endpoints.json" }
    /// What servers stood at until their watchdog ended them.
    public var watchdogFile: String { "\(path)/run/stood" }
    var runFolder: String { "\(path)/run" }
    var authorityFolder: String { "\(path)/authority" }
    var authorityCertificate: String { "\(path)/authority/ca.pem" }
    var authorityKey: String { "\(path)/authority/ca.key.pem" }
    var tokenKey: String { "\(path)/authority/token.key" }
    var serverFolder: String { "\(path)/server" }
    var serverCertificate: String { "\(path)/server/cert.pem" }
    var serverKey: String { "\(path)/server/key.pem" }
    var signingFolder: String { "\(path)/signing" }
    func signingKey(_ id: String) -> String { "\(path)/signing/\(id).key" }
    /// The administrator's credentials: `ca.pem`, `cert.pem`, `key.pem`.
    public var adminFolder: String { "\(path)/admin" }

    /// What `init` makes, so that an unfinished one can be taken away again.
    static let parts = [
        "admin", "authority", "server", "signing", "pools", "run", "catalog.sqlite", "catalog.sqlite-wal",
        "catalog.sqlite-shm", "catalog.sqlite-journal", "catalog.sqlite-reserve", "lock", "sluice-data",
        "sluice-data.new",
        ".unfinished",
        ".unfinished.new",
    ]

    /// Makes sure that this is a complete data folder of a version that is known.
    func checkMarker() throws(AuthorityError) {
        guard PrivateFiles.exists(markerFile) else { throw .notInitialised(folder: path) }
        let text = String(decoding: try PrivateFiles.read(markerFile, bytesMax: 4096), as: UTF8.self)
        guard text != DataFolder.marker else { return }
        guard text.hasPrefix("sluice data folder, version ") else { throw .notInitialised(folder: path) }
        let version = text.split(separator: " ").last.map { $0.filter { $0 != "\n" } } ?? ""
        throw .newerVersion(found: version, known: "1")
    }

    /// Takes the folder for this process, until it ends or `DataFolderLock` goes.
    public func lock() throws(AuthorityError) -> DataFolderLock {
        try checkMarker()
        guard let fd = try PrivateFiles.lock(lockFile) else { throw .inUse(folder: path) }
        return DataFolderLock(fd: fd)
    }
}

/// The right of one process to use a data folder; given back in `deinit`.
public final class DataFolderLock: Sendable {
    private let fd: Int32

    init(fd: Int32) { self.fd = fd }

    deinit { PrivateFiles.unlock(fd) }
}
