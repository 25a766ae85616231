import CHostile
import Core
import DriverKit
import Drivers
import Glibc
import Reactor

/// A `file` driver that does harm once in a pool's life, in the way that the setting `harm` names: when its
/// capacity is asked for, or when it is opened. Afterwards it is honest.
final class HarmfulDriver: InstalledVolumeDriver {
    static let name = "harmful"

    private let harm: Harm
    private let folder: FileDescriptor
    private let store: any DescriptorStore
    private let inner: FileDriver

    init(_ environment: DriverEnvironment) throws(StatusError) {
        guard let harm = environment.settings["harm"].flatMap(Harm.init(rawValue:)) else {
            throw StatusError(.badRequest, "the setting harm names no harm")
        }
        self.harm = harm
        store = environment.store
        folder = FileDescriptor(owning: unsafe open(environment.folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC))
        if harm == .hangAtStart { while true { pause() } }
        if harm == .endAtStart { exit(3) }
        if harm == .refuseToStart { throw StatusError(.noSpace, "this device is full") }
        inner = try FileDriver(DriverEnvironment(settings: [:], folder: environment.folder, store: store))
    }

    static func needs(settings: [String: String]) throws(StatusError) -> DriverNeeds {
        var needs = DriverNeeds()
        needs.sharedMemory = true
        return needs
    }

    var notes: [String] { inner.notes }

    func capacity() throws(StatusError) -> PoolCapacity {
        let marker = unsafe openat(folder.raw, "harmed", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        if marker >= 0 {
            _ = close(marker)
            try harmServer()
        }
        return try inner.capacity()
    }

    private func harmServer() throws(StatusError) {
        switch harm {
        case .holdLifeline: hostile_hold_lifeline(3, 4)
        case .keepPipe:
            var ends: [Int32] = [-1, -1]
            _ = unsafe pipe(&ends)
            try store.keep(FileDescriptor(owning: ends[0]), as: "pipe")
            while true { pause() }
        case .keepMany:
            var number = 0
            while true {
                try store.keep(folder, as: "number-\(number)")
                number += 1
            }
        case .keepForEver: while true { try store.keep(folder, as: "one") }
        case .keepMemory:
            for number in 0..<3 { try keepMemory(number) }
            while true { pause() }
        case .keepOpenMemory:
            try store.keep(FileDescriptor(owning: hostile_growing_memory()), as: "memory")
            while true { pause() }
        case .ring: hostile_ring()
        case .speakInLines: throw StatusError(.ok, "one line\nanother\u{1B}[2J")
        case .hangAtStart, .endAtStart, .refuseToStart: break
        }
    }

    private func keepMemory(_ number: Int) throws(StatusError) {
        let memory: SharedMemory
        do throws(ReactorError) { memory = try SharedMemory(name: "unasked", bytes: 1 << 30) } catch {
            throw StatusError(.driverFailed, "\(error)")
        }
        try store.keep(memory.descriptor, as: "memory/\(number)")
    }

    func createVolume(_ id: Identifier, size: UInt64) throws(StatusError) {
        try inner.createVolume(id, size: size)
    }

    func resizeVolume(_ id: Identifier, to size: UInt64) throws(StatusError) {
        try inner.resizeVolume(id, to: size)
    }

    func deleteVolume(_ id: Identifier) throws(StatusError) { try inner.deleteVolume(id) }

    func volumes() throws(StatusError) -> [Identifier: UInt64] { try inner.volumes() }

    func openVolume(_ id: Identifier, index: UInt32) throws(StatusError) -> VolumeGeometry {
        try inner.openVolume(id, index: index)
    }

    func closeVolume(_ index: UInt32) { inner.closeVolume(index) }

    func makeQueue(
        reactor: Reactor, arena: Arena, submissions: SubmissionRing, completions: CompletionRing,
        onCompletions: @escaping () -> Void
    ) throws(StatusError) -> any DriverQueue {
        try inner.makeQueue(
            reactor: reactor, arena: arena, submissions: submissions, completions: completions,
            onCompletions: onCompletions)
    }
}

/// What a driver under someone else's control does to the server.
public enum Harm: String, CaseIterable, Sendable {
    /// Sends the end of its own lifeline behind a packet that ends it.
    case holdLifeline
    /// Has a pipe kept.
    case keepPipe
    /// Has ever more descriptors kept.
    case keepMany
    /// Has one descriptor kept again and again.
    case keepForEver
    /// Has memory kept that nobody asked for.
    case keepMemory
    /// Has memory kept whose size it can change.
    case keepOpenMemory
    /// Rings every doorbell without end.
    case ring
    /// Says with an error that there is none, in lines of its own.
    case speakInLines
    case hangAtStart
    case endAtStart
    case refuseToStart
}
