import Core

/// How a request is done, and whether more is known of it than its slot says.
enum RequestWay: UInt8 {
    /// The driver has all of it at once, and its slot says all.
    case whole
    /// Likewise; `ServiceChannel.operations` says more of what is asked.
    case detailed
    /// The driver has a step of it; `ServiceChannel.operations` says which.
    case stepped
}

/// The operations of one channel that need more than their slots, by slot. No memory until the first.
struct OperationTable {
    private var entries: [RequestOperation] = []

    /// Puts down what is known of the request in a slot, of a channel of `count` slots.
    mutating func set(_ operation: RequestOperation, at slot: UInt16, of count: Int) {
        if entries.count < count {
            entries.append(contentsOf: repeatElement(.nothing, count: count - entries.count))
        }
        entries[Int(slot)] = operation
    }

    /// What was put down last.
    subscript(slot: UInt16) -> RequestOperation {
        Int(slot) < entries.count ? entries[Int(slot)] : .nothing
    }
}

extension ServiceChannel {
    /// What is known of the request in a slot beside it.
    subscript(operation slot: UInt16) -> RequestOperation {
        get {
            switch slots[slot].way {
            case .whole: .nothing
            case .detailed, .stepped: operations[slot]
            }
        }
        set {
            operations.set(newValue, at: slot, of: slots.count)
            if case .whole = slots[slot].way { slots[slot].way = .detailed }
        }
    }
}
