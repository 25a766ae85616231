import Core
import DriverKit
import Glibc
import Reactor

// SAFETY: the mapping lives as long as this object; the header is touched by the pool's control calls only,
// one at a time; whoever made the memory, its size was checked before it was mapped.
/// The memory of one segment, a memfd that the server keeps: a header page, the chunks' words, the bytes.
@safe
final class KeptSegment: @unchecked Sendable {
    // SAFETY: see above.
    private let memory: SharedMemory
    /// The segment's bytes, whole chunks.
    let bytes: Int
    /// Where they are mapped.
    let base: UnsafeMutableRawPointer
    /// Where their words are mapped.
    let words: UnsafeMutableRawPointer

    private static let headerBytes = 4096
    private static let magic: UInt64 = 0x6D65_6D6F_7279_3031

    /// Zeroed memory.
    init(making wanted: Int) throws(StatusError) {
        let (bytes, wordBytes) = MemorySegment.layout(wanted)
        do throws(ReactorError) {
            memory = try SharedMemory(
                name: "sluice-volume", bytes: KeptSegment.headerBytes + wordBytes + bytes)
        } catch { throw StatusError(.noSpace, "no memory for a volume of \(bytes) bytes: \(error)") }
        self.bytes = bytes
        unsafe words = unsafe memory.base + KeptSegment.headerBytes
        unsafe base = unsafe words + wordBytes
        unsafe memory.base.storeBytes(of: KeptSegment.magic, as: UInt64.self)
        unsafe memory.base.storeBytes(of: UInt64(bytes), toByteOffset: 8, as: UInt64.self)
    }

    /// What an earlier process of the pool made; nil when it is nothing of the kind.
    init?(mapping descriptor: consuming FileDescriptor) throws(StatusError) {
        var status = stat()
        guard unsafe fstat(descriptor.raw, &status) == 0, status.st_size > KeptSegment.headerBytes else {
            return nil
        }
        do throws(ReactorError) {
            memory = try SharedMemory(mapping: descriptor, bytes: Int(status.st_size))
        } catch { throw StatusError(.driverFailed, "a volume's memory cannot be mapped: \(error)") }
        let magic = unsafe memory.base.load(as: UInt64.self)
        let bytes = Int(clamping: unsafe memory.base.load(fromByteOffset: 8, as: UInt64.self))
        guard magic == KeptSegment.magic, bytes > 0, bytes <= memory.bytes,
            bytes.isMultiple(of: Limits.memoryChunkBytes)
        else { return nil }
        let (_, wordBytes) = MemorySegment.layout(bytes)
        guard KeptSegment.headerBytes + wordBytes + bytes == memory.bytes else { return nil }
        self.bytes = bytes
        unsafe words = unsafe memory.base + KeptSegment.headerBytes
        unsafe base = unsafe words + wordBytes
    }

    /// The size of the volume that the segment is the first of.
    var volumeSize: UInt64 {
        get { unsafe memory.base.load(fromByteOffset: 16, as: UInt64.self) }
        set { unsafe memory.base.storeBytes(of: newValue, toByteOffset: 16, as: UInt64.self) }
    }

    func keep(in store: any DescriptorStore, as name: String) throws(StatusError) {
        try store.keep(memory.descriptor, as: name)
    }
}

/// Volumes in memory that the server keeps, as `memory/ID/NUMBER` for each segment of a volume. A volume
/// exists while its segment 0 is kept, and that one knows its size.
final class KeptMemory: Sendable {
    private let store: any DescriptorStore
    private static let prefix = "memory"

    init(_ store: any DescriptorStore) { self.store = store }

    private static func name(_ id: Identifier, _ number: Int) -> String { "\(prefix)/\(id.hex)/\(number)" }

    /// What earlier processes of the pool left.
    func volumes(budget: MemoryBudget) throws(StatusError) -> [Identifier: MemoryVolume] {
        var counts: [Identifier: Int] = [:]
        for name in store.names {
            let parts = name.split(separator: "/")
            guard parts.count == 3, parts[0] == KeptMemory.prefix, let id = Identifier(hex: String(parts[1])),
                let number = Int(parts[2])
            else { continue }
            counts[id] = max(counts[id] ?? 0, number + 1)
        }
        var found: [Identifier: MemoryVolume] = [:]
        for (id, count) in counts {
            if let volume = try volume(id, segments: count, budget: budget) {
                found[id] = volume
            } else {
                // It was being deleted.
                for number in 0..<count { store.forget(KeptMemory.name(id, number)) }
            }
        }
        return found
    }

    private func volume(
        _ id: Identifier, segments count: Int, budget: MemoryBudget
    ) throws(StatusError) -> MemoryVolume? {
        guard let first = try store.descriptor(KeptMemory.name(id, 0)) else { return nil }
        var kept: [KeptSegment] = []
        if let segment = try KeptSegment(mapping: first) { kept.append(segment) }
        for number in 1..<max(1, count) {
            guard let descriptor = try store.descriptor(KeptMemory.name(id, number)),
                let segment = try KeptSegment(mapping: descriptor)
            else { break }
            kept.append(segment)
        }
        let room = kept.reduce(UInt64(0)) { $0 + UInt64($1.bytes) }
        guard let size = kept.first?.volumeSize, size > 0, size % Limits.volumeSizeGranule == 0, size <= room
        else {
            throw StatusError(
                .driverFailed, "the memory of the volume \(id) is damaged; delete the pool and make it anew")
        }
        return MemoryVolume(size: size, segments: kept.map { MemorySegment($0, budget: budget) })
    }

    /// Makes a volume and has it kept.
    func make(_ id: Identifier, size: UInt64, budget: MemoryBudget) throws(StatusError) -> MemoryVolume {
        let kept = try KeptSegment(making: Int(size))
        kept.volumeSize = size
        try kept.keep(in: store, as: KeptMemory.name(id, 0))
        return MemoryVolume(size: size, segments: [MemorySegment(kept, budget: budget)])
    }

    /// The same volume with more room: first the memory is kept, then the size says that it counts.
    func grow(
        _ volume: MemoryVolume, _ id: Identifier, to size: UInt64, budget: MemoryBudget
    ) throws(StatusError) -> MemoryVolume {
        guard let first = volume.segments.first?.shared else {
            throw StatusError(.internalError, "the volume \(id) is in private memory")
        }
        var segments = volume.segments
        let have = segments.reduce(UInt64(0)) { $0 + UInt64($1.bytes) }
        if size > have {
            let more = try KeptSegment(making: Int(size - have))
            try more.keep(in: store, as: KeptMemory.name(id, segments.count))
            segments.append(MemorySegment(more, budget: budget))
        }
        first.volumeSize = size
        return MemoryVolume(size: size, segments: segments)
    }

    /// Has a volume's memory kept no longer, beginning with what says that there is a volume.
    func delete(_ id: Identifier) {
        var number = 0
        let names = Set(store.names)
        while names.contains(KeptMemory.name(id, number)) {
            store.forget(KeptMemory.name(id, number))
            number += 1
        }
    }
}
