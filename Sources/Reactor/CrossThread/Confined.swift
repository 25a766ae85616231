/// A value of one reactor's thread on its way through closures and threads that do not look at it.
///
/// It is made on the reactor's thread, or for it, and what is in it is used only by work that is posted to that reactor.
public struct Confined<Value>: @unchecked Sendable {
    // SAFETY: whoever makes one upholds the rule above: `value` is used on one thread.
    /// The value; for work on its reactor's thread.
    public let value: Value

    /// A value on its way.
    public init(_ value: Value) {
        self.value = value
    }
}
