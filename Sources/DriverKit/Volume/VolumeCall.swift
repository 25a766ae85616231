import Core

/// What a server asks of a driver of volumes in a process of its own, one call of `VolumeDriver` each, and what it is
/// answered: the words of `InstalledDriver.perform` for volumes.
///
/// A call is a number (UInt8) and its fields in order, little-endian. The server trusts no answer: the readers take what is
/// whole and nothing else, and leave it to the caller whether the values can be.
public enum VolumeCall: Hashable, Sendable {
    /// Make a volume.
    case create(Identifier, size: UInt64)
    /// Grow a volume.
    case resize(Identifier, size: UInt64)
    /// Delete a volume.
    case delete(Identifier)
    /// List the volumes. Answered with a list.
    case volumes
    /// Say what the volumes take. Answered with a list.
    case usage
    /// Do a part of what a volume still needs. Answered with the bytes that are left.
    case prepare(Identifier, size: UInt64)
    /// Open a volume under an index. Answered with its shape.
    case open(Identifier, index: UInt32)
    /// End the use of an index.
    case close(index: UInt32)

    private enum Kind: UInt8 {
        case create = 1
        case resize, delete, volumes, usage, prepare, open, close
    }

    /// A volume's shape as a driver says it, not judged.
    public struct Shape: Hashable, Sendable {
        /// Bytes.
        public var size: UInt64
        /// Bytes.
        public var blockSize: UInt32
        /// Bytes.
        public var maximumTransfer: UInt32
    }
}

// MARK: The call

extension VolumeCall {
    /// The call's bytes.
    public var bytes: [UInt8] {
        var writer = ByteWriter(capacity: 32)
        func begin(_ kind: Kind) { writer.write(kind.rawValue) }
        switch self {
        case .create(let id, let size):
            begin(.create)
            writer.write(id, size)
        case .resize(let id, let size):
            begin(.resize)
            writer.write(id, size)
        case .delete(let id):
            begin(.delete)
            writer.write(id)
        case .volumes: begin(.volumes)
        case .usage: begin(.usage)
        case .prepare(let id, let size):
            begin(.prepare)
            writer.write(id, size)
        case .open(let id, let index):
            begin(.open)
            writer.write(id)
            writer.write(index)
        case .close(let index):
            begin(.close)
            writer.write(index)
        }
        return writer.bytes
    }

    /// Reads a call; nil when it is none.
    public init?(bytes: [UInt8]) {
        var reader = ByteReader(bytes)
        guard let raw = reader.read(UInt8.self), let kind = Kind(rawValue: raw),
            let call = VolumeCall(kind, &reader), reader.remaining == 0
        else { return nil }
        self = call
    }

    private init?(_ kind: Kind, _ reader: inout ByteReader) {
        switch kind {
        case .create, .resize, .prepare:
            guard let (id, size) = reader.readVolume() else { return nil }
            switch kind {
            case .create: self = .create(id, size: size)
            case .resize: self = .resize(id, size: size)
            default: self = .prepare(id, size: size)
            }
        case .delete:
            guard let id = reader.readIdentifier() else { return nil }
            self = .delete(id)
        case .volumes: self = .volumes
        case .usage: self = .usage
        case .open:
            guard let id = reader.readIdentifier(), let index = reader.read(UInt32.self) else { return nil }
            self = .open(id, index: index)
        case .close:
            guard let index = reader.read(UInt32.self) else { return nil }
            self = .close(index: index)
        }
    }
}

// MARK: The answer

extension VolumeCall {
    /// Whether an answer has the form of one to this call.
    public func fits(_ answer: [UInt8]) -> Bool {
        switch self {
        case .create, .resize, .delete, .close: answer.isEmpty
        case .volumes, .usage: answer.count.isMultiple(of: VolumeCall.listedBytes)
        case .prepare: VolumeCall.left(answer) != nil
        case .open: VolumeCall.shape(answer) != nil
        }
    }

    /// Of one volume in a list: its id and a number.
    private static let listedBytes = 24

    /// The volumes of a list, with their size or what they take, in bytes; nil when it is none.
    public static func list(_ answer: [UInt8]) -> [Identifier: UInt64]? {
        guard answer.count.isMultiple(of: listedBytes) else { return nil }
        var reader = ByteReader(answer)
        var volumes: [Identifier: UInt64] = [:]
        volumes.reserveCapacity(answer.count / listedBytes)
        while let (id, bytes) = reader.readVolume() { volumes[id] = bytes }
        return volumes
    }

    /// The bytes that are left to prepare; nil when it is no such answer.
    public static func left(_ answer: [UInt8]) -> UInt64? {
        var reader = ByteReader(answer)
        let left = reader.read(UInt64.self)
        return reader.remaining == 0 ? left : nil
    }

    /// The shape of a volume that was opened; nil when it is no such answer.
    public static func shape(_ answer: [UInt8]) -> Shape? {
        var reader = ByteReader(answer)
        guard let size = reader.read(UInt64.self), let blockSize = reader.read(UInt32.self),
            let maximumTransfer = reader.read(UInt32.self), reader.remaining == 0
        else { return nil }
        return Shape(size: size, blockSize: blockSize, maximumTransfer: maximumTransfer)
    }

    fileprivate static func answer(_ volumes: [Identifier: UInt64]) -> [UInt8] {
        var writer = ByteWriter(capacity: volumes.count * listedBytes)
        for (id, bytes) in volumes { writer.write(id, bytes) }
        return writer.bytes
    }

    fileprivate static func answer(left: UInt64) -> [UInt8] {
        var writer = ByteWriter(capacity: 8)
        writer.write(left)
        return writer.bytes
    }

    fileprivate static func answer(_ geometry: VolumeGeometry) -> [UInt8] {
        var writer = ByteWriter(capacity: 16)
        writer.write(geometry.size)
        writer.write(geometry.blockSize)
        writer.write(geometry.maximumTransfer)
        return writer.bytes
    }
}

extension VolumeDriver {
    /// Does a `VolumeCall`.
    public func perform(_ call: [UInt8]) throws(StatusError) -> CallOutcome {
        guard let call = VolumeCall(bytes: call) else {
            throw StatusError(.badRequest, "this driver has volumes, and is asked for something else")
        }
        switch call {
        case .create(let id, let size): try createVolume(id, size: size)
        case .resize(let id, let size):
            try resizeVolume(id, to: size)
            return CallOutcome(change: .changed(id))
        case .delete(let id): try deleteVolume(id)
        case .volumes: return CallOutcome(VolumeCall.answer(try volumes()))
        case .usage: return CallOutcome(VolumeCall.answer(try usage()))
        case .prepare(let id, let size):
            return CallOutcome(VolumeCall.answer(left: try prepareVolume(id, to: size)))
        case .open(let id, let index):
            let geometry = try openVolume(id, index: index)
            return CallOutcome(VolumeCall.answer(geometry), change: .opened(index, id))
        case .close(let index):
            closeVolume(index)
            return CallOutcome(change: .closed(index))
        }
        return CallOutcome()
    }
}

extension ByteWriter {
    fileprivate mutating func write(_ id: Identifier, _ number: UInt64) {
        write(id)
        write(number)
    }
}

extension ByteReader {
    /// An id and a number.
    fileprivate mutating func readVolume() -> (id: Identifier, number: UInt64)? {
        guard let id = readIdentifier(), let number = read(UInt64.self) else { return nil }
        return (id, number)
    }
}
