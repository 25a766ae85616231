// Header loads and stores: four unaligned words each, no allocation.
import Core

extension RequestHeader {
    /// The header in the 32 bytes at `source`, of any alignment.
    ///
    /// - Safety: `source` points at 32 readable bytes.
    @inlinable
    @unsafe
    public static func load(_ source: UnsafeRawPointer) -> RequestHeader {
        let first = unsafe UInt64(littleEndian: source.loadUnaligned(fromByteOffset: 0, as: UInt64.self))
        let second = unsafe UInt64(littleEndian: source.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
        let third = unsafe UInt64(littleEndian: source.loadUnaligned(fromByteOffset: 16, as: UInt64.self))
        let fourth = unsafe UInt64(littleEndian: source.loadUnaligned(fromByteOffset: 24, as: UInt64.self))
        return RequestHeader(
            length: UInt32(truncatingIfNeeded: first), opcode: UInt16(truncatingIfNeeded: first >> 32),
            flags: RequestFlags(rawValue: UInt16(truncatingIfNeeded: first >> 48)),
            slot: UInt16(truncatingIfNeeded: second), reserved: UInt16(truncatingIfNeeded: second >> 16),
            sequence: UInt32(truncatingIfNeeded: second >> 32), handle: UInt32(truncatingIfNeeded: third),
            count: UInt32(truncatingIfNeeded: third >> 32), offset: fourth)
    }

    /// Writes the header to the 32 bytes at `target`, of any alignment.
    ///
    /// - Safety: `target` points at 32 writable bytes.
    @inlinable
    @unsafe
    public func store(_ target: UnsafeMutableRawPointer) {
        let first = UInt64(length) | UInt64(opcode) << 32 | UInt64(flags.rawValue) << 48
        let second = UInt64(slot) | UInt64(reserved) << 16 | UInt64(sequence) << 32
        let third = UInt64(handle) | UInt64(count) << 32
        unsafe target.storeBytes(of: first.littleEndian, toByteOffset: 0, as: UInt64.self)
        unsafe target.storeBytes(of: second.littleEndian, toByteOffset: 8, as: UInt64.self)
        unsafe target.storeBytes(of: third.littleEndian, toByteOffset: 16, as: UInt64.self)
        unsafe target.storeBytes(of: offset.littleEndian, toByteOffset: 24, as: UInt64.self)
    }

    /// The header's 32 bytes.
    public var bytes: [UInt8] {
        unsafe Array(unsafeUninitializedCapacity: Limits.headerBytes) { buffer, count in
            guard let base = buffer.baseAddress else { return }
            unsafe store(UnsafeMutableRawPointer(base))
            count = Limits.headerBytes
        }
    }

    /// The header that `bytes` starts with; nil when there are fewer than 32.
    public init?(bytes: some Collection<UInt8>) {
        let head = Array(bytes.prefix(Limits.headerBytes))
        guard head.count == Limits.headerBytes else { return nil }
        self = unsafe head.withUnsafeBytes { buffer in
            guard let base = buffer.baseAddress else {
                preconditionFailure("an array of 32 bytes has an address")
            }
            return unsafe RequestHeader.load(base)
        }
    }
}

extension ReplyHeader {
    /// The header in the 32 bytes at `source`, of any alignment.
    ///
    /// - Safety: `source` points at 32 readable bytes.
    @inlinable
    @unsafe
    public static func load(_ source: UnsafeRawPointer) -> ReplyHeader {
        let first = unsafe UInt64(littleEndian: source.loadUnaligned(fromByteOffset: 0, as: UInt64.self))
        let second = unsafe UInt64(littleEndian: source.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
        let value = unsafe UInt64(littleEndian: source.loadUnaligned(fromByteOffset: 16, as: UInt64.self))
        let detail = unsafe UInt64(littleEndian: source.loadUnaligned(fromByteOffset: 24, as: UInt64.self))
        return ReplyHeader(
            length: UInt32(truncatingIfNeeded: first), status: UInt16(truncatingIfNeeded: first >> 32),
            flags: UInt16(truncatingIfNeeded: first >> 48), slot: UInt16(truncatingIfNeeded: second),
            opcode: UInt16(truncatingIfNeeded: second >> 16),
            sequence: UInt32(truncatingIfNeeded: second >> 32),
            value: value, detail: detail)
    }

    /// Writes the header to the 32 bytes at `target`, of any alignment.
    ///
    /// - Safety: `target` points at 32 writable bytes.
    @inlinable
    @unsafe
    public func store(_ target: UnsafeMutableRawPointer) {
        let first = UInt64(length) | UInt64(status) << 32 | UInt64(flags) << 48
        let second = UInt64(slot) | UInt64(opcode) << 16 | UInt64(sequence) << 32
        unsafe target.storeBytes(of: first.littleEndian, toByteOffset: 0, as: UInt64.self)
        unsafe target.storeBytes(of: second.littleEndian, toByteOffset: 8, as: UInt64.self)
        unsafe target.storeBytes(of: value.littleEndian, toByteOffset: 16, as: UInt64.self)
        unsafe target.storeBytes(of: detail.littleEndian, toByteOffset: 24, as: UInt64.self)
    }

    /// The header's 32 bytes.
    public var bytes: [UInt8] {
        unsafe Array(unsafeUninitializedCapacity: Limits.headerBytes) { buffer, count in
            guard let base = buffer.baseAddress else { return }
            unsafe store(UnsafeMutableRawPointer(base))
            count = Limits.headerBytes
        }
    }

    /// The header that `bytes` starts with; nil when there are fewer than 32.
    public init?(bytes: some Collection<UInt8>) {
        let head = Array(bytes.prefix(Limits.headerBytes))
        guard head.count == Limits.headerBytes else { return nil }
        self = unsafe head.withUnsafeBytes { buffer in
            guard let base = buffer.baseAddress else {
                preconditionFailure("an array of 32 bytes has an address")
            }
            return unsafe ReplyHeader.load(base)
        }
    }
}
