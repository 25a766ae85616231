/// Body bytes on their way out: appended at the end, read from the front, each byte copied once.
struct OutgoingBody {
    private var bytes: [UInt8] = []
    private var readOffset = 0
    /// Whether the body ends after the bytes that are here.
    private(set) var isComplete = false

    /// Bytes that have not been read yet.
    var count: Int { bytes.count - readOffset }

    mutating func append(_ more: [UInt8], isLast: Bool) {
        if readOffset == bytes.count {
            bytes = more
            readOffset = 0
        } else {
            if readOffset > bytes.count / 2 {
                bytes.removeFirst(readOffset)
                readOffset = 0
            }
            bytes.append(contentsOf: more)
        }
        isComplete = isComplete || isLast
    }

    /// Copies as much as fits into `buffer`.
    mutating func read(into buffer: UnsafeMutableRawBufferPointer) -> BodyRead {
        let count = min(buffer.count, self.count)
        if count == 0 { return isComplete ? .bytes(0, isLast: true) : .later }
        unsafe bytes.withUnsafeBytes { all in
            unsafe buffer.copyMemory(
                from: UnsafeRawBufferPointer(rebasing: all[readOffset..<readOffset + count]))
        }
        readOffset += count
        let isDone = readOffset == bytes.count
        if isDone {
            bytes = []
            readOffset = 0
        }
        return .bytes(count, isLast: isDone && isComplete)
    }
}
