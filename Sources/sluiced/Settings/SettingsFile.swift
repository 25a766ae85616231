import ControlPlane
import Core
import Foundation
import Yams

/// Reads a YAML file of settings: `sluice:` with settings below it. What is not a setting is a problem, with its line.
struct SettingsFile {
    private(set) var found: [SettingKey: (value: SettingValue, place: SettingPlace)] = [:]
    private(set) var problems: [String] = []

    private let path: String

    /// The key under which all settings are.
    static let top = "sluice"
    private static let bytesMax = 1 << 20

    /// Reads the file at `path`.
    init(path: String) {
        self.path = path
        do throws(AuthorityError) {
            let bytes = try PrivateFiles.read(path, bytesMax: Self.bytesMax)
            if let text = String(validating: bytes, as: UTF8.self) {
                read(text: text)
            } else {
                problems.append("\(path): is no text in UTF-8")
            }
        } catch { problems.append("\(error)") }
    }

    /// Reads `text`, which is said to come from `path`.
    init(path: String, text: String) {
        self.path = path
        read(text: text)
    }

    private mutating func read(text: String) {
        let document: Node?
        do {
            document = try Yams.compose(yaml: text)
        } catch let error as YamlError {
            let lines = "\(error)".split(whereSeparator: \.isNewline).map {
                $0.trimmingCharacters(in: .whitespaces)
            }
            // The parser says the line that it does not understand.
            let all = ShownText.line(lines.joined(separator: " "), charactersMax: 500)
            problems.append("\(path): is no YAML: \(all)")
            return
        } catch {
            problems.append("\(path): is no YAML: \(error)")
            return
        }
        guard let document, document.scalar?.string.isEmpty != true else { return }
        guard let mapping = document.mapping else {
            return problem(document, "\"\(Self.top):\" with settings below it would be right")
        }
        for (key, value) in mapping {
            let name = key.string ?? ""
            if name == Self.top {
                read(value, below: [])
            } else if SettingKey.all.contains(where: { $0.path.first == name }) {
                problem(key, "\"\(name)\" belongs below \"\(Self.top):\"")
            } else if let setting = Self.dotted(name, below: []) {
                problem(key, "\"\(name)\" belongs below \"\(Self.top):\", as \(Self.nested(setting.path))")
            } else {
                problem(key, "there is no \"\(shown(name))\"" + NearestName.hint(name, in: [Self.top]))
            }
        }
    }

    /// Reads the settings below some keys.
    private mutating func read(_ node: Node, below parents: [String]) {
        if node.scalar?.tag.description == "tag:yaml.org,2002:null" || node.scalar?.string.isEmpty == true {
            return
        }
        guard let mapping = node.mapping else {
            return problem(
                node, "\"\(([Self.top] + parents).joined(separator: "."))\" holds settings, not a value")
        }
        let known = SettingKey.all.filter { $0.path.starts(with: parents) && $0.path.count > parents.count }
        for (key, value) in mapping {
            let name = key.string ?? ""
            let path = parents + [name]
            if let setting = known.first(where: { $0.path == path }) {
                take(value, for: setting, key: key)
            } else if known.contains(where: { $0.path.starts(with: path) }) {
                read(value, below: path)
            } else if Self.dotted(name, below: parents) != nil {
                problem(
                    key,
                    "there is no key \"\(name)\": a dot is a level of the file; write it as "
                        + Self.nested(name.split(separator: ".").map(String.init)))
            } else {
                let names = Set(known.map { $0.path[parents.count] }).sorted()
                let all = shown(path.joined(separator: "."))
                let hint = NearestName.hint(name, in: names)
                problem(
                    key,
                    "there is no setting \"\(all)\""
                        + (hint.isEmpty ? "; there are \(names.joined(separator: ", "))" : hint))
            }
        }
    }

    /// The setting that a key with dots in it means.
    private static func dotted(_ name: String, below parents: [String]) -> SettingKey? {
        let path = parents + name.split(separator: ".").map(String.init)
        return name.contains(".") ? SettingKey.all.first { $0.path == path } : nil
    }

    /// `stop: {seconds: …}`
    private static func nested(_ path: [String]) -> String {
        let inner = path.dropFirst().reversed().reduce("…") { inner, key in "{\(key): \(inner)}" }
        return "\(path[0]): \(inner)"
    }

    private mutating func take(_ node: Node, for setting: SettingKey, key: Node) {
        var texts: [String] = []
        if let list = node.sequence, setting.isList {
            for item in list {
                guard let text = Self.text(item, of: setting.kind) else { return wrong(item, setting) }
                texts.append(text)
            }
        } else if let text = Self.text(node, of: setting.kind) {
            texts = [text]
        } else {
            return wrong(node, setting)
        }
        guard let value = setting.value(texts) else { return wrong(node, setting) }
        found[setting] = (value, .file(path, line: line(key)))
    }

    /// The text of a scalar; nil for another type than is right: a number in quotes is none.
    private static func text(_ node: Node, of kind: SettingKey.Kind) -> String? {
        guard let scalar = node.scalar else { return nil }
        switch kind {
        case .integer, .integers: return scalar.style == .plain || scalar.style == .any ? scalar.string : nil
        case .addresses, .path, .choice: return scalar.string
        }
    }

    private mutating func wrong(_ node: Node, _ setting: SettingKey) {
        let present =
            node.scalar.map { "\"\(shown($0.string))\"" } ?? (node.sequence != nil ? "a list" : "a mapping")
        problem(node, "\(setting.name) is \(present); \(setting.rule) would be right")
    }

    private mutating func problem(_ node: Node, _ text: String) {
        problems.append("\(path):\(line(node)): \(text)")
    }

    private func line(_ node: Node) -> Int { node.mark?.line ?? 1 }

    /// Text of a file, as far as it may go to a terminal.
    private func shown(_ text: String) -> String { Settings.shown(text) }
}
