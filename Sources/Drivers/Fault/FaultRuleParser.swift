import Core
import DriverKit

/// Reads rules as people write them; `README.md` beside this file has the grammar.
extension FaultRules {
    /// Rules from text.
    ///
    /// - Throws: `badRequest` with the rule's number, what is wrong and what would be right.
    init(text: String) throws(StatusError) {
        if text.utf8.count > Limits.faultRulesBytesMax {
            throw StatusError(.badRequest, "the rules have more than \(Limits.faultRulesBytesMax) bytes")
        }
        var number = 0
        for part in text.split(separator: ";", omittingEmptySubsequences: false) {
            if part.allSatisfy(\.isWhitespace) { continue }
            number += 1
            if number > Limits.faultRulesMax {
                throw StatusError(.badRequest, "there are more than \(Limits.faultRulesMax) rules")
            }
            var parser = FaultRuleParser(number: number)
            rules.append(try parser.rule(part))
        }
    }
}

/// Reads one rule.
private struct FaultRuleParser {
    let number: Int
    private var after: UInt64?
    private var every: UInt64?
    private var nth: UInt64?
    private var count: UInt64?
    private var chance: FaultRule.Chance?

    init(number: Int) { self.number = number }

    mutating func rule(_ text: Substring) throws(StatusError) -> FaultRule {
        let halves = text.split(separator: ":", omittingEmptySubsequences: false)
        if halves.count > 2 { throw wrong("it has more than one colon; rules are separated by semicolons") }
        let target = halves.count == 2 ? try words(halves[0]) : ["any"]
        let action = try words(halves[halves.count - 1])
        if halves.count == 2 && target.isEmpty {
            throw wrong("no operation stands before the colon; write any, or some of \(operationWords)")
        }
        if action.isEmpty { throw wrong("it says no fault; write one of \(FaultRuleParser.faultWords)") }
        let fault = try fault(action)
        let operations = try operations(target, fault)
        if nth != nil && (every != nil || chance != nil || count != nil) {
            throw wrong("nth picks one request: every, chance and count do not go with it")
        }
        return FaultRule(
            operations: operations, fault: fault, after: after ?? 0, every: every, nth: nth, chance: chance,
            count: count)
    }

    /// Splits into words and takes the conditions out.
    private mutating func words(_ text: Substring) throws(StatusError) -> [String] {
        var rest: [String] = []
        for word in text.split(whereSeparator: \.isWhitespace) {
            if let equals = word.firstIndex(of: "=") {
                try condition(String(word[..<equals]), word[word.index(after: equals)...])
            } else {
                rest.append(String(word))
            }
        }
        return rest
    }

    private mutating func condition(_ name: String, _ value: Substring) throws(StatusError) {
        switch name {
        case "after": after = try once(after, name, number(name, value, least: 0))
        case "every": every = try once(every, name, number(name, value, least: 1))
        case "nth": nth = try once(nth, name, number(name, value, least: 1))
        case "count": count = try once(count, name, number(name, value, least: 1))
        case "chance":
            let parts = value.split(separator: "/", omittingEmptySubsequences: false)
            guard parts.count == 2, let hits = digits(parts[0]), let of = digits(parts[1]), hits > 0,
                hits <= of
            else { throw wrong("chance is \"\(value)\"; write a fraction such as 1/1000") }
            chance = try once(chance, name, FaultRule.Chance(hits: hits, of: of))
        default:
            throw wrong("there is no condition \"\(name)\"; there are after, every, nth, chance and count")
        }
    }

    private func once<Value>(_ before: Value?, _ name: String, _ value: Value) throws(StatusError) -> Value {
        if before != nil { throw wrong("\(name) is said twice") }
        return value
    }

    private func digits(_ text: Substring) -> UInt64? {
        text.allSatisfy { $0.isASCII && $0.isNumber } ? UInt64(text) : nil
    }

