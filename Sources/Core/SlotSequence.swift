/// The numbers of the requests on one slot of a channel, and of the events on a channel: from 1 up, leaving out 0 when they
/// wrap.
public enum SlotSequence {
    /// The number that follows.
    @inlinable
    public static func successor(of sequence: UInt32) -> UInt32 {
        sequence == .max ? 1 : sequence &+ 1
    }
}
