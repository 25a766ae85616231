import Core
import DriverKit
import Wire

/// Markers on one reactor: which ones it notes changes for, and BLOCK_STATUS since one.
extension ServiceShard {
    /// Takes up the markers that a volume has now. New ones also have what drivers may still do: it could land after
    /// somebody has read what was changed since an earlier marker.
    func markersChanged(of volume: Identifier, index: UInt32, port number: UInt8) {
        guard Int(number) < ports.count, let port = ports[Int(number)] else { return }
        let fresh = port.setMarkers(services.markers(of: volume), volume: index)
        let bitmaps = fresh.compactMap(\.bitmap)
        if !bitmaps.isEmpty { markUnfinished(bitmaps, volume: index, port: number) }
    }

    private func markUnfinished(_ bitmaps: [MarkerBitmap], volume: UInt32, port: UInt8) {
        for case let channel? in channels.all where channel.slots.unanswered > 0 {
            for index in 0..<UInt16(channel.slots.count) {
                let request = channel.slots[index]
                guard request.state == .running, request.port == port,
                    channel.handles[request.handle].index == volume
                else { continue }
                let (offset, length) = channel.beingChanged(index)
                for bitmap in bitmaps { bitmap.mark(offset, length) }
            }
        }
    }

    /// Takes in a BLOCK_STATUS whose payload is complete.
    func blockStatus(_ channel: ServiceChannel, _ slot: UInt16, since id: Identifier) {
        guard marker(id, of: channel.slots[slot], channel) != nil else {
            return answer(channel, slot, .notFound)
        }
        channel[operation: slot] = .changes(since: id)
        submit(channel, slot)
    }

    /// A marker of the volume of a request; nil when it has none such.
    func marker(_ id: Identifier, of request: Slot, _ channel: ServiceChannel) -> Marker? {
        ports[Int(request.port)]?.marker(id, volume: channel.handles[request.handle].index)
    }

    /// Makes durable what was written to a volume; `done` runs on this thread.
    func flushVolume(_ index: UInt32, port number: UInt8, done: @escaping (Status) -> Void) {
        guard Int(number) < ports.count, let port = ports[Int(number)] else { return done(.driverFailed) }
        port.flush(index, done: done)
    }
}

extension ServiceChannel {
    /// What the driver may be changing for the request in a slot, of the volume of its handle.
    fileprivate func beingChanged(_ slot: UInt16) -> (offset: UInt64, length: UInt64) {
        let request = slots[slot]
        switch Opcode(rawValue: request.opcode) {
        case .write, .writeZeroes, .discard, .compareAndWrite: return (request.offset, UInt64(request.count))
        case .copyRange:
            guard let copy = self[copy: slot] else { return (0, 0) }
            return (request.offset + UInt64(copy.copied), UInt64(copy.piece))
        default: return (0, 0)
        }
    }
}
