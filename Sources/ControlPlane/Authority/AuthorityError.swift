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
    /// What was to be a name of the server is none.
    case badName(String)
    /// What was to be an address of the server is none.
    case badAddress(String)
    /// More names and addresses than a certificate has.
    case tooManyNames(max: Int)
    /// A file could not be read or written.
    case file(path: String, reason: String)
    /// A key or certificate is not what it must be.
    case invalid(what: String, reason: String)

    /// Whether what was asked for is wrong, whatever there is.
    public var isUsage: Bool {
        switch self {
        case .badName, .badAddress, .tooManyNames: true
        case .alreadyInitialised, .notEmpty, .notInitialised, .newerVersion, .inUse, .file, .invalid: false
        }
    }

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
        case .badName(let name):
            "\"\(AuthorityError.shown(name))\" is no DNS name: letters, digits, hyphens and dots would be right, such as io.example"
        case .badAddress(let address):
            "\"\(AuthorityError.shown(address))\" is no IP address: one without port or brackets would be right, such as 192.0.2.10 or 2001:db8::1"
        case .tooManyNames(let max): "a server has \(max) names and addresses at most"
        case .file(let path, let reason): "\(path): \(reason)"
        case .invalid(let what, let reason): "\(what) cannot be used: \(reason)"
        }
    }

    /// Text that somebody wrote, as far as it may go to a terminal.
    private static func shown(_ text: String) -> String {
        text.unicodeScalars.prefix(100).map {
            $0.isASCII && $0.value >= 0x20 && $0.value != 0x7F ? String($0) : "?"
        }
        .joined()
    }
}
