import Core
import Glibc
import TLS

/// Gathers what one connection sends into full TLS records. Payload is encrypted from where it lies.
///
/// One serves all connections of a reactor, in turn: each begins with `begin` and ends with `flush`.
@safe
struct RecordGatherer: ~Copyable {
    /// Shorter pieces are copied: that costs less than a piece of its own.
    private static let copiedBytesMax = 512
    private static let piecesMax = 2 * (Limits.recordBytes / copiedBytesMax + 1)

    /// Headers, and what is copied; a record's worth.
    private let copies: UnsafeMutableRawPointer
    private var copied = 0
    private let pieces: UnsafeMutablePointer<iovec>
    private var pieceCount = 0
    /// Plaintext of the record in hand.
    private var bytes = 0

    init() {
        unsafe copies = .allocate(byteCount: Limits.recordBytes, alignment: 64)
        unsafe pieces = .allocate(capacity: Self.piecesMax)
    }

    deinit {
        unsafe copies.deallocate()
        unsafe pieces.deallocate()
    }

    /// Room in the record in hand, in bytes; never 0, since a full record is encrypted at once.
    var room: Int { Limits.recordBytes - bytes }

    /// Starts anew, whatever another connection left.
    mutating func begin() {
        copied = 0
        pieceCount = 0
        bytes = 0
    }

    /// Adds a header that `store` writes; it lies in one record.
    @inline(__always)
    mutating func appendHeader(
        to tls: TLSConnection, _ store: (UnsafeMutableRawPointer) -> Void
    ) throws(TLSError) {
        if room < Limits.headerBytes { try flush(to: tls) }
        unsafe store(copies + copied)
        try addCopied(Limits.headerBytes, to: tls)
    }

    /// Adds bytes that may be gone when this returns.
    mutating func appendCopy(_ source: UnsafeRawBufferPointer, to tls: TLSConnection) throws(TLSError) {
        var at = 0
        while at < source.count {
            let count = min(source.count - at, room)
            unsafe (copies + copied).copyMemory(from: source.baseAddress! + at, byteCount: count)
            try addCopied(count, to: tls)
            at += count
        }
    }

    /// Adds bytes that stay where they are until `flush`.
    mutating func append(_ source: UnsafeRawBufferPointer, to tls: TLSConnection) throws(TLSError) {
        if source.count <= Self.copiedBytesMax { return try unsafe appendCopy(source, to: tls) }
        var at = 0
        while at < source.count {
            let left = source.count - at
            if bytes == 0, left >= Limits.recordBytes {
                let whole = left & ~(Limits.recordBytes - 1)
                try unsafe tls.write(UnsafeRawBufferPointer(rebasing: source[at..<at + whole]))
                at += whole
                continue
            }
            let count = min(left, room)
            let piece = unsafe UnsafeRawBufferPointer(rebasing: source[at..<at + count])
            if count <= Self.copiedBytesMax {
                try unsafe appendCopy(piece, to: tls)
            } else {
                try unsafe add(piece.baseAddress!, count, to: tls)
            }
            at += count
        }
    }

    /// Encrypts what was gathered.
    mutating func flush(to tls: TLSConnection) throws(TLSError) {
        guard bytes > 0 else { return }
        let record = unsafe UnsafeBufferPointer(start: pieces, count: pieceCount)
        let count = bytes
        begin()
        try unsafe tls.writeRecord(record, count: count)
    }

    @inline(__always)
    private mutating func addCopied(_ count: Int, to tls: TLSConnection) throws(TLSError) {
        let start = unsafe copies + copied
        copied += count
        try unsafe add(start, count, to: tls)
    }

    /// Every byte of a record comes through here, and here alone a full one is encrypted: whoever adds finds room
    /// for a byte at least, so that each turn of a loop over what is left makes progress.
    @inline(__always)
    private mutating func add(
        _ start: UnsafeRawPointer, _ count: Int, to tls: TLSConnection
    ) throws(TLSError) {
        bytes += count
        unsafe addPiece(start, count)
        if room == 0 { try flush(to: tls) }
    }

    /// Adds a piece; one that follows the piece before in memory makes that one longer.
    @inline(__always)
    private mutating func addPiece(_ start: UnsafeRawPointer, _ count: Int) {
        let start = unsafe UnsafeMutableRawPointer(mutating: start)
        if pieceCount > 0 {
            let last = unsafe pieces[pieceCount - 1]
            if unsafe last.iov_base! + last.iov_len == start {
                unsafe pieces[pieceCount - 1].iov_len += count
                return
            }
        }
        precondition(pieceCount < Self.piecesMax, "a record has fewer pieces")
        unsafe pieces[pieceCount] = unsafe iovec(iov_base: start, iov_len: count)
        pieceCount += 1
    }
}
