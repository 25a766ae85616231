import Glibc

/// Short texts from standard input and files.
enum TextInput {
    private static let bytesMax = 1 << 20

    /// All of standard input, or its first line.
    static func standardInput(endsWithLine: Bool = false) throws -> String {
        try read(STDIN_FILENO, name: "standard input", endsWithLine: endsWithLine)
    }

    /// All of a file.
    static func file(_ path: String) throws -> String {
        let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw failure(path, errno) }
        defer { close(descriptor) }
        return try read(descriptor, name: path)
    }

    /// Runs `body`, and writes what it gives to a new file that only its owner can read. The file is made first, so that
    /// nothing is done that cannot be kept, and is taken away again when `body` throws. An existing one is refused.
    static func writeSecret(to path: String, _ body: () throws -> String) throws {
        let descriptor = unsafe open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else {
            if errno == EEXIST { throw Failure(.conflict, "\(path) exists already; name another file") }
            throw failure(path, errno)
        }
        defer { close(descriptor) }
        let text: String
        do { text = try body() } catch {
            unsafe unlink(path)
            throw error
        }
        var rest = Array(text.utf8)[...]
        while !rest.isEmpty {
            let count = unsafe rest.withUnsafeBytes { unsafe write(descriptor, $0.baseAddress, $0.count) }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { throw failure(path, errno) }
            rest = rest.dropFirst(count)
        }
    }

    private static func read(
        _ descriptor: Int32, name: String, endsWithLine: Bool = false
    ) throws -> String {
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 64 << 10)
        while true {
            let count = unsafe chunk.withUnsafeMutableBytes {
                unsafe Glibc.read(descriptor, $0.baseAddress, $0.count)
            }
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else { throw failure(name, errno) }
            if count == 0 { break }
            bytes += chunk[..<count]
            if endsWithLine, bytes.contains(UInt8(ascii: "\n")) { break }
            guard bytes.count <= bytesMax else { throw Failure(.usage, "\(name) is too long for a token") }
        }
        guard let text = String(validating: bytes, as: UTF8.self) else {
            throw Failure(.usage, "\(name) holds no text")
        }
        return text
    }

    private static func failure(_ name: String, _ number: Int32) -> Failure {
        let status: ExitStatus =
            switch number {
            case ENOENT: .notFound
            case EACCES, EPERM: .denied
            default: .failure
            }
        return Failure(status, "\(name): \(unsafe String(cString: strerror(number)))")
    }
}
