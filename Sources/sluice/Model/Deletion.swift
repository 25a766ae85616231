/// What a command that takes something away prints as JSON or YAML.
struct Deletion: Encodable {
    var deleted: String

    init(resource: String) {
        deleted = resource
    }
}
