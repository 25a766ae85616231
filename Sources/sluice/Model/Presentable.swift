/// A value that a command prints: as a row of a table, as a page of its own, or as JSON or YAML.
protocol Presentable: Codable, Sendable {
    /// The headings of a table.
    static var columns: [String] { get }
    /// One cell a heading.
    var row: [String] { get }
    /// What there is to say about one, in order; empty values are left out.
    var details: [(name: String, value: String)] { get }
}

extension Presentable {
    /// The columns of the table.
    var details: [(name: String, value: String)] { zip(Self.columns, row).map { (name: $0, value: $1) } }
}
