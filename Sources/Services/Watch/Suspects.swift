import Core
import Wire

/// Which request one is, whoever sends it again and however often: that of a key for some bytes of a volume.
public struct RequestIdentity: Sendable, Hashable {
    /// The TLS key of who asks.
    public let holder: Digest32
    /// The volume.
    public let volume: Identifier
    /// What is asked, as on the wire.
    public let opcode: UInt16
    /// Where, in bytes.
    public let offset: UInt64
    /// How many bytes.
    public let count: UInt32

    /// A request.
    public init(holder: Digest32, volume: Identifier, opcode: UInt16, offset: UInt64, count: UInt32) {
        self.holder = holder
        self.volume = volume
        self.opcode = opcode
        self.offset = offset
        self.count = count
    }

    /// What is asked, in words.
    var opcodeName: String {
        guard let known = Opcode(rawValue: opcode), !known.kind.isControl else {
            return "request of kind \(opcode)"
        }
        return known.name
    }
}

/// What is written down when the watchdog ends a server, a line each; the next server reads it.
public struct WatchdogRecord: Sendable, Hashable {
    /// Unix seconds.
    public let at: UInt64
    /// The reactor that stood.
    public let reactor: String
    /// For how long, in milliseconds.
    public let milliseconds: UInt64
    /// What it was at, if that was a request.
    public let request: RequestIdentity?

    /// A record.
    public init(at: UInt64, reactor: String, milliseconds: UInt64, request: RequestIdentity?) {
        self.at = at
        self.reactor = reactor
        self.milliseconds = milliseconds
        self.request = request
    }

    /// The line, without its end.
    public var line: String {
        let words = ["\(at)", reactor, "\(milliseconds)"]
        guard let request else { return words.joined(separator: " ") }
        return
            (words + [
                "\(request.holder)", request.volume.hex, "\(request.opcode)", "\(request.offset)",
                "\(request.count)",
            ]).joined(separator: " ")
    }

    /// A record from its line; nil for anything else.
    public init?(line: Substring) {
        let words = line.split(separator: " ", omittingEmptySubsequences: false).map(String.init)
        guard words.count == 3 || words.count == 8, let at = UInt64(words[0]),
            let milliseconds = UInt64(words[2])
        else { return nil }
        self.at = at
        reactor = words[1]
        self.milliseconds = milliseconds
        guard words.count == 8 else {
            request = nil
            return
        }
        guard let holder = Digest32(hex: words[3]), let volume = Identifier(hex: words[4]),
            let opcode = UInt16(words[5]), let offset = UInt64(words[6]), let count = UInt32(words[7])
        else { return nil }
        request = RequestIdentity(
            holder: holder, volume: volume, opcode: opcode, offset: offset, count: count)
    }
}

/// Requests at which the server stood until its watchdog ended it: one that has done so twice is not executed a
/// third time, but answered as failed, for a while. A value without I/O.
///
/// Which of the requests that stand in one line for a circle is to blame is not always the one that the reactor was
/// at. So of a key that has ended the server three times within a short while, none is executed that it repeats
/// after the restart.
public struct Suspects: Sendable {
    struct Suspicion: Equatable {
        var ends = 0
        /// Unix seconds.
        var last: UInt64 = 0

        mutating func add(_ at: UInt64) {
            ends += 1
            last = max(last, at)
        }
    }

    private var requests: [RequestIdentity: Suspicion] = [:]
    private var holders: [Digest32: Suspicion] = [:]

    /// Nobody.
    public init() {}

    /// What the records of earlier servers say.
    public init(_ records: [WatchdogRecord]) {
        for record in records {
            guard let request = record.request else { continue }
            requests[request, default: Suspicion()].add(record.at)
            var holder = holders[request.holder] ?? Suspicion()
            // What lies long back says nothing about now.
            if record.at > holder.last + Limits.suspectHolderSeconds { holder = Suspicion() }
            holder.add(record.at)
            holders[request.holder] = holder
        }
        requests = requests.filter { $0.value.ends >= Limits.suspectRequestEnds }
        holders = holders.filter { $0.value.ends >= Limits.suspectHolderEnds }
    }

    /// Whether there is nobody to look for.
    @inline(__always)
    public var isEmpty: Bool { requests.isEmpty && holders.isEmpty }

    /// Why a request is not executed; nil when it is.
    ///
    /// - Parameters:
    ///   - isRepeat: it is the first of its slot after a restart of the server.
    ///   - now: Unix seconds.
    func refusal(_ request: RequestIdentity, isRepeat: Bool, now: UInt64) -> String? {
        if let suspicion = requests[request] {
            let doubled = min(suspicion.ends - Limits.suspectRequestEnds, 7)
            let end = suspicion.last + Limits.suspectRequestSeconds << UInt64(doubled)
            if now < end {
                return
                    "the server stood at it \(suspicion.ends) times; it is tried again after \(Timestamp.text(end))"
            }
        }
        if isRepeat, let suspicion = holders[request.holder],
            now < suspicion.last + Limits.suspectHolderSeconds
        {
            return
                "the server stood \(suspicion.ends) times at requests of this key; what it repeats is not tried again"
        }
        return nil
    }
}

extension Limits {
    /// How often a server may stand at a request before it is not executed any more.
    static let suspectRequestEnds = 2
    /// For how long it is not, in seconds; twice that after each further time, up to 128 times.
    static let suspectRequestSeconds: UInt64 = 600
    /// How often servers may stand at requests of one key before it repeats none.
    static let suspectHolderEnds = 3
    /// Within how many seconds, one after the other, and for how long it repeats none.
    static let suspectHolderSeconds: UInt64 = 600
}

extension ServiceShard {
    /// Whether the server stood at this very request before, so that it is answered as failed.
    @inline(never)
    func isSuspect(_ channel: ServiceChannel, _ asked: ResourceRequest, _ position: UInt8) -> Bool {
        let volume = channel.handles[position].resource
        let request = RequestIdentity(
            holder: channel.thumbprint, volume: volume, opcode: asked.opcode, offset: asked.offset,
            count: asked.count)
        let isRepeat =
            channel.slots.recalls > 0 && Int(asked.slot) < channel.slots.count
            && channel.slots[asked.slot].recall == .anything
        guard
            let why = suspects.refusal(
                request, isRepeat: isRepeat, now: services.configuration.wallClock.now())
        else { return false }
        let name = sight.name(of: volume, on: channel.number)
        let kind = channel.handles[position].opened.noun
        accessLog.warning(
            "a request is not executed",
            [
                "\(kind)": "\(name)", "peer": "\(channel.peerAddress)", "key": "\(channel.thumbprint)",
                "request": "\(request.opcodeName)", "offset": "\(asked.offset)", "bytes": "\(asked.count)",
                "why": "\(why)",
            ])
        let isNew = services.suspectsTold.withLock { told in
            told.count < Limits.suspectsToldMax && told.insert(request).inserted
        }
        if isNew {
            services.configuration.events.append(
                .requestRefused, subject: "\(kind)/\(name)",
                message: "a \(request.opcodeName) of \(asked.count) bytes at \(asked.offset), asked by "
                    + "\(channel.peerAddress), is answered as failed: \(why)")
        }
        return true
    }
}

extension Limits {
    /// The most requests that an event tells of.
    static let suspectsToldMax = 64
}
