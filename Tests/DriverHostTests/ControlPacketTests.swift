import Core
import DriverKit
import Testing

@testable import DriverHost

@Suite struct ControlPacketTests {
    static let id = Identifier(high: 1, low: 2)

    static let commands: [HostCommand] = [
        .stored(name: "memory/1"),
        .start(
            HostStart(
                driver: "file", settings: ["direct": "false", "path": "/dev/x"], folder: "/pool",
                user: 1_879_048_192, queues: 4)),
        .start(HostStart(driver: "", settings: [:], folder: "", user: nil, queues: 0)),
        .addQueue(index: 3, arenaBytes: 1 << 26, capacity: 4096), .capacity,
        .configure(["rules": "read: error io"]), .perform([]), .perform(VolumeCall.open(id, index: 7).bytes),
    ]

    static let messages: [HostMessage] = [
        .hello(version: 1), .done(.nothing), .done(.started(gaps: ["no landlock"], notes: [])),
        .done(.part(id.bytes, isLast: true)), .done(.part([], isLast: false)),
        .done(.capacity(total: 3, used: 2, free: 1)),
        .failed(status: 3, message: "why"), .keep(name: "lock"), .forget(name: "lock"),
    ]

    @Test(arguments: commands) func aCommandIsReadAsItWasWritten(command: HostCommand) throws {
        let decoded = try #require(HostCommand.decode(command.encoded(call: 99)))
        #expect(decoded.call == 99 && decoded.command == command)
    }

    @Test(arguments: messages) func aMessageIsReadAsItWasWritten(message: HostMessage) throws {
        let decoded = try #require(HostMessage.decode(message.encoded(call: 77)))
        #expect(decoded.call == 77 && decoded.message == message)
    }

    @Test func whatIsCutOrTooLongIsRefused() {
        for message in Self.messages {
            let packet = message.encoded(call: 1)
            for count in 0..<packet.count { #expect(HostMessage.decode(Array(packet.prefix(count))) == nil) }
            #expect(HostMessage.decode(packet + [0]) == nil)
        }
    }

    @Test func aLongReasonIsClippedToWhatAPacketTakes() throws {
        let message = HostMessage.failed(status: 1, message: String(repeating: "é", count: 5000))
        let decoded = try #require(HostMessage.decode(message.encoded(call: 1)))
        guard case .failed(_, let text) = decoded.message else { return #expect(Bool(false)) }
        #expect(text.utf8.count == Limits.controlTextBytesMax)
    }
}
