import Core
import Glibc
import Reactor
import Testing

@testable import Services

/// Requests that have ended the server before are not tried for ever.
@Suite struct SuspectsTests {
    private let holder = Digest32(first: Identifier(high: 1, low: 2), second: Identifier(high: 3, low: 4))
    private let now: UInt64 = 1_800_000_000

    private func request(_ offset: UInt64 = 4096, count: UInt32 = 1024) -> RequestIdentity {
        RequestIdentity(
            holder: holder, volume: Identifier(high: 5, low: 6), opcode: 0x100, offset: offset, count: count)
    }

    private func record(_ at: UInt64, _ request: RequestIdentity?) -> WatchdogRecord {
        WatchdogRecord(at: at, reactor: "data-0", milliseconds: 5012, request: request)
    }

    @Test func aRecordComesBackFromItsLine() {
        for request in [request(), nil] {
            let record = record(now, request)
            #expect(WatchdogRecord(line: Substring(record.line)) == record)
        }
    }

    @Test(arguments: [
        "", " ", "x", "1 data-0", "1 data-0 x", "1 data-0 3 4", "1 data-0 3 4 5 6 7 8", "-1 data-0 3",
        "1 data-0 3 \(String(repeating: "z", count: 64)) \(String(repeating: "0", count: 32)) 1 2 3",
        "1 data-0 3 \(String(repeating: "0", count: 64)) \(String(repeating: "0", count: 32)) 65536 2 3",
    ])
    func anythingElseIsNoRecord(_ line: String) { #expect(WatchdogRecord(line: Substring(line)) == nil) }

    @Test func aRequestThatEndedTheServerOnceIsTriedAgain() {
        let suspects = Suspects([record(now, request()), record(now, nil), record(now, nil)])
        #expect(suspects.isEmpty)
        #expect(suspects.refusal(request(), isRepeat: true, now: now) == nil)
    }

    @Test func oneThatEndedItTwiceIsRefusedForAWhileAndNoOther() {
        let suspects = Suspects([record(now, request()), record(now + 9, request())])
        #expect(!suspects.isEmpty)
        for isRepeat in [true, false] {
            #expect(suspects.refusal(request(), isRepeat: isRepeat, now: now + 10) != nil)
            #expect(suspects.refusal(request(), isRepeat: isRepeat, now: now + 608) != nil)
            #expect(suspects.refusal(request(), isRepeat: isRepeat, now: now + 609) == nil)
            #expect(suspects.refusal(request(8192), isRepeat: isRepeat, now: now + 10) == nil)
            #expect(suspects.refusal(request(count: 512), isRepeat: isRepeat, now: now + 10) == nil)
        }
    }

    @Test func eachFurtherTimeItIsRefusedForTwiceAsLong() {
        var records = [record(now, request())]
        for time in 0..<10 as Range<UInt64> {
            records.append(record(now + 100_000 * time, request()))
            let suspects = Suspects(records)
            let most = UInt64(600) << min(time, 7)
            #expect(suspects.refusal(request(), isRepeat: false, now: now + 100_000 * time + most - 1) != nil)
            #expect(suspects.refusal(request(), isRepeat: false, now: now + 100_000 * time + most) == nil)
        }
    }

    @Test func aKeyWhoseRequestsEndItAgainAndAgainRepeatsNone() {
        let suspects = Suspects((0..<3).map { record(now + $0 * 100, request($0 * 512)) })
        #expect(suspects.refusal(request(1 << 20), isRepeat: true, now: now + 300) != nil)
        #expect(suspects.refusal(request(1 << 20), isRepeat: false, now: now + 300) == nil)
        #expect(suspects.refusal(request(1 << 20), isRepeat: true, now: now + 800) == nil)
        let other = RequestIdentity(
            holder: Digest32(first: .zero, second: .zero), volume: .zero, opcode: 1, offset: 0, count: 1)
        #expect(suspects.refusal(other, isRepeat: true, now: now + 300) == nil)
        let apart = Suspects((0..<3).map { record(now + $0 * 1000, request($0 * 512)) })
        #expect(apart.isEmpty)
    }

    @Test func theFileKeepsTheLatestAndIsReadWhateverIsInIt() throws {
        let path = "/tmp/sluice-stood-\(Identifier.random(using: SystemRandom()).hex)"
        defer { _ = unsafe unlink(path) }
        let file = WatchdogFile(path: path)
        #expect(file.load().isEmpty)
        for number in 0..<300 as Range<UInt64> { file.append(record(now + number, request(number))) }
        #expect(file.load().map(\.at) == (now + 200..<now + 300).map { $0 })
        #expect(file.load().count == 100)
        let garbage = unsafe open(path, O_WRONLY | O_APPEND)
        _ = unsafe write(garbage, "\u{0}\u{1}garbage\n1 2\n", 14)
        close(garbage)
        file.append(record(now + 1000, nil))
        #expect(file.load().last == record(now + 1000, nil))
    }
}
