import Core
import FoundationEssentials
import Glibc
import Reactor
import TLS

/// The files of a credentials folder: read with care, written so that a crash leaves the old or the new.
struct CredentialFolder {
    let path: String
    /// What names the folder on the command line.
    var option = "--credentials"

    static let advice =
        "Enrol with `sluice join`, or name another folder by --credentials or SLUICE_CREDENTIALS."

    /// Reads one file whole. A secret must not be readable by others.
    func read(_ name: String, maximum: Int, isSecret: Bool = false) throws(ClientError) -> [UInt8] {
        let fd = unsafe open(path + "/" + name, O_RDONLY | O_CLOEXEC)
        guard fd >= 0 else {
            let reason = errno
            var error = ClientError.credentials(
                "cannot read \(path)/\(name): \(ReactorError.text(errno: reason))",
                reason == EACCES ? "It belongs to another user: try sudo." : Self.advice)
            if reason == ENOENT { error.code = "NO_CREDENTIALS" }
            throw error
        }
        let file = FileDescriptor(owning: fd)
        var status = stat()
        guard unsafe fstat(file.raw, &status) == 0, status.st_mode & S_IFMT == S_IFREG,
            status.st_size <= maximum
        else {
            throw .credentials("\(path)/\(name) is no file of at most \(maximum) bytes", Self.advice)
        }
        if isSecret, status.st_mode & 0o077 != 0 {
            throw .credentials(
                "\(path)/\(name) can be read by other users, so it is no longer a secret",
                "Run `chmod 600 \(path)/\(name)`, and renew the key when others may have read it.")
        }
        return try readAll(file, name, Int(status.st_size))
    }

    private func readAll(_ file: borrowing FileDescriptor, _ name: String, _ size: Int) throws(ClientError)
        -> [UInt8]
    {
        var bytes = [UInt8](repeating: 0, count: size)
        var count = 0
        while count < size {
            let more = unsafe bytes.withUnsafeMutableBytes { room in
                unsafe Glibc.read(file.raw, room.baseAddress.map { unsafe $0 + count }, size - count)
            }
            if more < 0 && errno == EINTR { continue }
            guard more > 0 else { break }
            count += more
        }
        guard count == size else {
            throw .credentials("\(path)/\(name) changed or failed while it was read", "Try again.")
        }
        return bytes
    }

    func readConfig() throws(ClientError) -> Credentials.Config {
        guard unsafe access(path + "/" + Credentials.configFile, F_OK) == 0 else {
            return Credentials.Config()
        }
        let bytes = try read(Credentials.configFile, maximum: 64 * 1024)
        do {
            return try JSONDecoder().decode(Credentials.Config.self, from: Data(bytes))
        } catch {
            throw .credentials("\(path)/\(Credentials.configFile) is no valid configuration", Self.advice)
        }
    }

    /// Whether there are credentials.
    var isTaken: Bool { unsafe access(path + "/" + Credentials.keyFile, F_OK) == 0 }

    /// Whether files can be made in the folder.
    var isWritable: Bool { unsafe access(path, W_OK) == 0 }

    /// When a file was written last, in Unix seconds; nil when that is not known.
    func modified(_ name: String) -> UInt64? {
        var status = stat()
        guard unsafe lstat(path + "/" + name, &status) == 0 else { return nil }
        return UInt64(exactly: status.st_mtim.tv_sec)
    }

    /// Throws when there are credentials already.
    func expectVacant() throws(ClientError) {
        guard !isTaken else {
            var error = ClientError.credentials(
                "\(path) holds credentials already",
                "Name another folder by \(option), or remove that one first.")
            error.code = ClientError.takenCode
            throw error
        }
    }

    /// Writes a new folder whole: it appears complete or not at all. Fails when there are credentials
    /// already.
    func create(_ credentials: Credentials) throws(ClientError) {
        try expectVacant()
        let temporary = try makeTemporary()
        let inside = CredentialFolder(path: temporary, option: option)
        do {
            try inside.write(Credentials.authorityFile, credentials.authorityPEM)
            try inside.write(Credentials.certificateFile, credentials.certificatePEM)
            try inside.write(Credentials.keyFile, credentials.key.pem)
            try inside.writeConfig(credentials.config)
            try inside.sync()
            if exists {
                try moveFiles(from: temporary)
            } else {
                unsafe try check(rename(temporary, path) == 0, "create", path)
            }
        } catch {
            inside.remove()
            throw error
        }
        try parent.sync()
    }

    /// Throws where `create` could not write; nothing is left. For what must not be begun in vain.
    func expectWritable() throws(ClientError) {
        let temporary = try makeTemporary()
        unsafe rmdir(temporary)
    }

    private var exists: Bool { unsafe access(path, F_OK) == 0 }

