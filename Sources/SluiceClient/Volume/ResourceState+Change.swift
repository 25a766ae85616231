import Wire

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
