import Wire

/// Where a connection is in its stream of requests.
struct FrameReader {
    enum Part {
        /// Between frames, or within a header.
        case header
        /// Within the payload of a WRITE, which goes to its arena buffer.
        case payload
        /// Within the payload of a control request, which is collected.
        case body
        /// Within a payload that is dropped.
        case skip
        /// A header was read and cannot be taken yet.
        case waiting
        /// HELLO is not answered yet.
        case held
        /// Nothing more is looked at.
        case ended
    }

    var part = Part.header
    /// The header in hand: of the frame that is being read, or that waits.
    var header = RequestHeader(opcode: 0)
    /// Bytes of the payload that are still to come.
    var remaining = 0
    var slot: UInt16 = 0
    var body: [UInt8] = []
    /// The part of a header that has arrived, where it arrived in pieces.
    var headerBytes: InlineArray<32, UInt8> = .init(repeating: 0)
    var headerCount = 0
    /// Frames whose first byte has arrived; tells one half-read frame from the next.
    var framesBegun: UInt64 = 0

    /// Whether a frame has begun and its end has not arrived; one that waits for room is not the client's fault.
    var isInsideFrame: Bool {
        switch part {
        case .header: headerCount > 0
        case .payload, .body, .skip: true
        case .waiting, .held, .ended: false
        }
    }

    /// Whether what arrives has to be kept for later.
    var isHeldBack: Bool { part == .waiting || part == .held }

    /// Goes back to the boundary between frames.
    mutating func endFrame() {
        part = .header
        headerCount = 0
        if !body.isEmpty { body = [] }
    }
}
