import Core
import DriverKit

/// What the server says to a driver host over the control socket; one packet each.
///
/// A packet: kind (UInt8), call number (UInt64), then the fields in order, little-endian, texts and lists with
/// a 16-bit count. Descriptors travel beside it.
enum HostCommand: Equatable {
    /// A descriptor that an earlier host gave into keeping; before `start`. One descriptor.
    case stored(name: String)
    /// Open the driver, enter the sandbox, serve. Answered.
    case start(HostStart)
    /// Serve a reactor: arena, lane, doorbell to the host, doorbell to the server. Four descriptors. Answered.
    case addQueue(index: UInt32, arenaBytes: UInt64, capacity: UInt32)
    /// How full the pool is. Answered.
    case capacity
    /// Take over changed settings. Answered.
    case configure([String: String])
    /// Do something in the words of the driver's kind (`InstalledDriver.perform`). Answered in such words, in
    /// several packets where they are many.
    case perform([UInt8])
}

/// How a host is to start.
struct HostStart: Equatable {
    /// The driver's name.
    var driver: String
    /// The pool's settings.
    var settings: [String: String]
    /// The pool's folder.
    var folder: String
    /// The user to become; nil keeps the server's.
    var user: UInt32?
    /// How many reactors to make: the most queues that can be added.
    var queues: UInt32
}

extension HostCommand {
    private enum Kind: UInt8 {
        case stored = 1
        case start, addQueue, capacity, configure, perform
    }

    /// How many descriptors come with it.
    var descriptorCount: Int {
        switch self {
        case .stored: 1
        case .addQueue: 4
        default: 0
        }
    }

    /// The packet.
    func encoded(call: UInt64) -> [UInt8] {
        var writer = ByteWriter(capacity: 128)
        func begin(_ kind: Kind) {
            writer.write(kind.rawValue)
            writer.write(call)
        }
        switch self {
        case .stored(let name):
            begin(.stored)
            writer.writeText(name)
        case .start(let start):
            begin(.start)
            writer.writeText(start.driver)
            writer.writeText(start.folder)
            writer.write(start.user ?? UInt32.max)
            writer.write(start.queues)
            writer.write(settings: start.settings)
        case .addQueue(let index, let arenaBytes, let capacity):
            begin(.addQueue)
            writer.write(index)
            writer.write(arenaBytes)
            writer.write(capacity)
        case .capacity: begin(.capacity)
        case .configure(let settings):
            begin(.configure)
            writer.write(settings: settings)
        case .perform(let bytes):
            begin(.perform)
            writer.writeCounted(bytes)
        }
        return writer.bytes
    }

    /// Reads a packet; nil when it is none.
    static func decode(_ packet: [UInt8]) -> (call: UInt64, command: HostCommand)? {
        var reader = ByteReader(packet)
        guard let raw = reader.read(UInt8.self), let kind = Kind(rawValue: raw),
            let call = reader.read(UInt64.self), let command = decode(kind, &reader), reader.remaining == 0
        else { return nil }
        return (call, command)
    }

    private static func decode(_ kind: Kind, _ reader: inout ByteReader) -> HostCommand? {
        switch kind {
        case .stored: return reader.readText(maximum: Limits.storedNameBytesMax).map { .stored(name: $0) }
        case .start:
            guard let driver = reader.readText(maximum: Limits.controlTextBytesMax),
                let folder = reader.readText(maximum: Limits.controlTextBytesMax),
                let user = reader.read(UInt32.self), let queues = reader.read(UInt32.self),
                let settings = reader.readSettings()
            else { return nil }
            return .start(
                HostStart(
                    driver: driver, settings: settings, folder: folder,
                    user: user == UInt32.max ? nil : user, queues: queues))
        case .addQueue:
            guard let index = reader.read(UInt32.self), let bytes = reader.read(UInt64.self),
                let capacity = reader.read(UInt32.self)
            else { return nil }
            return .addQueue(index: index, arenaBytes: bytes, capacity: capacity)
        case .capacity: return .capacity
        case .configure: return reader.readSettings().map { .configure($0) }
        case .perform: return reader.readCounted(maximum: Limits.controlPartBytesMax).map { .perform($0) }
        }
    }
}

extension ByteWriter {
    fileprivate mutating func write(settings: [String: String]) {
        write(UInt16(truncatingIfNeeded: settings.count))
        for (name, value) in settings.sorted(by: { $0.key < $1.key }) {
            writeText(name)
            writeText(value)
        }
    }
}

extension ByteReader {
    fileprivate mutating func readSettings() -> [String: String]? {
        guard let count = read(UInt16.self) else { return nil }
        var settings: [String: String] = [:]
        for _ in 0..<count {
            guard let name = readText(maximum: Limits.controlTextBytesMax),
                let value = readText(maximum: Limits.controlTextBytesMax)
            else { return nil }
            settings[name] = value
        }
        return settings
    }
}
