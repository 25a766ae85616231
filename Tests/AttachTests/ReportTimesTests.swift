import Testing

@testable import Attach

@Suite struct ReportTimesTests {
    @Test("what stays wrong is said in intervals that double up to the longest")
    func doubling() {
        let second: UInt64 = 1_000_000_000
        var times = ReportTimes(now: 5 * second, firstSeconds: 10, longestSeconds: 60)
        var said: [UInt64] = []
        for now in 0..<300 where times.isDue(UInt64(now) * second) { said.append(UInt64(now)) }
        #expect(said == [15, 35, 75, 135, 195, 255])
    }
}