    private func number(_ name: String, _ text: Substring, least: UInt64) throws(StatusError) -> UInt64 {
        guard let value = digits(text), value >= least else {
            throw wrong("\(name) is \"\(text)\"; write a whole number, at least \(least)")
        }
        return value
    }

    private static let faultWords = "error, nospace, delay, hang, spin, crash, torn, bitflip, powercut"
    private static let errors: [(word: String, status: Status)] = [
        ("io", .ioError), ("medium", .mediumError), ("nospace", .noSpace), ("readonly", .readOnly),
        ("busy", .busy), ("failed", .driverFailed),
    ]

    private func fault(_ words: [String]) throws(StatusError) -> Fault {
        if words.count > 2 { throw wrong("\"\(words[2])\" is one word too many after \(words[0])") }
        let argument = words.count == 2 ? words[1] : nil
        switch words[0] {
        case "error":
            guard let argument else { return .error(.ioError) }
            if let status = FaultRuleParser.errors.first(where: { $0.word == argument })?.status {
                return .error(status)
            }
            let known = FaultRuleParser.errors.map(\.word).joined(separator: ", ")
            throw wrong("there is no error \"\(argument)\"; there are \(known)")
        case "delay":
            guard let argument else { throw wrong("delay wants a time, such as delay 20ms") }
            return .delay(try duration(argument))
        case "spin": return .spin(try argument.map { text throws(StatusError) in try duration(text) } ?? .max)
        case "torn": return .torn(crash: try crashes(words[0], argument))
        case "powercut": return .powerCut(crash: try crashes(words[0], argument))
        case "nospace", "hang", "crash", "bitflip":
            if let argument { throw wrong("\"\(argument)\" is one word too many after \(words[0])") }
            return switch words[0] {
            case "nospace": .error(.noSpace)
            case "hang": .hang
            case "crash": .crash
            default: .bitFlip
            }
        default:
            throw wrong("there is no fault \"\(words[0])\"; there are \(FaultRuleParser.faultWords)")
        }
    }

    private func crashes(_ fault: String, _ argument: String?) throws(StatusError) -> Bool {
        switch argument {
        case nil: return false
        case "crash": return true
        case .some(let other):
            throw wrong("\"\(other)\" after \(fault) is not known; write \(fault) or \(fault) crash")
        }
    }

    private func duration(_ text: String) throws(StatusError) -> UInt64 {
        let scales: [(unit: String, nanoseconds: UInt64)] = [
            ("us", 1000), ("ms", 1_000_000), ("s", 1_000_000_000),
        ]
        let figures = text.prefix { $0.isASCII && $0.isNumber }
        let unit = text.dropFirst(figures.count)
        if let number = UInt64(figures), let scale = scales.first(where: { $0.unit == unit }) {
            let (product, overflow) = number.multipliedReportingOverflow(by: scale.nanoseconds)
            if !overflow && product <= Limits.faultDelayNanosecondsMax { return product }
        }
        let most = Limits.faultDelayNanosecondsMax / 1_000_000_000
        throw wrong("the time is \"\(text)\"; write a time such as 500us, 20ms or 2s, at most \(most)s")
    }

    private var operationWords: String { OperationSet.words.map(\.word).joined(separator: ", ") }

    private func operations(_ words: [String], _ fault: Fault) throws(StatusError) -> OperationSet {
        if words == ["any"] { return fault.operations.intersection(.all) }
        var set: OperationSet = []
        for word in words.flatMap({ $0.split(separator: ",", omittingEmptySubsequences: false) }) {
            guard let operation = OperationSet.words.first(where: { $0.word == word })?.set else {
                throw wrong(
                    "there is no operation \"\(word)\"; write any, or some of \(operationWords) with commas")
            }
            if !fault.operations.contains(operation) {
                throw wrong("\(fault.word) is for \(fault.operations.description), not for \(word)")
            }
            set.insert(operation)
        }
        return set
    }

    private func wrong(_ message: String) -> StatusError {
        StatusError(.badRequest, "rule \(number) of the setting rules: \(message)")
    }
}
