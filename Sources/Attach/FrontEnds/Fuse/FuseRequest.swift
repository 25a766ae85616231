import CFUSE

/// What the kernel's FUSE client asks for, as far as a file system of one file cares (linux/fuse.h).
enum FuseCall: Equatable {
    /// The first message: what the kernel can do.
    case initialise(FuseOffer)
    /// The payload is a name, ended by a zero byte.
    case lookup
    case attributes
    /// `flags` of open(2).
    case open(flags: UInt32)
    case read(offset: UInt64, count: UInt32)
    /// The payload is `count` bytes.
    case write(offset: UInt64, count: UInt32)
    case flush
    /// `mode` of fallocate(2).
    case allocate(mode: UInt32, offset: UInt64, length: UInt64)
    case statistics
    /// A description of the file or the folder was closed.
    case release
    /// Nothing is to be done, and the kernel waits for the answer.
    case nothing
    /// The kernel waits for no answer.
    case unanswered
    /// An operation that the file system does not have.
    case unknown
    /// Shorter than it must be, or of a length that contradicts another.
    case malformed
}

/// What the kernel offers in its first message.
struct FuseOffer: Equatable {
    var major: UInt32
    var minor: UInt32
    var readAheadBytes: UInt32
    var flags: UInt32
    /// Only where `flags` has `FUSE_INIT_EXT`; otherwise 0.
    var moreFlags: UInt32

    var hasRing: Bool { moreFlags & UInt32(SLUICE_FUSE_OVER_IO_URING) != 0 }
}

/// One request of the kernel, its lengths checked against each other.
struct FuseRequest: Equatable {
    /// The kernel's name for it, which the answer repeats.
    var unique: UInt64
    var inode: UInt64
    var call: FuseCall
    /// Where the payload begins, in bytes of the message.
    var payloadPosition = 0

    /// Reads a message of /dev/fuse; nil when it has not even a header, so that nothing can be answered.
    init?(message: RawSpan) {
        let headerBytes = MemoryLayout<fuse_in_header>.size
        guard let header = message.leading(fuse_in_header.self) else { return nil }
        let rest = message.extracting(droppingFirst: headerBytes)
        let operandBytes = Self.operandBytes(header.opcode, available: rest.byteCount)
        let isWhole = Int(header.len) == message.byteCount && rest.byteCount >= operandBytes
        self.init(
            header, operands: rest, payloadBytes: isWhole ? rest.byteCount - operandBytes : nil)
        payloadPosition = min(headerBytes + operandBytes, message.byteCount)
    }

    /// Reads what the kernel put into an entry of a ring: header, operands, and so many bytes of payload, of
    /// which the entry holds at most `payloadBytesMax`. Nil as above.
    init?(header: RawSpan, operands: RawSpan, payloadBytes: UInt32, payloadBytesMax: Int) {
        guard let header = header.leading(fuse_in_header.self) else { return nil }
        let isWhole = payloadBytes <= payloadBytesMax
        self.init(header, operands: operands, payloadBytes: isWhole ? Int(payloadBytes) : nil)
    }

    private init(_ header: fuse_in_header, operands: RawSpan, payloadBytes: Int?) {
        unique = header.unique
        inode = header.nodeid
        if let payloadBytes {
            call = Self.call(header.opcode, operands, payloadBytes: payloadBytes)
        } else {
            call = .malformed
        }
    }

    /// Bytes between the header and the payload of a message of /dev/fuse.
    private static func operandBytes(_ opcode: UInt32, available: Int) -> Int {
        switch opcode {
        case FUSE_WRITE.rawValue: MemoryLayout<fuse_write_in>.size
        case FUSE_LOOKUP.rawValue: 0
        default: available
        }
    }

    @inline(__always)
    private static func call(_ opcode: UInt32, _ operands: RawSpan, payloadBytes: Int) -> FuseCall {
        switch opcode {
        case FUSE_READ.rawValue:
            guard let operand = operands.leading(fuse_read_in.self) else { return .malformed }
            return .read(offset: operand.offset, count: operand.size)
        case FUSE_WRITE.rawValue:
            guard let operand = operands.leading(fuse_write_in.self), Int(operand.size) == payloadBytes else {
                return .malformed
            }
            return .write(offset: operand.offset, count: operand.size)
        case FUSE_FSYNC.rawValue: return .flush
        case FUSE_FALLOCATE.rawValue:
            guard let operand = operands.leading(fuse_fallocate_in.self) else { return .malformed }
            return .allocate(mode: operand.mode, offset: operand.offset, length: operand.length)
        default: return rareCall(opcode, operands)
        }
    }

