import Core
import Services
import Wire

/// The way in: plaintext into requests, and those into the services.
extension DataConnection {
    /// Takes whole and partial frames out of `bytes`; returns how many bytes were used. Stops early only at a request
    /// that has to wait, for room or for time for its signature, or the end.
    func ingest(_ bytes: UnsafeRawBufferPointer) -> Int {
        guard let channel else { return bytes.count }
        var at = 0
        while at < bytes.count {
            let left = bytes.count - at
            switch reader.part {
            case .header:
                let (used, isWhole) = unsafe reader.takeHeader(UnsafeRawBufferPointer(rebasing: bytes[at...]))
                at += used
                if isWhole { accept(channel) }
            case .payload:
                let count = min(left, reader.remaining)
                unsafe destination.copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[at..<at + count]))
                at += count
                payloadGrew(channel, count)
            case .body:
                let count = min(left, reader.remaining)
                if count == reader.remaining, mustWaitForSignatures { return at }
                let piece = unsafe UnsafeRawBufferPointer(rebasing: bytes[at..<at + count])
                at += count
                if unsafe reader.collect(piece) { bodyArrived(channel) }
            case .skip:
                let count = min(left, reader.remaining)
                at += count
                if reader.took(count) { reader.endFrame() }
            case .waiting, .held, .ended:
                return at
            }
        }
        return at
    }

    /// Whether the request in hand, of which all has arrived, may have a signature checked, and there is no time for that.
    private var mustWaitForSignatures: Bool {
        guard phase.isOpen, reader.request.operation?.kind.isControl == true else { return false }
        return !mayAskForSignature()
    }

    /// Offers the request in hand to the services.
    func accept(_ channel: ServiceChannel) {
        shard.acceptedRequests += 1
        if case .greeting = phase { return acceptGreeting(channel) }
        switch services.accept(channel, reader.request) {
        case .done: reader.endFrame()
        case .skip: reader.expect(.skip)
        case .body: reader.expect(.body)
        case .payload(let slot):
            reader.expect(.payload(slot: slot))
            unsafe destination = unsafe services.payloadBuffer(channel, slot: slot)
        case .wait:
            reader.wait()
            scheduleFlush()
        case .end: close("it broke the protocol")
        }
    }

    private func acceptGreeting(_ channel: ServiceChannel) {
        guard reader.request.verdict == .ok else {
            services.refuseGreeting(channel, reader.request)
            return close("its first request is not a valid HELLO")
        }
        reader.expect(.body)
    }

    func payloadGrew(_ channel: ServiceChannel, _ count: Int) {
        unsafe destination = unsafe UnsafeMutableRawBufferPointer(rebasing: destination[count...])
        guard reader.took(count), case .payload(let slot) = reader.part else { return }
        unsafe destination = unsafe UnsafeMutableRawBufferPointer(start: nil, count: 0)
        reader.endFrame()
        services.payloadArrived(channel, slot: slot)
    }

    private func bodyArrived(_ channel: ServiceChannel) {
        let request = reader.request
        let body = RequestBody(reader.body, of: request.operation)
        reader.endFrame()
        guard case .greeting = phase else { return services.control(channel, request, body) }
        switch services.hello(channel, request, body) {
        case .accepted: establish(channel)
        case .refused: close("its HELLO was refused")
        case .undecided:
            phase = .resuming
            reader.hold()
        }
    }

    private func establish(_ channel: ServiceChannel) {
        phase = .open
        reader.establish(payloadBytesMax: channel.payloadBytesMax)
    }

    /// Takes up what had to wait, and what comes after it.
    private func readOn() {
        // What is put off has its turn.
        guard !reader.isWaiting, !receiving.isPutOff else { return }
        pump()
        noteUnread()
        if !reader.isWaiting, !receiving.isReceiving { receive() }
    }

    // MARK: What services say of requests

    func channelHasOutput() { scheduleFlush() }

    func channelMayContinue() {
        guard reader.isWaiting, let channel else { return }
        accept(channel)
        readOn()
    }

    func channelMustSkip(slot: UInt16) {
        if reader.skip(slot: slot) {
            unsafe destination = unsafe UnsafeMutableRawBufferPointer(start: nil, count: 0)
        }
    }

    func channelWasGreeted(isAccepted: Bool) {
        guard phase.isResuming, let channel else { return }
        guard isAccepted else { return close("its HELLO was refused") }
        heardAt = reactor.now
        establish(channel)
        readOn()
    }
}
