/// What a command that takes something away or ends it prints as JSON or YAML: the word for that, of what.
struct Ended: Encodable {
    /// What became of it.
    enum Word: String, CodingKey, CaseIterable {
        case deleted, forgotten, removed, revoked, ended, cancelled, detached, undrained
    }

    var word: Word
    /// What it was, such as `volume/data`.
    var resource: String
    /// The device that it had.
    var device: String?
    /// How many grants went with it; nil where there are none of it.
    var grants: Int?
    /// What stays.
    var note: String?

    init(_ word: Word, _ resource: String) {
        self.word = word
        self.resource = resource
    }

    /// What was deleted, or forgotten where the server says that something of it stays.
    init(deleted resource: String, _ told: Deleted = Deleted()) {
        word = told.note == nil ? .deleted : .forgotten
        self.resource = resource
        grants = told.grants
        note = told.note
    }

    private enum Key: String, CodingKey {
        case device, grants, note
    }

    func encode(to encoder: any Encoder) throws {
        var words = encoder.container(keyedBy: Word.self)
        try words.encode(resource, forKey: word)
        var more = encoder.container(keyedBy: Key.self)
        try more.encodeIfPresent(device, forKey: .device)
        try more.encodeIfPresent(grants, forKey: .grants)
        try more.encodeIfPresent(note, forKey: .note)
    }
}

/// What the control API says of a deletion.
struct Deleted: Decodable {
    var grants: Int?
    var note: String?
}
