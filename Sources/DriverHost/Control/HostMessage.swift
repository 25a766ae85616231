import Core
import DriverKit

/// What a driver host says to the server over the control socket; one packet each. The server trusts none of
/// it: a packet that cannot be read, or that comes when it must not, ends the host.
enum HostMessage: Equatable {
    /// The first packet: the process is there and waits for `start`.
    case hello(version: UInt32)
    /// Answers a call that succeeded.
    case done(HostAnswer)
    /// Answers a call that failed.
    case failed(status: UInt16, message: String)
    /// Keep this descriptor for the next host, under the name. One descriptor.
    case keep(name: String)
    /// Let go of what is kept under the name.
    case forget(name: String)
}

/// What a successful call brings.
enum HostAnswer: Equatable {
    /// Nothing but that it is done.
    case nothing
    /// The host serves: what the sandbox could not do, and what the driver wants an operator to know.
    case started(gaps: [String], notes: [String])
    /// A part of an answer in the words of the driver's kind; `isLast` when no more follow.
    case part([UInt8], isLast: Bool)
    /// How full the pool is.
    case capacity(total: UInt64, used: UInt64, free: UInt64)
}

extension HostMessage {
    private enum Kind: UInt8 {
        case nothing = 1
        case started, part, capacity, failed, keep, forget, hello
    }

    /// Changes with packets, rings and requests; a host of another version is refused.
    static let version: UInt32 = 3

    /// How many descriptors come with it.
    var descriptorCount: Int {
        if case .keep = self { 1 } else { 0 }
    }

    /// The packet; `call` is 0 for what answers no call.
    func encoded(call: UInt64) -> [UInt8] {
        var writer = ByteWriter(capacity: 64)
        func begin(_ kind: Kind) {
            writer.write(kind.rawValue)
            writer.write(call)
        }
        switch self {
        case .hello(let version):
            begin(.hello)
            writer.write(version)
        case .done(.nothing): begin(.nothing)
        case .done(.started(let gaps, let notes)):
            begin(.started)
            writer.write(texts: gaps)
            writer.write(texts: notes)
        case .done(.part(let bytes, let isLast)):
            begin(.part)
            writer.write(UInt8(isLast ? 1 : 0))
            writer.writeCounted(bytes)
        case .done(.capacity(let total, let used, let free)):
            begin(.capacity)
            writer.write(total)
            writer.write(used)
            writer.write(free)
        case .failed(let status, let message):
            begin(.failed)
            writer.write(status)
            writer.writeText(message.clipped)
        case .keep(let name):
            begin(.keep)
            writer.writeText(name)
        case .forget(let name):
            begin(.forget)
            writer.writeText(name)
        }
        return writer.bytes
    }

    /// Reads a packet; nil when it is none.
    static func decode(_ packet: [UInt8]) -> (call: UInt64, message: HostMessage)? {
        var reader = ByteReader(packet)
        guard let raw = reader.read(UInt8.self), let kind = Kind(rawValue: raw),
            let call = reader.read(UInt64.self), let message = decode(kind, &reader), reader.remaining == 0
        else { return nil }
        return (call, message)
    }

    private static func decode(_ kind: Kind, _ reader: inout ByteReader) -> HostMessage? {
        switch kind {
        case .hello: return reader.read(UInt32.self).map { .hello(version: $0) }
        case .nothing: return .done(.nothing)
        case .started:
            guard let gaps = reader.readTexts(), let notes = reader.readTexts() else { return nil }
            return .done(.started(gaps: gaps, notes: notes))
        case .part:
            guard let isLast = reader.read(UInt8.self), isLast <= 1 else { return nil }
            return reader.readCounted(maximum: Limits.controlPartBytesMax).map {
                .done(.part($0, isLast: isLast == 1))
            }
        case .capacity:
            guard let total = reader.read(UInt64.self), let used = reader.read(UInt64.self),
                let free = reader.read(UInt64.self)
            else { return nil }
            return .done(.capacity(total: total, used: used, free: free))
        case .failed:
            guard let status = reader.read(UInt16.self),
                let message = reader.readText(maximum: Limits.controlTextBytesMax)
            else { return nil }
            return .failed(status: status, message: message)
        case .keep: return reader.readText(maximum: Limits.storedNameBytesMax).map { .keep(name: $0) }
        case .forget: return reader.readText(maximum: Limits.storedNameBytesMax).map { .forget(name: $0) }
        }
    }
}

extension String {
    /// As much of it as a control packet takes.
    fileprivate var clipped: String {
        var clipped = self
        while clipped.utf8.count > Limits.controlTextBytesMax { clipped.removeLast() }
        return clipped
    }
}

extension ByteWriter {
    fileprivate mutating func write(texts: [String]) {
        let some = texts.prefix(Limits.controlTextsMax)
        write(UInt16(some.count))
        for text in some { writeText(text.clipped) }
    }
}

extension ByteReader {
    fileprivate mutating func readTexts() -> [String]? {
        guard let count = read(UInt16.self), Int(count) <= Limits.controlTextsMax else { return nil }
        var texts: [String] = []
        for _ in 0..<count {
            guard let text = readText(maximum: Limits.controlTextBytesMax) else { return nil }
            texts.append(text)
        }
        return texts
    }
}
