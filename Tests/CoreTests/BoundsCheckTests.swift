import Testing

/// Swift 6.3's `bcopts` pass drops the check of `values[index + 1]` in this loop (swiftlang/swift#90669).
///
/// `Package.swift` leaves the pass out; a build that lets it in reads past the end here instead of trapping.
@inline(never)
private func sumOfPairs(_ values: [UInt8]) -> Int {
    var sum = 0
    for index in 0..<values.count { sum += Int(values[index]) + Int(values[index + 1]) }
    return sum
}

@Test func readingPastTheEndTraps() async {
    await #expect(processExitsWith: .failure) {
        let values = [UInt8](repeating: 1, count: Int.random(in: 3...3))
        print(sumOfPairs(values))
    }
}
