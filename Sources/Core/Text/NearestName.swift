/// Finds what somebody meant who misspelt a name.
public enum NearestName {
    /// The candidate that differs in the fewest letters, and in so few that it may be meant; nil when there is none.
    public static func of(_ name: String, in candidates: [String]) -> String? {
        let limit = min(2, max(1, name.count / 3))
        let found = candidates.map { (name: $0, distance: distance(name.lowercased(), $0.lowercased())) }
            .filter { $0.distance <= limit }
        return found.min { ($0.distance, $0.name) < ($1.distance, $1.name) }?.name
    }

    /// `; did you mean "X"?`, or nothing.
    public static func hint(_ name: String, in candidates: [String]) -> String {
        of(name, in: candidates).map { "; did you mean \"\($0)\"?" } ?? ""
    }

    /// How many letters are to be put in, taken out, changed or swapped with the next. Names are short.
    public static func distance(_ left: String, _ right: String) -> Int {
        let (left, right) = (Array(left.utf8.prefix(64)), Array(right.utf8.prefix(64)))
        var before = [Int](repeating: 0, count: right.count + 1)
        var last = Array(0...right.count)
        for row in 0..<left.count {
            var next = [row + 1]
            next.reserveCapacity(right.count + 1)
            for column in 0..<right.count {
                var cost = min(last[column + 1], next[column]) + 1
                cost = min(cost, last[column] + (left[row] == right[column] ? 0 : 1))
                if row > 0, column > 0, left[row] == right[column - 1], left[row - 1] == right[column] {
                    cost = min(cost, before[column - 1] + 1)
                }
                next.append(cost)
            }
            before = last
            last = next
        }
        return last[right.count]
    }
}
