/// Looks at a connection's first bytes, so that a client of another protocol gets an answer that it can read.
struct PrefaceCheck {
    enum Outcome {
        case needsMore
        /// These bytes go on to the session as they are.
        case passed
        /// The preface came in pieces: all of it, and what followed.
        case passedWith([UInt8])
    }

    /// The client has shown that it speaks HTTP/2.
    private(set) var isDone = false
    private var held: [UInt8] = []

    mutating func check(_ bytes: UnsafeRawBufferPointer) throws(HTTP2Error) -> Outcome {
        if isDone { return .passed }
        if held.isEmpty, bytes.count >= connectionPreface.count,
            unsafe bytes.prefix(connectionPreface.count).elementsEqual(connectionPreface)
        {
            isDone = true
            return .passed
        }
        let missing = connectionPreface.count - held.count
        unsafe held.append(contentsOf: bytes.prefix(missing))
        let expected = connectionPreface.prefix(held.count)
        guard held.elementsEqual(expected) else {
            if Self.mayBecomeHTTP1(held) { return .needsMore }
            throw .notHTTP2(refusal: nonHTTP2Refusal(held))
        }
        guard held.count == connectionPreface.count else { return .needsMore }
        isDone = true
        let whole = unsafe held + bytes.dropFirst(missing)
        held = []
        return .passedWith(whole)
    }

    /// So far a few capital letters only: what they begin is not known yet.
    private static func mayBecomeHTTP1(_ bytes: [UInt8]) -> Bool {
        bytes.count < refusalLookAheadBytes / 2
            && bytes.allSatisfy { $0 >= UInt8(ascii: "A") && $0 <= UInt8(ascii: "Z") }
    }
}

extension Array where Element == UInt8 {
    /// Calls `body` with the bytes, keeping its typed error.
    func withBytes<Failure: Error>(
        _ body: (UnsafeRawBufferPointer) throws(Failure) -> Void
    ) throws(Failure) {
        let result = unsafe withUnsafeBytes { bytes in
            Result { () throws(Failure) in unsafe try body(bytes) }
        }
        try result.get()
    }
}
