/// An object that somebody else keeps alive for as long as this is used, so that no reference is counted.
@safe @frozen
public struct Borrowed<Object: AnyObject> {
    @usableFromInline let reference: Unmanaged<Object>

    /// Lends `object` without keeping it alive: the caller knows who does.
    @inlinable @inline(__always)
    public init(_ object: Object) {
        unsafe reference = .passUnretained(object)
    }

    /// Calls `body` with the object, which stays the lender's.
    @inlinable @inline(__always)
    public func with<Result>(_ body: (Object) -> Result) -> Result {
        // SAFETY: the object outlives this value, as `init` asks for.
        unsafe reference._withUnsafeGuaranteedRef(body)
    }
}

/// Objects by number, some of which are used for every request. One thread.
///
/// Whoever borrows an object pays nothing, and may use it until `forgetRemoved`: one that is taken out in the middle of
/// its own work still lives until then.
@frozen
public struct ObjectTable<Object: AnyObject> {
    /// The objects by number, for everything that is not done for every request.
    public private(set) var all: [Object?] = []
    @usableFromInline var borrowed: [Borrowed<Object>?] = []
    private var removed: [Object] = []

    /// A table without numbers.
    public init() {}

    /// Numbers, of which each has an object or none yet.
    public var count: Int { all.count }

    /// The object with a number below `count`; setting another takes out the one that was there.
    public subscript(_ number: Int) -> Object? {
        get { all[number] }
        set {
            if let old = all[number], old !== newValue { removed.append(old) }
            all[number] = newValue
            borrowed[number] = newValue.map { Borrowed($0) }
        }
    }

    /// Adds a number, which is `count`, for an object or for none yet.
    public mutating func append(_ object: Object?) {
        all.append(object)
        borrowed.append(object.map { Borrowed($0) })
    }

    /// The object with `number`; nil when there is none, or no such number.
    @inlinable @inline(__always)
    public func borrow(_ number: Int) -> Borrowed<Object>? {
        number >= 0 && number < borrowed.count ? borrowed[number] : nil
    }

    /// Takes out all objects and numbers.
    public mutating func removeAll() {
        removed += all.compactMap { $0 }
        all = []
        borrowed = []
    }

    /// Lets go of what was taken out. Only where nothing is borrowed.
    public mutating func forgetRemoved() { removed.removeAll() }
}
