import Core

/// Why a catalog refused or failed.
public enum CatalogError: Error, Sendable, Hashable, CustomStringConvertible {
    /// A condition of the transaction does not hold for this key: somebody else was faster.
    case conflict(key: String)
    /// Another process has the catalog open.
    case inUse(path: String)
    /// A newer version of Sluice wrote it.
    case newerVersion(found: Int, known: Int)
    /// The file is something else, or it is damaged.
    case notACatalog(path: String, reason: String)
    /// It cannot be written: the folder, the file or the file system does not allow it.
    case readOnly(path: String)
    /// There is no space left for it.
    case full(path: String)
    /// A key, value or transaction is above its limit; nothing was changed.
    case tooLarge(String)
    /// A record could not be read; the text says which.
    case malformed(key: String, reason: String)
    /// Anything else that the storage reported.
    case failed(String)

    /// One sentence, with the fix where there is one.
    public var description: String {
        switch self {
        case .conflict(let key): "\(key) was changed by somebody else"
        case .inUse(let path):
            "\(path) is in use by another process: only one sluiced may serve a data folder"
        case .newerVersion(let found, let known):
            "the catalog has version \(found), this sluiced knows up to \(known): install the newer Sluice again"
        case .notACatalog(let path, let reason): "\(path) is not a catalog of Sluice: \(reason)"
        case .readOnly(let path): "\(path) cannot be opened for writing: check owner, mode and mount options"
        case .full(let path): "no space left for \(path)"
        case .tooLarge(let what): "too large: \(what)"
        case .malformed(let key, let reason): "the record \(key) cannot be read: \(reason)"
        case .failed(let reason): "the catalog failed: \(reason)"
        }
    }

    /// Whose fault it is.
    public var kind: ErrorKind {
        switch self {
        case .conflict, .inUse: .busy
        case .newerVersion, .notACatalog, .tooLarge: .caller
        case .readOnly, .full, .failed: .device
        case .malformed: .bug
        }
    }
}
