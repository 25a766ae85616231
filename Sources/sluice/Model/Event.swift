/// Something that happened on the server, as the control API describes it.
struct Event: Presentable {
    var id: UInt64
    var at: String
    var kind: String
    var subject: String
    var message: String
    /// The client that caused it; nil where the server or an administrator did.
    var by: String?

    static let columns = ["TIME", "KIND", "SUBJECT", "MESSAGE"]

    var row: [String] { [at, kind, subject, message] }
}
