import Core
import DriverKit

/// What a device says of blocks, together with what was changed since a marker.
extension ServiceShard {
    /// Splits the extents that a driver found where what was changed begins and ends. They may come to less than was
    /// asked for, as there is room for so many.
    ///
    /// - Parameter isKnown: false when the driver knows nothing: all counts as data.
    /// - Returns: the bytes of extents in the request's buffer, and what they cover; nil when the driver's are not sound.
    func mapChanges(
        _ request: Slot, _ completion: DriverCompletion, isKnown: Bool, since marker: Marker
    ) -> (bytes: UInt32, covered: UInt64)? {
        guard let port = ports[Int(request.port)], Int(request.bufferBytes) >= Limits.blockStatusBytesMax
        else {
            preconditionFailure("a BLOCK_STATUS has room for its answer")
        }
        // SAFETY: the buffer belongs to the request and has room for all that an answer can be.
        let buffer = unsafe port.arena.base + Int(request.bufferOffset)
        return unsafe withUnsafeTemporaryAllocation(
            byteCount: Limits.blockStatusBytesMax, alignment: 16
        ) { copy -> (UInt32, UInt64)? in
            guard let base = copy.baseAddress else { return nil }
            // Copied before it is judged: the driver's host may go on writing where it lies.
            var found = completion
            if isKnown {
                guard Int(found.mapBytes) <= copy.count else { return nil }
                unsafe base.copyMemory(from: buffer, byteCount: Int(found.mapBytes))
            } else {
                unsafe BlockExtent(length: UInt64(request.count), flags: .allocated).store(base)
                found.mapBytes = UInt32(BlockExtent.byteCount)
                found.value = UInt64(request.count)
            }
            guard unsafe ServiceShard.isSoundMap(UnsafeRawPointer(base), found, count: request.count) else {
                return nil
            }
            var writer = unsafe BlockMapWriter(buffer: buffer, length: UInt64(request.count))
            var position = request.offset
            for at in stride(from: 0, to: Int(found.mapBytes), by: BlockExtent.byteCount) {
                guard let extent = unsafe BlockExtent.load(base + at) else { return nil }
                let end = position + extent.length
                while position < end, unsafe writer.goesOn {
                    let (next, isChanged) = marker.bitmap?.run(from: position, to: end) ?? (end, true)
                    unsafe writer.append(
                        next - position, isChanged ? extent.flags.union(.changed) : extent.flags)
                    position = next
                }
            }
            return unsafe (UInt32(writer.bytes), writer.covered)
        }
    }
}
