import Core

/// What a queue knows of what is open, by index.
public struct OpenIndices<Open> {
    @usableFromInline var entries: [Open?] = []

    /// Nothing.
    public init() {}

    /// What is open under an index; nil where nothing is.
    @inlinable public subscript(_ index: UInt32) -> Open? {
        Int(index) < entries.count ? entries[Int(index)] : nil
    }

    /// Makes the index name this, or nothing.
    @inlinable public mutating func set(_ index: UInt32, _ open: Open?) {
        if Int(index) >= entries.count {
            guard open != nil, index < Limits.openVolumesPerPoolMax else { return }
            entries.append(contentsOf: repeatElement(nil, count: Int(index) + 1 - entries.count))
        }
        entries[Int(index)] = open
    }

    /// Forgets all.
    public mutating func removeAll() { entries.removeAll() }
}
