import Glibc

/// Where a socket listens or connects to: a numeric IP address and port, or a path of a Unix socket.
public struct SocketAddress: Hashable, Sendable, CustomStringConvertible {
    /// The address family's own form, as `sockaddr` bytes.
    private let bytes: [UInt8]

    /// Parses `192.0.2.1:7481`, `[2001:db8::1]:7481` or `unix:/path`.
    public init(text: String) throws(ReactorError) {
        if text.hasPrefix("unix:") {
            guard let made = SocketAddress(unixPath: String(text.dropFirst(5))) else {
                throw .badAddress(text)
            }
            self = made
            return
        }
        guard let colon = text.lastIndex(of: ":"),
            let port = SocketAddress.port(text[text.index(after: colon)...])
        else { throw .badAddress(text) }
        let host = text[..<colon]
        if host.hasPrefix("[") && host.hasSuffix("]") {
            guard let made = SocketAddress(v6: String(host.dropFirst().dropLast()), port: port) else {
                throw .badAddress(text)
            }
            self = made
        } else {
            guard let made = SocketAddress(v4: String(host), port: port) else { throw .badAddress(text) }
            self = made
        }
    }

    /// An address from a numeric host of either family, without brackets.
    public init(host: String, port: UInt16) throws(ReactorError) {
        guard let made = SocketAddress(v4: host, port: port) ?? SocketAddress(v6: host, port: port) else {
            throw .badAddress(host)
        }
        self = made
    }

    private static func port(_ text: Substring) -> UInt16? {
        guard !text.isEmpty, text.count <= 5, text.utf8.allSatisfy({ $0 >= 48 && $0 <= 57 }) else {
            return nil
        }
        return UInt16(text)
    }

    private init?(v4 host: String, port: UInt16) {
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        guard unsafe inet_pton(AF_INET, host, &address.sin_addr) == 1 else { return nil }
        bytes = unsafe withUnsafeBytes(of: address) { unsafe [UInt8]($0) }
    }

    private init?(v6 host: String, port: UInt16) {
        var address = sockaddr_in6()
        address.sin6_family = sa_family_t(AF_INET6)
        address.sin6_port = port.bigEndian
        guard unsafe inet_pton(AF_INET6, host, &address.sin6_addr) == 1 else { return nil }
        bytes = unsafe withUnsafeBytes(of: address) { unsafe [UInt8]($0) }
    }

    private init?(unixPath path: String) {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let text = [UInt8](path.utf8)
        let fits = unsafe withUnsafeMutableBytes(of: &address.sun_path) { room in
            guard !text.isEmpty, text.count < room.count, !text.contains(0) else { return false }
            unsafe room.copyBytes(from: text)
            return true
        }
        guard fits else { return nil }
        bytes = unsafe withUnsafeBytes(of: address) { unsafe [UInt8]($0) }
    }

    init?(storage: sockaddr_storage, length: socklen_t) {
        let all = unsafe withUnsafeBytes(of: storage) { unsafe [UInt8]($0) }
        let size: Int
        switch Int32(storage.ss_family) {
        case AF_INET: size = MemoryLayout<sockaddr_in>.size
        case AF_INET6: size = MemoryLayout<sockaddr_in6>.size
        case AF_UNIX: size = MemoryLayout<sockaddr_un>.size
        default: return nil
        }
        guard Int(length) <= size || Int32(storage.ss_family) != AF_UNIX else { return nil }
        let made = SocketAddress(bytes: [UInt8](all.prefix(size)))
        self = made.unmapped ?? made
    }

    private init(bytes: [UInt8]) { self.bytes = bytes }

    /// The IPv4 address that this is in IPv6 clothes, as a socket that takes both has its peers.
    private var unmapped: SocketAddress? {
        guard family == AF_INET6, hostBytes.count == 4 else { return nil }
        return SocketAddress(v4: hostBytes.map(String.init).joined(separator: "."), port: port)
    }

    /// Whether it is all addresses of IPv6, and none of the others is one of IPv4 with its port.
    func takesIPv4(beside others: [SocketAddress]) -> Bool {
        family == AF_INET6 && hostBytes.count == 16 && hostBytes.allSatisfy { $0 == 0 }
            && !others.contains { $0.family == AF_INET && $0.port == port }
    }

    /// `AF_INET`, `AF_INET6` or `AF_UNIX`.
    public var family: Int32 { unsafe bytes.withUnsafeBytes { unsafe Int32($0.load(as: sa_family_t.self)) } }

    /// The port; 0 for a Unix socket.
    public var port: UInt16 {
        if family == AF_UNIX { return 0 }
        return UInt16(bytes[2]) << 8 | UInt16(bytes[3])
    }

    /// The IP address, 4 or 16 bytes; 4 also where it is an IPv4 address in IPv6 clothes (RFC 4291 §2.5.5.2). Empty for a
    /// Unix socket.
    public var hostBytes: [UInt8] {
        switch family {
        case AF_INET: return Array(bytes[4..<8])
        case AF_INET6:
            let host = Array(bytes[8..<24])
            let isMapped = host[..<10].allSatisfy { $0 == 0 } && host[10] == 0xFF && host[11] == 0xFF
            return isMapped ? Array(host[12...]) : host
        default: return []
        }
    }

    /// Whether who connects there stays on this machine whatever its addresses are: a loopback address, the
    /// unspecified one, which stands for it, or a Unix socket.
    public var isThisMachine: Bool {
        let host = hostBytes
        switch host.count {
        case 4: return host[0] == 127 || host[0] == 0
        case 16: return host[..<15].allSatisfy { $0 == 0 } && host[15] <= 1
        default: return true
        }
    }

    /// The numeric address without port, or the path.
    public var host: String {
        switch family {
        case AF_INET: text(at: 4)
        case AF_INET6: text(at: 8)
        default: String(decoding: bytes.dropFirst(2).prefix { $0 != 0 }, as: UTF8.self)
        }
    }

    private func text(at offset: Int) -> String {
        var buffer = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
        let family = family
        unsafe bytes.withUnsafeBytes { raw in
            _ = unsafe inet_ntop(
                family, raw.baseAddress.map { unsafe $0 + offset }, &buffer, socklen_t(buffer.count))
        }
        return String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// What `init(text:)` reads.
    public var description: String {
        switch family {
        case AF_INET: "\(host):\(port)"
        case AF_INET6: "[\(host)]:\(port)"
        default: "unix:\(host)"
        }
    }

    func withAddress<R>(_ body: (UnsafePointer<sockaddr>, socklen_t) -> R) -> R {
        let (memory, length) = unsafe allocated()
        defer { unsafe memory.deallocate() }
        return unsafe body(UnsafePointer(memory.assumingMemoryBound(to: sockaddr.self)), length)
    }

    /// A copy on the heap, to be deallocated by the caller.
    func allocated() -> (UnsafeMutableRawPointer, socklen_t) {
        let memory = UnsafeMutableRawPointer.allocate(byteCount: bytes.count, alignment: 8)
        unsafe memory.copyMemory(from: bytes, byteCount: bytes.count)
        return unsafe (memory, socklen_t(bytes.count))
    }
}
