import Core
import Wire

/// What a request asks of its resource.
struct RequestDemand {
    /// The family of its opcode.
    let kind: OpcodeKind
    /// The rights that it needs.
    let rights: Rights
    /// Whether the operation covers `count` bytes at `offset` (FLUSH does not).
    let covers: Bool
    /// Whether those bytes travel as payload.
    let moves: Bool
    let count: UInt32
    let offset: UInt64
}

extension RequestDemand {
    @inline(__always)
    init(_ opcode: Opcode, _ rule: OpcodeRule, offset: UInt64, count: UInt32) {
        self.init(
            kind: opcode.kind, rights: rule.rights, covers: rule.covers != .nothing,
            moves: rule.covers == .transfer || rule.payload == .coveredTwice, count: count, offset: offset)
    }
}
