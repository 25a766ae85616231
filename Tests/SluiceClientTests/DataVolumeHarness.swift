import Core
import Reactor
import TLS
import Wire

@testable import SluiceClient

/// A volume client on a reactor of its own, and what it says.
final class VolumeHarness: VolumeClientDelegate, @unchecked Sendable {
    // SAFETY: `volume` is touched on the reactor's thread only.
    enum Said: Sendable {
        case ready(size: UInt64, depth: Int)
        case completed(ChannelCompletion)
        case event(ChannelEvent)
        case renewed(Bool)
        case interrupted(String)
        case resumed(repeated: Int)
        case needsCapability
        case ignored(String)
        case closed(String)
    }

    let thread: ReactorThread
    private var volume: VolumeClient?
    private let said: AsyncStream<Said>
    private let say: AsyncStream<Said>.Continuation

    init(_ options: VolumeClientOptions) throws {
        (said, say) = AsyncStream<Said>.makeStream()
        thread = try Reactor.start { _ in }
        thread.remote.postWithReactor { [self] reactor in
            let volume = VolumeClient(reactor: reactor, options: options, delegate: self)
            self.volume = volume
            volume.start()
        }
    }

    func on(_ work: @escaping @Sendable (VolumeClient) -> Void) {
        thread.remote.post { [self] in
            if let volume { work(volume) }
        }
    }

    func renew() {
        on { [self] volume in
            volume.renew(capability: [9]) { result in
                if case .success = result {
                    self.say.yield(.renewed(true))
                } else {
                    self.say.yield(.renewed(false))
                }
            }
        }
    }

    func next() async -> Said? {
        var iterator = said.makeAsyncIterator()
        return await iterator.next()
    }

    /// The next thing that is said and that `isWanted` takes; what comes before it is passed over.
    func next(where isWanted: (Said) -> Bool) async -> Said? {
        while let one = await next() {
            if isWanted(one) { return one }
        }
        return nil
    }

    func stop() {
        thread.remote.post { [self] in volume = nil }
        thread.remote.stop()
        thread.join()
    }

    func volumeReady(_ volume: VolumeClient) {
        say.yield(.ready(size: volume.state?.size ?? 0, depth: volume.depth))
    }

    func volumeCompleted(_ volume: VolumeClient, _ completions: Span<ChannelCompletion>) {
        for index in completions.indices { say.yield(.completed(completions[index])) }
    }

    func volumeHasRoom(_ volume: VolumeClient) {}

    func volumeEvent(_ volume: VolumeClient, _ event: ChannelEvent) { say.yield(.event(event)) }

    func volumeInterrupted(_ volume: VolumeClient, _ reason: ChannelError) {
        say.yield(.interrupted(reason.description))
    }

    func volumeResumed(_ volume: VolumeClient, afterNanoseconds pause: UInt64, repeated: Int) {
        say.yield(.resumed(repeated: repeated))
    }

    func volumeIgnored(_ volume: VolumeClient, _ what: String) { say.yield(.ignored(what)) }

    func volumeNeedsCapability(_ volume: VolumeClient) { say.yield(.needsCapability) }

    func volumeClosed(_ volume: VolumeClient, _ error: ChannelError) { say.yield(.closed(error.description)) }
}
