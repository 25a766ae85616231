/// Bytes on their way from one end of a connection to the other.
struct BytePipe {
    private(set) var bytes: [UInt8] = []
    private var head = 0

    var count: Int { bytes.count - head }

    mutating func append(_ more: [UInt8]) { bytes.append(contentsOf: more) }

    /// Takes the next `count` bytes.
    mutating func take(_ count: Int) -> [UInt8] {
        precondition(count <= self.count, "more bytes than there are")
        let taken = Array(bytes[head..<head + count])
        head += count
        if head == bytes.count {
            bytes.removeAll(keepingCapacity: true)
            head = 0
        }
        return taken
    }

    /// Loses all but the next `count` bytes.
    mutating func cut(to count: Int) { bytes.removeLast(self.count - count) }
}
