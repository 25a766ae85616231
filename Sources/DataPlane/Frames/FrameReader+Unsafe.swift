import Core
import Services
import Wire

/// Where a connection is in its stream of requests. What arrives is given to it in order; it says what each part is
/// for.
struct FrameReader {
    enum Part {
        /// Between frames, or within a header.
        case header
        /// Within the payload of a WRITE, which goes to the arena buffer of this slot.
        case payload(slot: UInt16)
        /// Within the payload of a control request, which is collected.
        case body
        /// Within a payload that is dropped.
        case skip
        /// A header was read and cannot be taken yet.
        case waiting
        /// HELLO is not answered yet.
        case held
        /// Looks at nothing more.
        case ended
    }

    private(set) var part = Part.header
    /// The request in hand: of the frame that is being read, or that waits.
    private(set) var request = ResourceRequest(opcode: 0, operation: nil)
    /// What requests are judged by.
    private var limits = FrameLimits.greeting
    /// Bytes of the payload that are still to come.
    private(set) var remaining = 0
    private(set) var body: [UInt8] = []
    /// The part of a header that has arrived, where it arrived in pieces.
    private var headerBytes: InlineArray<32, UInt8> = .init(repeating: 0)
    private var headerCount = 0
    /// Frames whose first byte has arrived; tells one half-read frame from the next.
    private var framesBegun: UInt64 = 0
    /// The frame that was found half read last, and when.
    private var half: (frame: UInt64, since: UInt64) = (0, 0)

    // MARK: Where it is

    /// Whether a frame has begun and its end has not arrived; one that waits for room is not the client's fault.
    var isInsideFrame: Bool {
        switch part {
        case .header: headerCount > 0
        case .payload, .body, .skip: true
        case .waiting, .held, .ended: false
        }
    }

    /// Whether a request was taken up of which not all has arrived.
    var isInsideRequest: Bool {
        switch part {
        case .payload, .body: true
        case .header, .skip, .waiting, .held, .ended: false
        }
    }

    /// Whether the request in hand waits for room.
    @inline(__always)
    var isWaiting: Bool { if case .waiting = part { true } else { false } }

    /// Whether what arrives has to be kept for later.
    var isHeldBack: Bool {
        switch part {
        case .waiting, .held: true
        case .header, .payload, .body, .skip, .ended: false
        }
    }

    /// Whether nothing more is looked at.
    var isEnded: Bool { if case .ended = part { true } else { false } }

    /// Since when a frame has been half read, in nanoseconds, as far as that was noted; nil when none is.
    var halfSince: UInt64? { isInsideFrame && half.frame == framesBegun ? half.since : nil }

    /// Notes now whether a frame is half read.
    mutating func noteHalf(now: UInt64) {
        if isInsideFrame, half.frame != framesBegun { half = (framesBegun, now) }
    }

    // MARK: What arrives

    /// Takes of a header what is there, and returns how many bytes that is; true when the header is whole, and so
    /// `request`.
    @inline(__always)
    mutating func takeHeader(_ bytes: UnsafeRawBufferPointer) -> (used: Int, isWhole: Bool) {
        if headerCount == 0 { framesBegun &+= 1 }
        if headerCount == 0, bytes.count >= Limits.headerBytes, let base = bytes.baseAddress {
            request = unsafe ResourceRequest(RequestHeader.load(base), limits)
            return (Limits.headerBytes, true)
        }
        let count = min(bytes.count, Limits.headerBytes - headerCount)
        for index in 0..<count { headerBytes[headerCount + index] = unsafe bytes[index] }
        headerCount += count
        guard headerCount == Limits.headerBytes else { return (count, false) }
        headerCount = 0
        let header = unsafe headerBytes.span.withUnsafeBytes {
            guard let base = $0.baseAddress else { preconditionFailure("32 bytes have an address") }
            return unsafe RequestHeader.load(base)
        }
        request = ResourceRequest(header, limits)
        return (count, true)
    }

    /// Collects some of a body; true when it is whole.
    mutating func collect(_ bytes: UnsafeRawBufferPointer) -> Bool {
        unsafe body.append(contentsOf: bytes)
        return took(bytes.count)
    }

    /// Notes that so many bytes of a payload have arrived; true when it is whole.
    @inline(__always)
    mutating func took(_ count: Int) -> Bool {
        remaining -= count
        return remaining == 0
    }

    // MARK: What becomes of it

    /// Gives what follows the request in hand to `part`; if nothing follows, the frame has ended.
    @inline(__always)
    mutating func expect(_ part: Part) {
        remaining = Int(request.payloadBytes)
        self.part = part
        if remaining == 0 { endFrame() }
    }

    /// Goes back to the boundary between frames.
    @inline(__always)
    mutating func endFrame() {
        part = .header
        headerCount = 0
        if !body.isEmpty { body = [] }
    }

    /// Waits with the request in hand, which is offered again later.
    mutating func wait() { part = .waiting }

    /// Reads nothing until HELLO is answered.
    mutating func hold() { part = .held }

    /// Takes what follows for requests, since HELLO was accepted, with payload of so many bytes at most.
    mutating func establish(payloadBytesMax: UInt32) {
        limits = .established(payloadBytesMax: payloadBytesMax)
        if case .held = part { part = .header }
    }

    /// Drops what is still to come of the request in `slot`, if that is arriving; true when it is.
    mutating func skip(slot: UInt16) -> Bool {
        switch part {
        case .payload(slot): break
        case .body where request.slot == slot: body.removeAll()
        default: return false
        }
        part = .skip
        return true
    }

    /// Nothing more is looked at.
    mutating func end() { part = .ended }
}
