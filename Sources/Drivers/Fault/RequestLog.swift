import Core
import DriverKit
import Glibc
import Reactor
import Synchronization

/// What reaches a device, in a file: each write, zeroes, discard and flush when it begins and when it ends.
///
/// A record is written before its request begins and before its end is told, so that a flush covers exactly
/// the writes whose end stands before the flush's beginning. `README.md` beside this file has the format. Any
/// thread; blocks as long as the page cache does.
final class RequestLog: Sendable {
    enum Kind: UInt8 {
        case begin = 1
        case end = 2
        case opened = 3
    }

    private struct State: Sendable {
        var next: UInt64 = 1
        var bytes: off_t = 0
        var isResumed = false
        var isBroken = false
    }

    static let magic: UInt32 = 0x5152_4C53
    static let headerBytes = 64
    /// What a log's name ends with, so that no driver takes it for one of its own files.
    static let suffix = ".log"

    private let descriptor: FileDescriptor
    private let state = Mutex(State())

    /// Opens the log in a folder or makes it; what a crash left incomplete at its end is cut off before more is
    /// written.
    init(folder: String, name: String) throws(StatusError) {
        let allowed = name.utf8.allSatisfy { byte in
            UInt8(ascii: "a")...UInt8(ascii: "z") ~= byte || UInt8(ascii: "0")...UInt8(ascii: "9") ~= byte
                || byte == UInt8(ascii: "-") || byte == UInt8(ascii: ".")
        }
        guard allowed, name.hasSuffix(RequestLog.suffix), !name.hasPrefix("."), name.utf8.count <= 64 else {
            throw StatusError(
                .badRequest,
                "the setting record is \"\(name)\"; write a file name of at most 64 small letters, digits, "
                    + "hyphens and dots that ends with \(RequestLog.suffix)")
        }
        let path = "\(folder)/\(name)"
        let fd = unsafe Glibc.open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0o600)
        if fd < 0 { throw PoolFolder.failure(path, errno) }
        descriptor = FileDescriptor(owning: fd)
    }

    /// Goes on where the log ends, at the first record: only then is a process that wrote it before surely
    /// done.
    private func resume(_ state: inout State) {
        state.isResumed = true
        var status = stat()
        guard unsafe fstat(descriptor.raw, &status) == 0 else {
            state.isBroken = true
            return
        }
        (state.next, state.bytes) = RequestLog.scan(descriptor.raw, size: status.st_size)
        state.isBroken = ftruncate(descriptor.raw, state.bytes) != 0
        _ = unsafe append(
            &state, .opened, request: nil, volume: .zero, payload: nil, sequence: nil, status: 0)
    }

    /// Finds the next sequence number and the end of the last whole record.
    private static func scan(_ fd: Int32, size: off_t) -> (next: UInt64, bytes: off_t) {
        var next: UInt64 = 1
        var at: off_t = 0
        var header = [UInt8](repeating: 0, count: headerBytes)
        while unsafe pread(fd, &header, headerBytes, at) == headerBytes {
            let words = unsafe header.withUnsafeBytes { bytes in
                unsafe (
                    magic: bytes.loadUnaligned(as: UInt32.self),
                    sequence: bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self),
                    payload: bytes.loadUnaligned(fromByteOffset: 48, as: UInt32.self)
                )
            }
            let end = at + off_t(headerBytes) + off_t(UInt32(littleEndian: words.payload))
            if UInt32(littleEndian: words.magic) != magic || end > size { break }
            next = max(next, UInt64(littleEndian: words.sequence) &+ 1)
            at = end
        }
        return (next, at)
    }

    /// Says that a request is about to reach the device; nil: it could not be written, and nothing will be.
    func begin(_ request: DriverRequest, volume: Identifier, payload: UnsafeRawBufferPointer?) -> UInt64? {
        unsafe append(.begin, request: request, volume: volume, payload: payload)
    }

    /// Says how the request of this number ended; false: it could not be written.
    func end(_ sequence: UInt64, _ request: DriverRequest, volume: Identifier, status: UInt16) -> Bool {
        unsafe append(
            .end, request: request, volume: volume, payload: nil, sequence: sequence, status: status) != nil
    }

    private func append(
        _ kind: Kind, request: DriverRequest, volume: Identifier, payload: UnsafeRawBufferPointer?,
        sequence: UInt64? = nil, status: UInt16 = 0
    ) -> UInt64? {
        state.withLock { state in
            if !state.isResumed { resume(&state) }
            return unsafe append(
                &state, kind, request: request, volume: volume, payload: payload, sequence: sequence,
                status: status)
        }
    }

    private func append(
        _ state: inout State, _ kind: Kind, request: DriverRequest?, volume: Identifier,
        payload: UnsafeRawBufferPointer?, sequence: UInt64?, status: UInt16
    ) -> UInt64? {
        if state.isBroken { return nil }
        let number = sequence ?? state.next
        let payloadBytes = unsafe payload?.count ?? 0
        var header = [UInt8](repeating: 0, count: RequestLog.headerBytes)
        unsafe header.withUnsafeMutableBytes { bytes in
            func put<Value: FixedWidthInteger & BitwiseCopyable>(_ value: Value, at offset: Int) {
                unsafe bytes.storeBytes(of: value.littleEndian, toByteOffset: offset, as: Value.self)
            }
            put(RequestLog.magic, at: 0)
            put(kind.rawValue, at: 4)
            put(request?.rawOpcode ?? 0, at: 5)
            put(request?.rawFlags ?? 0, at: 6)
            put(number, at: 8)
            put(volume.high.byteSwapped, at: 16)
            put(volume.low.byteSwapped, at: 24)
            put(request?.offset ?? 0, at: 32)
            put(request?.length ?? 0, at: 40)
            put(UInt32(payloadBytes), at: 48)
            put(status, at: 52)
        }
        // The payload goes first: a header stands only before what is there.
        let hasPayload = unsafe put(payload, at: state.bytes + off_t(RequestLog.headerBytes))
        guard hasPayload, unsafe header.withUnsafeBytes({ unsafe put($0, at: state.bytes) }) else {
            state.isBroken = true
            _ = ftruncate(descriptor.raw, state.bytes)
            return nil
        }
        state.bytes += off_t(header.count + payloadBytes)
        if sequence == nil { state.next += 1 }
        return number
    }

    private func put(_ bytes: UnsafeRawBufferPointer?, at offset: off_t) -> Bool {
        guard let bytes = unsafe bytes else { return true }
        var done = 0
        while done < bytes.count {
            let count = unsafe pwrite(
                descriptor.raw, bytes.baseAddress.map { unsafe $0 + done }, bytes.count - done,
                offset + off_t(done))
            if count < 0 && errno == EINTR { continue }
            if count <= 0 { return false }
            done += count
        }
        return true
    }
}
