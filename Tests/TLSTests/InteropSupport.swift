import Core
import Foundation
import TestSupport

@testable import TLS

/// The openssl command as a peer, with a folder of its own for its files.
final class OpenSSLCommand {
    let folder: URL

    init() throws {
        folder = FileManager.default.temporaryDirectory.appending(path: "sluice-tls-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    }

    deinit {
        try? FileManager.default.removeItem(at: folder)
    }

    /// Writes a file and returns its path.
    func file(_ name: String, _ bytes: [UInt8]) throws -> String {
        let url = folder.appending(path: name)
        try Data(bytes).write(to: url)
        return url.path
    }

    func read(_ name: String) throws -> [UInt8] {
        Array(try Data(contentsOf: folder.appending(path: name)))
    }

    /// Runs to the end; standard output and error together.
    @discardableResult
    func run(_ arguments: String...) throws -> (status: Int32, text: String) {
        let process = try start(arguments)
        try process.input.close()
        return process.finish()
    }

    /// Starts a command whose input and output the test holds.
    func start(_ arguments: [String]) throws -> RunningCommand {
        try RunningCommand(arguments, folder: folder)
    }
}

/// A command that runs. It is ended when the test lets go of it.
final class RunningCommand {
    let command: Command
    var input: FileHandle { command.input }
    private(set) var text = ""

    fileprivate init(_ arguments: [String], folder: URL) throws {
        // A hanging peer must not hang the test.
        command = try Command(
            ["timeout", "--signal=KILL", "60", "openssl"] + arguments, folder: folder.path)
    }

    // `timeout` hands on every signal but the one that ends it outright.
    deinit {
        command.signal(SIGTERM)
        command.wait()
    }

    func write(_ text: String) throws { try input.write(contentsOf: Data(text.utf8)) }

    /// Reads until the output holds `wanted` that often; false when it ends before that.
    func waitFor(_ wanted: String, times: Int = 1) -> Bool {
        while text.ranges(of: wanted).count < times {
            let data = command.output.availableData
            guard !data.isEmpty else { return false }
            text += String(decoding: data, as: UTF8.self)
        }
        return true
    }

    /// Waits for the end of the command.
    func finish() -> (status: Int32, text: String) {
        text += String(decoding: command.output.readDataToEndOfFile(), as: UTF8.self)
        return (command.wait(), text)
    }
}

/// A connection over a TCP socket that blocks, for at most 30 seconds at a time.
final class SocketConnection {
    let connection: TLSConnection
    private let fd: Int32

    init(_ connection: TLSConnection, fd: Int32) {
        self.connection = connection
        self.fd = fd
        var limit = timeval(tv_sec: 30, tv_usec: 0)
        unsafe setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    }

    deinit {
        close(fd)
    }

    /// Does the handshake; sends the alert when it fails.
    func handshake() throws {
        defer { try? flush() }
        while !(try connection.handshake()) {
            try flush()
            try receive { try connection.handshake() }
        }
    }

    func send(_ text: String) throws {
        try connection.send(Array(text.utf8))
        try flush()
    }

    /// Reads until what was read ends in `end`; nil for the end of the stream.
    func readUntil(_ end: String?) throws -> String {
        var bytes = try connection.readAll()
        while end == nil || !String(decoding: bytes, as: UTF8.self).hasSuffix(end ?? "") {
            let isEnd = try !receive { bytes += try connection.readAll() }
            try flush()
            if isEnd { break }
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    func finish() throws {
        connection.close()
        try flush()
        shutdown(fd, Int32(SHUT_WR))
    }

    private func flush() throws {
        let bytes = connection.drainOutput()
        var start = 0
        while start < bytes.count {
            let count = unsafe bytes.withUnsafeBytes {
                unsafe Glibc.send(fd, $0.baseAddress! + start, $0.count - start, Int32(MSG_NOSIGNAL))
            }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { throw TestFailure("send: errno \(errno)") }
            start += count
        }
    }

    /// Hands what arrives next to `body`; false at the end of the stream.
    @discardableResult
    private func receive<Result>(_ body: () throws -> Result) throws -> Bool {
        var bytes = [UInt8](repeating: 0, count: 16384)
        let count = unsafe bytes.withUnsafeMutableBytes { unsafe recv(fd, $0.baseAddress, $0.count, 0) }
        if count < 0, errno == EINTR { return true }
        guard count >= 0 else { throw TestFailure("recv: errno \(errno)") }
        guard count > 0 else { return false }
        _ = try connection.accept(Array(bytes.prefix(count)), body)
        return true
    }
}

/// TCP on the loopback interface.
enum Loopback {
    /// A listening socket on a free port.
    static func listen() throws -> (fd: Int32, port: UInt16) {
        let fd = socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        var address = self.address(port: 0)
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let done = unsafe withUnsafeMutablePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { generic in
                unsafe bind(fd, generic, length) == 0 && Glibc.listen(fd, 8) == 0
                    && getsockname(fd, generic, &length) == 0
            }
        }
        guard done else { throw TestFailure("listen: errno \(errno)") }
        return (fd, UInt16(bigEndian: address.sin_port))
    }

    static func accept(_ fd: Int32) throws -> Int32 {
        let accepted = Glibc.accept(fd, nil, nil)
        guard accepted >= 0 else { throw TestFailure("accept: errno \(errno)") }
        _ = fcntl(accepted, F_SETFD, FD_CLOEXEC)
        return accepted
    }

    static func connect(port: UInt16) throws -> Int32 {
        let fd = socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        var address = self.address(port: port)
        let done = unsafe withUnsafePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe Glibc.connect(fd, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
            }
        }
        guard done else { throw TestFailure("connect: errno \(errno)") }
        return fd
    }

    private static func address(port: UInt16) -> sockaddr_in {
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        return address
    }
}
