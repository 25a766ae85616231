/// Bytes that must not be printed and are zeroed when the last owner lets go.
///
/// It has no description on purpose. Any thread.
@safe
public final class SecretBytes: Sendable {
    // SAFETY: written in init and zeroed in deinit only; between the two it is read-only.
    nonisolated(unsafe) private let storage: UnsafeMutableBufferPointer<UInt8>

    /// A copy of `bytes`; the caller's array is the caller's to forget.
    public init(_ bytes: [UInt8]) {
        unsafe storage = UnsafeMutableBufferPointer<UInt8>.allocate(capacity: bytes.count)
        _ = unsafe storage.initialize(from: bytes)
    }

    deinit {
        for index in 0..<count { unsafe storage[index] = 0 }
        wipeBarrier(UInt(bitPattern: unsafe storage.baseAddress))
        unsafe storage.deallocate()
    }

    /// The number of bytes.
    public var count: Int { unsafe storage.count }

    /// Lends the bytes to `body`, which must not keep the pointer.
    public func withBytes<Result, Failure: Error>(
        _ body: (UnsafeBufferPointer<UInt8>) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        try unsafe body(UnsafeBufferPointer(storage))
    }

    /// Whether these are the same bytes, in time that depends on the lengths only.
    public func equals(_ other: [UInt8]) -> Bool {
        guard other.count == count else { return false }
        var difference: UInt8 = 0
        for index in 0..<other.count { difference |= unsafe storage[index] ^ other[index] }
        return difference == 0
    }
}

/// Takes the address of wiped memory, so that the optimiser must keep the wipe.
@inline(never)
@_optimize(none)
private func wipeBarrier(_ address: UInt) {}
