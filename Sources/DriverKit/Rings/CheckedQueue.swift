import Core

/// What a queue must know of what is open to judge the requests for it, such as a volume's geometry.
public protocol RequestBounds {
    /// Judges a request as it came out of a ring. `ok` means that its opcode is known, that its range may be asked for,
    /// and that its buffer, where it has one, lies within an arena of `arenaBytes`: nothing needs checking after that.
    func check(_ request: DriverRequest, arenaBytes: Int) -> Status
}

/// A request as it leaves the submission ring, judged.
public enum CheckedRequest<Open> {
    /// This is open, its bounds allow the range, and the buffer lies within the arena: nothing needs checking after this.
    case valid(DriverRequest, DriverOpcode, Open)
    /// It cannot be done: to be completed with this status.
    case refused(tag: UInt64, Status)
}

/// The two rings of a queue, as a driver uses them: every request is judged once, here, and a driver sees none that could
/// harm it. Of the queue's thread.
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
    /// - Parameter find: what is open under that index, as the driver knows it, and its bounds; nil where nothing is.
    @inlinable
    @inline(__always)
    public func next<Open, Bounds: RequestBounds>(
        _ find: (UInt32) -> (Open, Bounds)?
    ) -> CheckedRequest<Open>? {
        guard let request = submissions.pop() else { return nil }
        guard let (open, bounds) = find(request.index) else {
            return .refused(tag: request.tag, .badHandle)
        }
        let status = bounds.check(request, arenaBytes: arenaBytes)
        guard status == .ok, let opcode = request.opcode else { return .refused(tag: request.tag, status) }
        return .valid(request, opcode, open)
    }

    /// Answers a request that was taken.
    ///
    /// - Parameters:
    ///   - covered: how many bytes were covered; nothing counts unless the status is `ok`.
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
