import CFUSE
import Glibc
import Reactor

/// The memory of a FUSE connection's io_uring entries: the kernel puts requests into it, each into an entry of
/// the queue of the processor that it came from, and takes the answers from there.
///
/// All of it is there from the start, as in `BufferPool`. One thread at a time.
@safe final class FuseRing: @unchecked Sendable {
    // SAFETY: made by one thread and then used by the reactor's alone.
    /// One queue for each processor that the machine may have.
    private let queues: Int
    /// The most that one request carries, in bytes.
    let payloadBytes: Int
    let entryCount: Int
    private let headers: UnsafeMutablePointer<sluice_fuse_ring_header>
    private let vectors: UnsafeMutablePointer<iovec>
    private let payloads: UnsafeMutableRawPointer
    private let mappedBytes: Int
    /// Entries that the kernel has.
    private(set) var armedCount = 0
    /// Entries that were ever given to it.
    private var registeredCount = 0

    /// Memory for the queues of this machine; nil when there is not enough, or when the machine has so many
    /// processors that it would take too much.
    init?(payloadBytes: Int = Int(AttachLimits.ringTransferBytes), queues: Int = Processors.possible) {
        guard 1...AttachLimits.ringQueuesMax ~= queues,
            1...Int(AttachLimits.transferBytesMax) ~= payloadBytes
        else { return nil }
        let range = AttachLimits.ringQueueEntries
        let perQueue = min(max(AttachLimits.ringEntriesWanted / queues, range.lowerBound), range.upperBound)
        self.queues = queues
        self.payloadBytes = payloadBytes
        entryCount = queues * perQueue
        mappedBytes = entryCount * payloadBytes
        let memory = unsafe mmap(
            nil, mappedBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        guard let memory = unsafe memory, unsafe memory != MAP_FAILED else { return nil }
        // The kernel looks each page up that it copies; where there are no huge ones, small ones do.
        unsafe madvise(memory, mappedBytes, Int32(MADV_HUGEPAGE))
        unsafe memset(memory, 0, mappedBytes)
        unsafe payloads = unsafe memory
        unsafe headers = .allocate(capacity: entryCount)
        unsafe headers.initialize(repeating: sluice_fuse_ring_header(), count: entryCount)
        unsafe vectors = .allocate(capacity: 2 * entryCount)
        for index in 0..<entryCount {
            unsafe vectors[2 * index] = unsafe iovec(
                iov_base: headers + index, iov_len: MemoryLayout<sluice_fuse_ring_header>.size)
            unsafe vectors[2 * index + 1] = unsafe iovec(
                iov_base: payloads + index * payloadBytes, iov_len: payloadBytes)
        }
    }

    deinit {
        unsafe munmap(payloads, mappedBytes)
        unsafe headers.deallocate()
        unsafe vectors.deallocate()
    }

    /// Gives entries to the kernel that it has not yet, the next so many of each queue or all; each completes as an
    /// operation of `target` with its index and `firstToken` as the token when it holds a request: 0, or -errno when the
    /// kernel does not have it any more.
    func register(
        _ perQueue: Int? = nil, on reactor: Reactor, descriptor: Int32, target: TargetID, firstToken: UInt32
    ) {
        let end = perQueue.map { min(registeredCount + $0 * queues, entryCount) } ?? entryCount
        for index in registeredCount..<end {
            unsafe reactor.command(
                fd: descriptor, UInt32(SLUICE_FUSE_RING_REGISTER), words: (0, 0, UInt64(index % queues)),
                vectors: UnsafeRawPointer(vectors + 2 * index), vectorCount: 2, target: target,
                token: firstToken + UInt32(index))
        }
        armedCount += end - registeredCount
        registeredCount = end
    }

    /// The kernel has given an entry back, with a request or because it does not take it.
    func completed(_ index: Int) { armedCount -= 1 }

    /// The request that an entry holds; nil when there is none.
    func request(_ index: Int) -> FuseRequest? {
        let entry = unsafe headers + index
        return unsafe withUnsafeBytes(of: &entry.pointee.header) { header in
            unsafe withUnsafeBytes(of: &entry.pointee.operands) { operands in
                unsafe FuseRequest(
                    header: header.bytes, operands: operands.bytes, payloadBytes: entry.pointee.payload_bytes,
                    payloadBytesMax: payloadBytes)
            }
        }
    }

    /// An entry's payload: what is written, and where the answer goes.
    func payload(_ index: Int) -> UnsafeMutableRawPointer { unsafe payloads + index * payloadBytes }

    /// How many bytes of payload came with the request of an entry.
    func payloadCount(_ index: Int) -> Int {
        unsafe min(Int(headers[index].payload_bytes), payloadBytes)
    }

    /// Answers the request of an entry, with `count` bytes of its payload, and gives the entry back to the kernel.
    func answer(
        _ index: Int, _ unique: UInt64, error: Int32, count: Int, on reactor: Reactor, descriptor: Int32,
        target: TargetID, firstToken: UInt32
    ) {
        unsafe sluice_fuse_ring_answer(headers + index, unique, -error, UInt32(count))
        armedCount += 1
        let commit = unsafe headers[index].commit_id
        unsafe reactor.command(
            fd: descriptor, UInt32(SLUICE_FUSE_RING_COMMIT_AND_FETCH),
            words: (0, commit, UInt64(index % queues)), target: target,
            token: firstToken + UInt32(index))
    }
}

/// The processors of this machine.
enum Processors {
    /// How many there may ever be, plugged in later included; 0 when the kernel does not say.
    static var possible: Int { TextFile.read("/sys/devices/system/cpu/possible").map(count) ?? 0 }

    /// How many numbers a list like `0-3,8` names.
    static func count(_ list: String) -> Int {
        list.split { $0 == "," || $0 == "\n" }.reduce(0) { sum, range in
            let ends = range.split(separator: "-").map { Int($0) }
            switch (ends.count, ends.first ?? nil, ends.last ?? nil) {
            case (1, _?, _): return sum + 1
            case (2, let first?, let last?) where last >= first && last - first < 1 << 16:
                return sum + last - first + 1
            default: return sum
            }
        }
    }
}
