import Core
import Testing
import Wire

@testable import SluiceClient

@Suite("VolumeRules: what to make of what a server says of a volume")
struct VolumeRulesTests {
    private let rules = VolumeRules(knownGeneration: nil)

    private static let range: ByteRange = {
        guard let range = ByteRange(offset: 0, length: 1 << 30) else {
            preconditionFailure("it fits 64 bits")
        }
        return range
    }()

    private func state(
        size: UInt64 = 1 << 20, mode: AccessMode = .singleWriter, rights: Rights = [.read, .write],
        epoch: UInt64 = 1, generation: UInt64 = 3
    ) -> ResourceState {
        ResourceState(
            size: size, blockSize: 512, transferBytesMax: 1 << 17, rights: rights,
            accessMode: mode, range: VolumeRulesTests.range, expiry: 9,
            resource: Identifier(high: 1, low: 2), capability: .zero, epoch: epoch,
            writerGeneration: generation)
    }

    private func taken(
        _ described: ResourceState, known: ResourceState?
    ) -> (state: ResourceState, findings: ResourceVerdict.Findings)? {
        guard case .taken(let state, let findings) = rules.judge(described, isOpened: true, known: known)
        else { return nil }
        return (state, findings)
    }

    private func end(
        _ described: ResourceState, known: ResourceState?, isOpened: Bool = true, rules: VolumeRules? = nil
    ) -> Status? {
        guard
            case .over(let error) = (rules ?? self.rules).judge(
                described, isOpened: isOpened, known: known)
        else { return nil }
        return error.status
    }

    @Test("growth that no event has told of is told, once it is believed")
    func growth() {
        let grown = taken(state(size: 2 << 20), known: state())
        #expect(grown?.findings.newSize == 2 << 20 && grown?.findings.doubt == nil)
        #expect(taken(state(), known: state())?.findings.newSize == nil)
        // More, and not in whole blocks: neither believed nor told.
        let odd = taken(state(size: (2 << 20) + 1), known: state())
        #expect(odd?.state.size == 1 << 20 && odd?.findings.doubt != nil && odd?.findings.newSize == nil)
        let less = taken(state(size: 1 << 19), known: state())
        #expect(less?.state.size == 1 << 20 && less?.findings.doubt != nil && less?.findings.newSize == nil)
    }

    @Test("a transfer fits every channel, whichever was opened last")
    func transfers() {
        var larger = state()
        larger.transferBytesMax = 1 << 18
        #expect(taken(larger, known: state())?.state.transferBytesMax == 1 << 17)
        guard case .notBelieved = rules.judge(state(), isOpened: true, known: larger) else {
            Issue.record("a server that takes less than before is believed")
            return
        }
    }

    @Test("who cannot know what others have written since does not go on")
    func staleness() {
        #expect(end(state(generation: 4), known: state()) == .staleEpoch)
        #expect(end(state(generation: 4), known: state(), isOpened: false) == .staleEpoch)
        #expect(end(state(rights: .read, generation: 4), known: state(rights: .read)) == nil)
        #expect(end(state(mode: .shared, generation: 4), known: state(mode: .shared)) == nil)
        #expect(end(state(generation: 4), known: nil, rules: VolumeRules(knownGeneration: 3)) == .staleEpoch)
        #expect(end(state(generation: 3), known: nil, rules: VolumeRules(knownGeneration: 3)) == nil)
        #expect(end(state(epoch: 2), known: state()) == .staleEpoch)
    }
}
