/// Why a data folder cannot be made or used.
public enum AuthorityError: Error, Sendable, Hashable, CustomStringConvertible {
    /// `init` on a folder that is a data folder already.
    case alreadyInitialised(folder: String)
    /// The folder holds something else.
    case notEmpty(folder: String, example: String)
    /// The folder is no data folder.
    case notInitialised(folder: String)
    /// A newer version of Sluice made it.
    case newerVersion(found: String, known: String)
    /// Another `sluiced` uses it.
    case inUse(folder: String)
    /// A file could not be read or written.
    case file(path: String, reason: String)
    /// A key or certificate is not what it must be.
    case invalid(what: String, reason: String)

    /// One sentence, with the fix where there is one.
    public var description: String {
        switch self {
        case .alreadyInitialised(let folder):
            "\(folder) is a data folder already: serve it, or name another folder"
        case .notEmpty(let folder, let example):
            "\(folder) holds something else (\(example)): name an empty or a new folder"
        case .notInitialised(let folder):
            "\(folder) is not a data folder: make one with `sluiced init --data \(folder)`"
        case .newerVersion(let found, let known):
            "the data folder has version \(found), this sluiced knows up to \(known): install the newer Sluice again"
        case .inUse(let folder): "\(folder) is in use by another sluiced"
        case .file(let path, let reason): "\(path): \(reason)"
        case .invalid(let what, let reason): "\(what) cannot be used: \(reason)"
        }
    }
}
