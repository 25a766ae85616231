// What requests on volumes are decided by, where it lies in the arena.
import Core
import DriverKit

extension ServiceShard {
    /// The first byte of a COMPARE_AND_WRITE that is not as expected; nil when all are.
    func firstDifference(_ request: Slot) -> Int? {
        let expected = RequestRoom.payload(request).lowerBound
        let found = Int(RequestRoom.found(request.count))
        let count = Int(request.count)
        guard let port = ports[Int(request.port)], found + count <= Int(request.bufferBytes) else {
            preconditionFailure("a COMPARE_AND_WRITE has room for what is there")
        }
        // SAFETY: both ranges lie in the request's buffer. The driver's host may change the bytes at any time, which
        // is why each is read once.
        let base = unsafe port.arena.base + Int(request.bufferOffset)
        var at = 0
        while at < count {
            let step = min(8, count - at)
            var difference: UInt64 = 0
            for index in 0..<step {
                let left = unsafe base.load(fromByteOffset: expected + at + index, as: UInt8.self)
                let right = unsafe base.load(fromByteOffset: found + at + index, as: UInt8.self)
                difference |= UInt64(left ^ right) << UInt64(8 * index)
            }
            if difference != 0 { return at + difference.trailingZeroBitCount / 8 }
            at += step
        }
        return nil
    }

    /// Whether the extents that a driver found are whole, known, and cover what it says.
    func isSoundMap(_ request: Slot, _ completion: DriverCompletion) -> Bool {
        guard let port = ports[Int(request.port)], completion.mapBytes <= request.bufferBytes else {
            return false
        }
        // SAFETY: the request's buffer has at least `mapBytes`.
        let extents = unsafe UnsafeRawPointer(port.arena.base + Int(request.bufferOffset))
        return unsafe ServiceShard.isSoundMap(extents, completion, count: request.count)
    }

    /// Likewise, for extents that lie at `extents`, of a request for `count` bytes.
    ///
    /// - Safety: `extents` points at `completion.mapBytes` readable bytes, if they are not more than an answer may have.
    static func isSoundMap(
        _ extents: UnsafeRawPointer, _ completion: DriverCompletion, count: UInt32
    ) -> Bool {
        let bytes = Int(completion.mapBytes)
        guard bytes > 0, bytes <= Limits.blockStatusBytesMax, bytes.isMultiple(of: BlockExtent.byteCount),
            completion.value <= UInt64(count)
        else { return false }
        var left = completion.value
        for at in stride(from: 0, to: bytes, by: BlockExtent.byteCount) {
            guard let extent = unsafe BlockExtent.load(extents + at), extent.flags.isSubset(of: .ofDevices),
                extent.length > 0, extent.length <= left
            else { return false }
            left -= extent.length
        }
        return left == 0
    }

    /// The first extent of what is known about a copy's source; nil where it is none that can be used.
    func firstExtent(
        _ request: Slot, _ completion: DriverCompletion, blockSize: UInt32
    ) -> BlockExtent? {
        guard isSoundMap(request, completion), let port = ports[Int(request.port)] else { return nil }
        // SAFETY: the answer has at least one extent, within the request's buffer. It may have changed since.
        let extent = unsafe BlockExtent.load(port.arena.base + Int(request.bufferOffset))
        guard let extent, extent.length > 0, extent.length.isMultiple(of: UInt64(blockSize)) else {
            return nil
        }
        return extent
    }
}
