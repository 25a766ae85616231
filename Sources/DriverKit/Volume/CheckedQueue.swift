import Core

/// A request as it leaves the submission ring, judged.
public enum CheckedRequest<Volume> {
    /// This volume is open, the range lies within it, and the buffer within the arena: nothing needs checking after this.
    case valid(DriverRequest, DriverOpcode, Volume)
    /// It cannot be done: to be completed with this status.
    case refused(tag: UInt64, Status)
}

/// The two rings of a queue of volumes, as a driver uses them: every request is judged once, here, and a driver sees none
/// that could harm it. Of the queue's thread.
public struct CheckedQueue {
    /// Where the requests' buffers are.
    public let arena: Arena
    @usableFromInline let submissions: SubmissionRing
    @usableFromInline let completions: CompletionRing
    @usableFromInline let arenaBytes: Int

    /// Over the rings of one queue.
    public init(arena: Arena, submissions: SubmissionRing, completions: CompletionRing) {
        self.arena = arena
        self.submissions = submissions
        self.completions = completions
        arenaBytes = arena.bytes
    }

    /// How many completions find room now: a driver has taken no more requests than that which it has not completed.
    @inlinable public var room: Int { completions.room }

    /// Whether requests wait.
    @inlinable public var hasRequests: Bool { submissions.count > 0 }

    /// Takes the oldest request; nil when there is none. The caller has room for its completion.
    ///
    /// - Parameter open: the open volume of that index, as the driver knows it, and its geometry; nil where there is none.
    @inlinable
    @inline(__always)
    public func next<Volume>(
        _ open: (UInt32) -> (volume: Volume, geometry: VolumeGeometry)?
    ) -> CheckedRequest<Volume>? {
        guard let request = submissions.pop() else { return nil }
        guard let (volume, geometry) = open(request.volume) else {
            return .refused(tag: request.tag, .badHandle)
        }
        let status = geometry.check(request, arenaBytes: arenaBytes)
        guard status == .ok, let opcode = request.opcode else { return .refused(tag: request.tag, status) }
        return .valid(request, opcode, volume)
    }

    /// Answers a request that was taken.
    ///
    /// - Parameters:
    ///   - covered: how many bytes of the volume were covered; nothing counts unless the status is `ok`.
    ///   - mapBytes: how many bytes of extents a block status has put into the buffer.
    @inlinable
    @inline(__always)
    public func complete(_ tag: UInt64, _ status: Status, _ covered: UInt64, mapBytes: UInt32 = 0) {
        let isOK = status == .ok
        let pushed = completions.push(
            DriverCompletion(
                tag: tag, status: status.rawValue, value: isOK ? covered : 0, mapBytes: isOK ? mapBytes : 0))
        precondition(pushed || completions.isBroken, "a request was taken without room for its completion")
    }
}

/// What a queue knows of the open volumes, by their index.
public struct OpenVolumes<Volume> {
    @usableFromInline var volumes: [Volume?] = []

    /// None.
    public init() {}

    /// The volume of an index; nil where none is open.
    @inlinable public subscript(_ index: UInt32) -> Volume? {
        Int(index) < volumes.count ? volumes[Int(index)] : nil
    }

    /// Makes the index name this volume, or none.
    @inlinable public mutating func set(_ index: UInt32, _ volume: Volume?) {
        if Int(index) >= volumes.count {
            guard volume != nil, index < Limits.openVolumesPerPoolMax else { return }
            volumes.append(contentsOf: repeatElement(nil, count: Int(index) + 1 - volumes.count))
        }
        volumes[Int(index)] = volume
    }

    /// Forgets all.
    public mutating func removeAll() { volumes.removeAll() }
}
