import Core
import Simulation
import Testing

@testable import DriverHost

/// Packets between the server and a driver host, which the server does not trust.
@Suite struct ControlPacketFuzzTests {
    private static let messages = Fuzzer(
        "messages of driver hosts", corpus: ControlPacketTests.messages.map { $0.encoded(call: 5) },
        tokens: pieces)
    private static let commands = Fuzzer(
        "commands to driver hosts", corpus: ControlPacketTests.commands.map { $0.encoded(call: 5) },
        tokens: pieces)
    private static let pieces: [[UInt8]] = [
        [0, 0], [0xFF, 0xFF], [1, 0], [2, 0, 0xC3, 0x28], [UInt8](repeating: 0, count: 8),
    ]

    @Test func aMessageThatIsReadHasOneForm() {
        var read = 0
        Self.messages.run(40_000) { input, place, _ in
            guard let (call, message) = HostMessage.decode(input) else { return }
            read += 1
            // Nothing hides in a packet.
            #expect(message.encoded(call: call) == input, "\(place)")
            let again = HostMessage.decode(message.encoded(call: call))
            #expect(again?.call == call && again?.message == message, "\(place)")
            #expect((0...1).contains(message.descriptorCount), "\(place)")
        }
        #expect(read > 2000)
    }

    @Test func aCommandThatIsReadIsTheSameWhenItIsWrittenAgain() {
        var read = 0
        Self.commands.run(40_000) { input, place, _ in
            guard let (call, command) = HostCommand.decode(input) else { return }
            read += 1
            let again = HostCommand.decode(command.encoded(call: call))
            #expect(again?.call == call && again?.command == command, "\(place)")
        }
        #expect(read > 2000)
    }
}
