import Core
import DriverKit

/// What happens to a request that a rule picks.
enum Fault: Equatable, Sendable {
    /// It fails with this status, and nothing is done.
    case error(Status)
    /// It waits, in nanoseconds, and is then done.
    case delay(UInt64)
    /// It is neither done nor answered as long as the rules stay.
    case hang
    /// The thread runs in a circle for so many nanoseconds before it is done: nothing else of its reactor goes on.
    case spin(UInt64)
    /// The process aborts: before the request is done, or when it was done and before that is said.
    case crash
    /// Only the first blocks of a write are done; then it fails, or the process aborts.
    case torn(crash: Bool)
    /// One bit of what is read, or of what reaches the device, is wrong.
    case bitFlip
    /// Some of the writes since the last flush are lost; then every request fails until its volume is opened
    /// anew, or the process aborts.
    case powerCut(crash: Bool)

    /// The operations that it can hit.
    var operations: OperationSet {
        switch self {
        case .error(.noSpace): [.write, .writeZeroes, .prepare]
        case .error, .delay: [.all, .prepare]
        case .hang, .spin, .crash, .powerCut: .all
        case .torn: [.write]
        case .bitFlip: [.read, .write]
        }
    }

    /// Whether it ends the process.
    var endsProcess: Bool {
        switch self {
        case .crash, .torn(crash: true), .powerCut(crash: true): true
        case .error, .delay, .hang, .spin, .torn, .bitFlip, .powerCut: false
        }
    }

    var isPowerCut: Bool {
        if case .powerCut = self { return true }
        return false
    }

    /// The word that the rules say.
    var word: String {
        switch self {
        case .error(.noSpace): "nospace"
        case .error: "error"
        case .delay: "delay"
        case .hang: "hang"
        case .spin: "spin"
        case .crash: "crash"
        case .torn: "torn"
        case .bitFlip: "bitflip"
        case .powerCut: "powercut"
        }
    }
}

/// A set of operations.
struct OperationSet: OptionSet, Hashable, Sendable {
    let rawValue: UInt8

    init(rawValue: UInt8) { self.rawValue = rawValue }
    init(_ opcode: DriverOpcode) { rawValue = 1 << opcode.rawValue }

    static let read = OperationSet(.read)
    static let write = OperationSet(.write)
    static let writeZeroes = OperationSet(.writeZeroes)
    static let discard = OperationSet(.discard)
    static let flush = OperationSet(.flush)
    static let blockStatus = OperationSet(.blockStatus)
    /// No request: what a volume's device needs before it is made or larger. Rules have to name it.
    static let prepare = OperationSet(rawValue: 1 << 7)
    /// Every request.
    static let all: OperationSet = [.read, .write, .writeZeroes, .discard, .flush, .blockStatus]

    /// The words that the rules say.
    static let words: [(word: String, set: OperationSet)] = [
        ("read", .read), ("write", .write), ("zeroes", .writeZeroes), ("discard", .discard),
        ("flush", .flush), ("status", .blockStatus), ("prepare", .prepare),
    ]

    var description: String {
        OperationSet.words.filter { contains($0.set) }.map(\.word).joined(separator: ", ")
    }
}

/// One rule: which requests it counts, which of them it picks, and what happens to those.
struct FaultRule: Equatable, Sendable {
    /// A chance of `hits` in `of`.
    struct Chance: Equatable, Sendable {
        var hits: UInt64
        var of: UInt64
    }

    var operations: OperationSet
    var fault: Fault
    /// How many requests pass before the rule begins.
    var after: UInt64 = 0
    /// Then it picks every so many-th one.
    var every: UInt64?
    /// Or exactly this one, counted from 1.
    var nth: UInt64?
    /// And of those it picks at random.
    var chance: Chance?
    /// It picks at most so many.
    var count: UInt64?
}

/// The rules of a `fault` pool, in the order in which they are asked.
struct FaultRules: Equatable, Sendable {
    var rules: [FaultRule] = []

    /// Whether a rule ends the process.
    var endsProcess: Bool { rules.contains { $0.fault.endsProcess } }

    /// Whether writes must be kept so that a power cut can lose them.
    var cutsPower: Bool { rules.contains { $0.fault.isPowerCut } }
}
