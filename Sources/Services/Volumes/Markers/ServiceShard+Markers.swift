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
                    channel.handles[request.handle].volumeIndex == volume
                else { continue }
                let (offset, length) = request.beingChanged
                for bitmap in bitmaps { bitmap.mark(offset, length) }
            }
        }
    }

    /// Takes in a BLOCK_STATUS whose payload is complete.
    func blockStatus(_ channel: ServiceChannel, _ header: RequestHeader, _ body: [UInt8]) {
        guard let id = Identifier(bytes: body) else { return answer(channel, header.slot, .badLength) }
        channel.slots[header.slot].marker = id
        guard marker(of: channel.slots[header.slot], channel) != nil else {
            return answer(channel, header.slot, .notFound)
        }
        submit(channel, header.slot)
    }

    /// The marker that a BLOCK_STATUS names; nil when its volume has none such.
    func marker(of request: Slot, _ channel: ServiceChannel) -> Marker? {
        ports[Int(request.port)]?.marker(
            request.marker, volume: channel.handles[request.handle].volumeIndex)
    }

    /// Makes durable what was written to a volume; `done` runs on this thread.
    func flushVolume(_ index: UInt32, port number: UInt8, done: @escaping (Status) -> Void) {
        guard Int(number) < ports.count, let port = ports[Int(number)] else { return done(.driverFailed) }
        port.flush(volume: index, done: done)
    }
}

extension Slot {
    /// What the driver may be changing of the handle's volume.
    var beingChanged: (offset: UInt64, length: UInt64) {
        switch Opcode(rawValue: opcode) {
        case .write, .writeZeroes, .discard, .compareAndWrite: (offset, UInt64(count))
        case .copyRange: (offset + UInt64(copied), UInt64(piece))
        default: (0, 0)
        }
    }
}
