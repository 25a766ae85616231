/// Text for points in time, without a calendar library.
enum UTCTime {
    /// `2026-01-31T23:59:59Z`; seconds that no four-digit year holds are shown as a number.
    static func text(_ secondsSince1970: UInt64) -> String {
        guard secondsSince1970 < 253_402_300_800 else { return "second \(secondsSince1970) since 1970" }
        let (days, second) = Int(secondsSince1970).quotientAndRemainder(dividingBy: 86_400)
        let (year, month, day) = civil(days)
        let clock = [second / 3_600, second / 60 % 60, second % 60].map { padded($0, 2) }
        return "\(padded(year, 4))-\(padded(month, 2))-\(padded(day, 2))T\(clock.joined(separator: ":"))Z"
    }

    /// The Gregorian date that is `days` after 1970-01-01. Years are counted from March, so that the leap
    /// day is the last of a year, and in eras of 400 years, which all have the same number of days.
    private static func civil(_ days: Int) -> (year: Int, month: Int, day: Int) {
        let daysBefore1970 = 719_468  // from 0000-03-01
        let (era, dayOfEra) = (days + daysBefore1970).quotientAndRemainder(dividingBy: 146_097)
        let leapDays = dayOfEra / 1_460 - dayOfEra / 36_524 + dayOfEra / 146_096
        let yearOfEra = (dayOfEra - leapDays) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let monthFromMarch = (5 * dayOfYear + 2) / 153
        let day = dayOfYear - (153 * monthFromMarch + 2) / 5 + 1
        let month = monthFromMarch < 10 ? monthFromMarch + 3 : monthFromMarch - 9
        return (era * 400 + yearOfEra + (month <= 2 ? 1 : 0), month, day)
    }

    /// A length of time in its two largest units, such as `3 h 20 min`.
    static func duration(_ seconds: UInt64) -> String {
        let units: [(name: String, seconds: UInt64)] = [("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)]
        guard let first = units.firstIndex(where: { seconds >= $0.seconds }) else { return "0 s" }
        var parts = ["\(seconds / units[first].seconds) \(units[first].name)"]
        if first + 1 < units.count {
            let rest = seconds % units[first].seconds / units[first + 1].seconds
            if rest > 0 { parts.append("\(rest) \(units[first + 1].name)") }
        }
        return parts.joined(separator: " ")
    }

    private static func padded(_ number: Int, _ width: Int) -> String {
        let digits = String(number)
        return String(repeating: "0", count: max(0, width - digits.count)) + digits
    }
}
