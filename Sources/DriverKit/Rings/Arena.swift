import Core
import Reactor

// SAFETY: base and size never change and the mapping lives as long as a copy of this value; a buffer's bytes
// belong to whoever holds the request.
/// The memory that requests' buffers lie in: a sealed memfd, so that a driver's process can map it and
/// nothing else.
@safe
public struct Arena: @unchecked Sendable {
    /// Where it is mapped in this process; page aligned.
    public let base: UnsafeMutableRawPointer
    /// Its size in bytes, a multiple of `Limits.arenaGranule`.
    public let bytes: Int
    private let memory: ArenaMemory

    /// Makes an arena of at least this size. Its pages take memory when they are first used.
    public init(bytes: Int) throws(StatusError) {
        guard bytes > 0, bytes <= Limits.arenaBytesMax else {
            throw StatusError(.badRequest, "an arena has between 1 and \(Limits.arenaBytesMax) bytes")
        }
        do throws(ReactorError) {
            try self.init(ArenaMemory(SharedMemory(name: "sluice-arena", bytes: bytes)))
        } catch { throw StatusError(.driverFailed, "no memory for a buffer arena: \(error)") }
    }

    /// Maps an arena that another process made.
    public init(mapping descriptor: consuming FileDescriptor, bytes: Int) throws(StatusError) {
        do throws(ReactorError) {
            try self.init(ArenaMemory(SharedMemory(mapping: descriptor, bytes: bytes)))
        } catch { throw StatusError(.driverFailed, "the buffer arena cannot be mapped: \(error)") }
    }

    private init(_ memory: ArenaMemory) {
        self.memory = memory
        unsafe base = unsafe memory.shared.base
        bytes = memory.shared.bytes
    }

    /// A descriptor of the arena, for another process to map.
    public func descriptor() throws(StatusError) -> FileDescriptor {
        do throws(ReactorError) { return try memory.shared.descriptor.duplicate() } catch {
            throw StatusError(.driverFailed, "the buffer arena cannot be handed over: \(error)")
        }
    }
}

private final class ArenaMemory: Sendable {
    let shared: SharedMemory

    init(_ shared: consuming SharedMemory) { self.shared = shared }
}