    /// A new folder on the file system of this one: within it where it exists, since it may be a mount of its own, as
    /// container managers make them, and beside it otherwise.
    private func makeTemporary() throws(ClientError) -> String {
        let temporary = exists ? path + "/.new-\(getpid())" : path + ".new-\(getpid())"
        try makeParents()
        unsafe try check(mkdir(temporary, 0o700) == 0, "create", temporary)
        return temporary
    }

    /// The key comes last: a folder without it does not count as credentials.
    private func moveFiles(from temporary: String) throws(ClientError) {
        let names = [
            Credentials.authorityFile, Credentials.certificateFile, Credentials.configFile,
            Credentials.keyFile,
        ]
        for name in names {
            unsafe try check(
                rename(temporary + "/" + name, path + "/" + name) == 0, "write", path + "/" + name)
        }
        unsafe try check(chmod(path, 0o700) == 0, "protect", path)
        unsafe rmdir(temporary)
        try sync()
    }

    /// Replaces certificate and authority; the key stays.
    func updateCertificate(_ credentials: Credentials) throws(ClientError) {
        try write(Credentials.authorityFile, credentials.authorityPEM)
        try write(Credentials.certificateFile, credentials.certificatePEM)
        try sync()
    }

    /// Replaces everything but the key, which must be the same.
    func replace(_ credentials: Credentials) throws(ClientError) {
        try writeConfig(credentials.config)
        try updateCertificate(credentials)
    }

    /// Keeps a key that is to take the place of the one that is there, before anybody certifies it.
    func prepareKey(_ key: PrivateKey) throws(ClientError) {
        try write(Credentials.nextKeyFile, key.pem)
        try sync()
    }

    /// Replaces certificate and key by those that `prepareKey` has kept; a crash in between leaves a folder that is read.
    func updateKey(_ credentials: Credentials) throws(ClientError) {
        try updateCertificate(credentials)
        unsafe try check(
            rename(path + "/" + Credentials.nextKeyFile, path + "/" + Credentials.keyFile) == 0, "write",
            path + "/" + Credentials.keyFile)
        try sync()
    }

    func writeConfig(_ config: Credentials.Config) throws(ClientError) {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .prettyPrinted, .withoutEscapingSlashes]
        guard let data = try? encoder.encode(config) else {
            throw .credentials("the configuration cannot be written", "Report this.")
        }
        try write(Credentials.configFile, Array(data) + [UInt8(ascii: "\n")])
    }

    /// Writes a file beside its place, makes it durable and moves it there.
    private func write(_ name: String, _ bytes: [UInt8]) throws(ClientError) {
        let target = path + "/" + name
        let temporary = target + ".new-\(getpid())"
        unsafe unlink(temporary)
        let fd = unsafe open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        try check(fd >= 0, "write", temporary)
        let file = FileDescriptor(owning: fd)
        var offset = 0
        while offset < bytes.count {
            let count = unsafe bytes.withUnsafeBytes { all in
                unsafe Glibc.write(file.raw, all.baseAddress.map { unsafe $0 + offset }, bytes.count - offset)
            }
            if count < 0 && errno == EINTR { continue }
            try check(count > 0, "write", temporary)
            offset += count
        }
        try check(fsync(file.raw) == 0, "write", temporary)
        unsafe try check(rename(temporary, target) == 0, "write", target)
    }

    private var parent: CredentialFolder {
        let parts = path.split(separator: "/", omittingEmptySubsequences: true).dropLast().joined(
            separator: "/")
        if path.hasPrefix("/") { return CredentialFolder(path: "/" + parts, option: option) }
        return CredentialFolder(path: parts.isEmpty ? "." : parts, option: option)
    }

    private func makeParents() throws(ClientError) {
        let folder = parent
        if unsafe access(folder.path, F_OK) == 0 { return }
        try folder.makeParents()
        let isMade = unsafe mkdir(folder.path, 0o755) == 0 || errno == EEXIST
        try check(isMade, "create", folder.path)
    }

    private func sync() throws(ClientError) {
        let fd = unsafe open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        try check(fd >= 0, "open", path)
        let folder = FileDescriptor(owning: fd)
        try check(fsync(folder.raw) == 0, "sync", path)
    }

    private func remove() {
        for name in [
            Credentials.authorityFile, Credentials.certificateFile, Credentials.configFile,
            Credentials.keyFile,
        ] {
            unsafe unlink(path + "/" + name)
        }
        unsafe rmdir(path)
    }

    private func check(_ isGood: Bool, _ verb: String, _ what: String) throws(ClientError) {
        if isGood { return }
        let reason = errno
        let isForbidden = [EACCES, EPERM, EROFS].contains(reason)
        throw .credentials(
            "cannot \(verb) \(what): \(ReactorError.text(errno: reason))",
            isForbidden
                ? "Choose a folder that you may write to, by \(option), or try sudo."
                : "Make room or choose another folder, by \(option), then try again.")
    }
}
