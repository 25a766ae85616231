import Glibc

@testable import Attach

/// A folder below the system's temporary one.
enum TemporaryFolder {
    static func make() throws -> String {
        var template = Array("/tmp/sluice-attach-XXXXXX".utf8CString)
        guard let path = unsafe mkdtemp(&template) else { throw AttachError.system(errno, "mkdtemp") }
        return unsafe String(cString: path)
    }
}

/// Files and commands of the tests.
enum FileTools {
    /// Makes the file, or changes its size.
    static func create(_ path: String, size: UInt64) throws {
        let descriptor = unsafe open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard descriptor >= 0, ftruncate(descriptor, off_t(size)) == 0 else {
            throw AttachError.system(errno, path)
        }
        close(descriptor)
    }

    static func write(_ path: String, _ text: String) throws {
        let descriptor = unsafe open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw AttachError.system(errno, path) }
        defer { close(descriptor) }
        let bytes = Array(text.utf8)
        guard unsafe Glibc.write(descriptor, bytes, bytes.count) == bytes.count else {
            throw AttachError.system(errno, path)
        }
    }

    /// Writes at a file's start, and leaves what follows.
    static func overwrite(_ path: String, _ bytes: [UInt8]) throws {
        let descriptor = unsafe open(path, O_WRONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw AttachError.system(errno, path) }
        defer { close(descriptor) }
        guard unsafe Glibc.write(descriptor, bytes, bytes.count) == bytes.count else {
            throw AttachError.system(errno, path)
        }
    }

    static func sync(_ path: String) throws {
        let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw AttachError.system(errno, path) }
        defer { close(descriptor) }
        guard fsync(descriptor) == 0 else { throw AttachError.system(errno, path) }
    }

    static func remove(_ folder: String) throws {
        _ = try Subprocess.run(["rm", "-rf", "--one-file-system", folder])
    }
}
