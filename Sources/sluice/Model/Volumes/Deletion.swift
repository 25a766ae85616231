/// What a command that takes something away prints as JSON or YAML.
struct Deletion: Encodable {
    var deleted: String
    /// How many grants went with it; nil where there are none of it.
    var grants: Int?
    /// What stays.
    var note: String?

    init(resource: String, _ told: Deleted = Deleted()) {
        deleted = resource
        grants = told.grants
        note = told.note
    }
}

/// What the control API says of a deletion.
struct Deleted: Decodable {
    var grants: Int?
    var note: String?
}
