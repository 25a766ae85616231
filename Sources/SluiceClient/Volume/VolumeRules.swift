import Core
import Wire

/// What a volume is to a session: bytes in blocks, of which only more can come, and which one at a time may write.
struct VolumeRules: ResourceRules {
    let kind = ResourceKind.volume
    /// The writer generation that somebody knew whose place the client takes; nil if it takes nobody's.
    var knownGeneration: UInt64?

    func judge(_ described: ResourceState, isOpened: Bool, known: ResourceState?) -> ResourceVerdict {
        if isOpened, described.kind != kind {
            return .over(.violation("the server opened something that is no volume"))
        }
        if isOpened, let known, known.resource != described.resource || known.epoch != described.epoch {
            // Others may have written since: what this side remembers of the volume is not true any more.
            return .over(
                .refused(
                    .open, .staleEpoch,
                    message: "the volume was fenced, or lost what it held, while this node was away"))
        }
        if let stale = staleness(under: described, known: known) { return .over(stale) }
        if let fault = known?.fault(of: described) { return .notBelieved(fault) }
        var taken = described
        var findings = ResourceVerdict.Findings()
        findings.isShared = described.accessMode == .shared
        guard let known else { return .taken(taken, findings) }
        // A transfer fits every channel, whichever was opened last.
        taken.transferBytesMax = min(described.transferBytesMax, known.transferBytesMax)
        findings.doubt = known.fault(ofNewSize: described.size)
        if findings.doubt != nil {
            // What lies behind it is for the server to refuse.
            taken.size = known.size
        } else if taken.size > known.size {
            findings.newSize = taken.size
        }
        return .taken(taken, findings)
    }

    /// Why what this side remembers of the volume is not true any more, if somebody else has had it for writing since.
    private func staleness(under described: ResourceState, known: ResourceState?) -> ChannelError? {
        let isAlone =
            described.accessMode == .singleWriter && known?.accessMode ?? .singleWriter == .singleWriter
        guard isAlone, described.rights.contains(.write) || described.rights.contains(.discard),
            let generation = known?.writerGeneration ?? knownGeneration,
            generation != described.writerGeneration
        else { return nil }
        return .superseded("another node wrote to the volume while this one was away")
    }

    func judge(_ event: ChannelEvent, known: ResourceState) -> EventVerdict {
        guard case .resized(_, let size) = event else { return .taken(known) }
        if let fault = known.fault(ofNewSize: size) { return .notBelieved(fault) }
        var taken = known
        taken.size = size
        return .taken(taken)
    }
}

extension ResourceState {
    /// Why a server cannot say that the volume has this many bytes now; nil where it can. Volumes grow, by whole blocks.
    func fault(ofNewSize size: UInt64) -> String? {
        guard size >= self.size else {
            return "the volume of \(self.size) bytes has \(size) now, and volumes never shrink"
        }
        guard size.isMultiple(of: UInt64(blockSize)) else {
            return "the volume has \(size) bytes, and blocks of \(blockSize)"
        }
        return nil
    }

    /// Why the volume that this describes cannot have become the other; nil where it can. Whoever uses it goes on with
    /// requests of its blocks and of its largest transfer.
    func fault(of later: ResourceState) -> String? {
        guard later.blockSize == blockSize else {
            return "the volume's blocks had \(blockSize) bytes and have \(later.blockSize) now"
        }
        guard later.transferBytesMax >= transferBytesMax else {
            return
                "the volume took transfers of \(transferBytesMax) bytes and takes \(later.transferBytesMax) now"
        }
        return nil
    }
}
