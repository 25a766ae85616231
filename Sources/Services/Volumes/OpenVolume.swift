import Core
import Wire

/// The volume behind a handle.
struct OpenVolume {
    /// Its size in bytes.
    var size: UInt64
    /// The smallest unit of I/O in bytes, a power of two.
    var blockSize: UInt32
    /// The most bytes of one READ or WRITE.
    var maximumTransfer: UInt32

    /// Whether a request lies where its capability and the volume let it, and has their shape.
    @inline(__always)
    func check(_ demand: RequestDemand, _ authority: HandleAuthority) -> Status {
        guard demand.covers else { return .ok }
        guard demand.count > 0 else { return .badLength }
        let (end, overflow) = demand.offset.addingReportingOverflow(UInt64(demand.count))
        guard !overflow, end <= size else { return .outOfRange }
        guard authority.covers(demand.offset, end) else { return .denied }
        let mask = UInt64(blockSize) - 1
        guard (demand.offset | UInt64(demand.count)) & mask == 0 else { return .unaligned }
        guard !demand.moves || demand.count <= maximumTransfer else { return .tooLarge }
        return .ok
    }

    /// A handle on it as clients know it.
    func state(of handle: Handle) -> ResourceState {
        let authority = handle.authority
        return ResourceState(
            size: size, blockSize: blockSize, transferBytesMax: maximumTransfer, rights: authority.rights,
            accessMode: handle.accessMode, range: authority.range,
            expiry: authority.terms.expiry, resource: handle.resource,
            capability: authority.terms.capability, epoch: authority.terms.resourceEpoch,
            limits: authority.limits, writerGeneration: handle.writerGeneration)
    }
}

extension Handle {
    /// The volume behind it; nil for another kind of resource.
    @inline(__always)
    var volume: OpenVolume? {
        get { if case .volume(let volume) = opened { volume } else { nil } }
        set { if let newValue { opened = .volume(newValue) } }
    }
}