    private static func rareCall(_ opcode: UInt32, _ operands: RawSpan) -> FuseCall {
        switch opcode {
        case FUSE_INIT.rawValue: initialise(operands)
        case FUSE_LOOKUP.rawValue: .lookup
        case FUSE_GETATTR.rawValue: .attributes
        case FUSE_OPEN.rawValue:
            operands.leading(fuse_open_in.self).map { .open(flags: $0.flags) } ?? .malformed
        case FUSE_STATFS.rawValue: .statistics
        case FUSE_RELEASE.rawValue: .release
        case FUSE_FLUSH.rawValue, FUSE_DESTROY.rawValue: .nothing
        case FUSE_FORGET.rawValue, FUSE_BATCH_FORGET.rawValue, FUSE_INTERRUPT.rawValue: .unanswered
        default: .unknown
        }
    }

    /// The kernel's older messages end after `flags`.
    private static func initialise(_ operands: RawSpan) -> FuseCall {
        guard let words = operands.leading((UInt32, UInt32, UInt32, UInt32).self) else { return .malformed }
        var offer = FuseOffer(
            major: words.0, minor: words.1, readAheadBytes: words.2, flags: words.3, moreFlags: 0)
        if offer.flags & UInt32(SLUICE_FUSE_INIT_EXT) != 0 {
            guard let whole = operands.leading(fuse_init_in.self) else { return .malformed }
            offer.moreFlags = whole.flags2
        }
        return .initialise(offer)
    }
}

extension RawSpan {
    /// The value that the bytes begin with; nil when they are too few.
    @inline(__always)
    fileprivate func leading<Value: BitwiseCopyable>(_ type: Value.Type) -> Value? {
        guard byteCount >= MemoryLayout<Value>.size else { return nil }
        // SAFETY: the bytes are there, and every pattern of them is a value of these C structs of integers.
        return unsafe unsafeLoadUnaligned(as: type)
    }
}

/// What a file system of one file answers.
enum FuseAnswer {
    /// What the connection is to do: direct I/O in parallel, requests up to `transferBytesMax`, no splicing, no
    /// caches in the kernel.
    static func initialise(_ offer: FuseOffer, transferBytesMax: UInt32, usesRing: Bool) -> fuse_init_out {
        let wanted =
            UInt32(FUSE_ASYNC_READ) | UInt32(FUSE_BIG_WRITES) | UInt32(FUSE_ASYNC_DIO)
            | UInt32(FUSE_PARALLEL_DIROPS) | UInt32(FUSE_HANDLE_KILLPRIV) | UInt32(FUSE_MAX_PAGES)
            | UInt32(SLUICE_FUSE_INIT_EXT)
        var answer = fuse_init_out()
        answer.major = UInt32(FUSE_KERNEL_VERSION)
        answer.minor = min(offer.minor, UInt32(FUSE_KERNEL_MINOR_VERSION))
        answer.max_readahead = offer.readAheadBytes
        answer.flags = offer.flags & wanted
        answer.flags2 = usesRing ? UInt32(SLUICE_FUSE_OVER_IO_URING) : 0
        answer.max_background = UInt16(AttachLimits.requestsMax)
        answer.congestion_threshold = UInt16(AttachLimits.requestsMax)
        answer.max_write = transferBytesMax
        answer.time_gran = 1
        answer.max_pages = UInt16(transferBytesMax / UInt32(getpagesize()))
        return answer
    }

    /// The one file or its folder.
    static func attributes(inode: UInt64, isFolder: Bool, isReadOnly: Bool, size: UInt64, since: UInt64)
        -> fuse_attr
    {
        var attributes = fuse_attr()
        attributes.ino = inode
        attributes.mtime = since
        attributes.ctime = since
        if isFolder {
            attributes.mode = UInt32(S_IFDIR) | 0o700
        } else {
            attributes.mode = UInt32(S_IFREG) | (isReadOnly ? 0o400 : 0o600)
            attributes.size = size
            attributes.blocks = size / 512
            attributes.blksize = 4096
        }
        attributes.nlink = 1
        return attributes
    }

    /// Direct I/O, writes in parallel.
    static var open: fuse_open_out {
        var answer = fuse_open_out()
        answer.fh = 1
        answer.open_flags = UInt32(FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES)
        return answer
    }

    /// The loop driver takes its discard granularity from the block size.
    static func statistics(size: UInt64) -> fuse_statfs_out {
        var answer = fuse_statfs_out()
        answer.st.bsize = 4096
        answer.st.frsize = 4096
        answer.st.blocks = size / 4096
        answer.st.namelen = 255
        return answer
    }
}
