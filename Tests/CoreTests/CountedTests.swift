import Core
import Testing

@Suite struct CountedTests {
    @Test(arguments: [(0, "0 requests wait"), (1, "1 request waits"), (2, "2 requests wait")])
    func oneIsOne(count: Int, text: String) {
        #expect(count.counted("request waits", "requests wait") == text)
        #expect(UInt64(count).counted("volume") == (count == 1 ? "1 volume" : "\(count) volumes"))
    }
}
