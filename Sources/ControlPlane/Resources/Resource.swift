import Catalog
import Core
import HTTPTypes
import Logging
import Services

/// One kind of resource of the control API: its record, and what is its own of listing, showing, making, changing
/// and removing one. What is the same for all is below: locks, whether there is one already, limits, preconditions,
/// the commit together with the answer, what is taken back when that fails, the audit, the answer.
///
/// A value serves one request.
protocol Resource: Sendable {
    /// What is on record of one.
    associatedtype Value: Record
    /// What a request to make one says beside the name.
    associatedtype Draft

    /// What problems and locks call one, such as `volume`.
    static var noun: String { get }
    /// The members of a request to make one.
    static var members: [String] { get }
    /// The members of a PATCH.
    static var changeable: [String] { get }
    /// The most there may be; nil where something else bounds them.
    static var countMax: Int? { get }
    /// Whether none is made while the catalog is short of space.
    static var takesRoom: Bool { get }
    /// Whether a deletion may be forced.
    static var canBeForced: Bool { get }

    /// What the control API has of it.
    static var routes: [Route] { get }
    /// Makes the data side what the catalog says, and settles what a crash left, before the server takes requests.
    static func bringUp(_ plane: ControlPlane) async throws(Problem)

    /// The server.
    var plane: ControlPlane { get }
    /// The request.
    var context: RequestContext { get }
    /// What serves a request.
    init(plane: ControlPlane, context: RequestContext)

    /// The name of the one that the path is of.
    var name: String { get }
    /// The name of one that was found.
    func name(of value: Value) -> String
    /// The key of the record of one with this name.
    func key(of name: String) throws(Problem) -> String
    /// The lock that is held while one is changed or removed.
    func lock(of name: String) -> String
    /// Its entity tag; nil for what has none.
    func tag(of value: Value) -> String?

    /// Which of them a list has.
    func selection() throws(Problem) -> Selection<Value>
    /// Whether who asks may know of it.
    func isVisible(_ value: Value) -> Bool
    /// How some are shown in a list, in the same order.
    func bodies(_ values: [Value]) async throws(Problem) -> [JSONValue]
    /// How one is shown after a change, and by itself unless `answer` says otherwise.
    func body(_ value: Value) async throws(Problem) -> JSONValue
    /// The answer to GET.
    func answer(_ value: Value) async throws(Problem) -> ControlResponse

    /// Reads what one is to be, as far as that needs no record.
    func draft(_ fields: Fields) throws(Problem) -> Draft
    /// The locks that are held while one is made.
    func locks(making name: String, _ draft: Draft) -> Set<String>
    /// Refuses another one where there are as many as there may be.
    func checkCount() throws(Problem)
    /// Makes one, on devices too, up to its record. `undo` gets what takes that back if something fails later.
    func make(_ name: String, _ draft: Draft, undo: inout Undo) async throws(Problem) -> Made<Value>

    /// Refuses a PATCH that is wrong for every one of them.
    func check(_ fields: Fields) throws(Problem)
    /// The one to be changed, if it can be.
    func subject() throws(Problem) -> Stored<Value>
    /// Gives a value what a PATCH says.
    func apply(_ fields: Fields, to value: inout Value) throws(Problem)
    /// Puts a changed value on record and in force. Called also where nothing was changed.
    func write(_ value: Value, over stored: Stored<Value>) async throws(Problem) -> Written<Value>

    /// Removes one with what hangs on it.
    func remove(_ stored: Stored<Value>, isForced: Bool) async throws(Problem) -> ControlResponse
}

/// A kind of resource that lies in pools.
protocol InPool: Resource {
    /// Takes up what a pool holds that did not start with the server; nobody uses it yet.
    static func takeUp(inPool pool: String, _ plane: ControlPlane) async
    /// Completes or undoes what a crash left in a pool that did not start with the server.
    static func settle(inPool pool: String, _ plane: ControlPlane) async
    /// Goes on with long work in a pool, or in all of them.
    static func goOn(inPool pool: String?, _ plane: ControlPlane)
    /// How many lie in a pool, and the name of one; nil where there are none.
    static func users(ofPool pool: String, _ plane: ControlPlane) -> (count: Int, example: String)?
}

/// Which records a list has.
struct Selection<Value> {
    /// The group that they are in; nil for all.
    var group: String?
    /// Which of these.
    var isIncluded: (Value) -> Bool = { _ in true }
}

/// A resource that is made, and not on record yet.
struct Made<Value: Record> {
    let value: Value
    /// The answer's body.
    var body: JSONValue
    /// The body as it may be stored, where that lacks a secret, and what the secret is had from again.
    var storable: (body: JSONValue, sealed: String?)?
    var status = HTTPResponse.Status.created
    /// What is written together with its record.
    var changes = RecordChanges()
    /// What is done when it is on record.
    var then: (() async throws(Problem) -> Void)?
    /// What the log says of it.
    var audit: (what: Logger.Message, details: [String: String])?
    /// The event that says that it is there; nil for what is no news.
    var event: ServerEvent.Kind?

    init(_ value: Value, body: JSONValue) {
        self.value = value
        self.body = body
    }
}

/// What a PATCH came to.
struct Written<Value: Record> {
    /// As it is on record now.
    let value: Value
    /// What is under way to make it what was asked for.
    var operation: LongOperation?
    /// What there is to know of it.
    var warning: String?
}

/// What takes back what was done, the last first.
struct Undo {
    private var steps: [() async -> Void] = []

    /// Adds a step, which says by itself what it could not do.
    mutating func add(_ step: @escaping () async -> Void) { steps.append(step) }

    func run() async { for step in steps.reversed() { await step() } }
}

// MARK: The same for all

extension Resource {
    /// `GET` of the collection: a page of it, in order of names.
    static func list(_ plane: ControlPlane) -> (RequestContext) async throws(Problem) -> ControlResponse {
        { (context) async throws(Problem) in try await Self(plane: plane, context: context).answerList() }
    }

    /// `GET` of one.
    static func show(_ plane: ControlPlane) -> (RequestContext) async throws(Problem) -> ControlResponse {
        { (context) async throws(Problem) in try await Self(plane: plane, context: context).answerShow() }
    }

    /// `POST` to the collection.
    static func create(_ plane: ControlPlane) -> (RequestContext) async throws(Problem) -> ControlResponse {
        { (context) async throws(Problem) in try await Self(plane: plane, context: context).answerCreate() }
    }

    /// `PATCH` of one.
    static func patch(_ plane: ControlPlane) -> (RequestContext) async throws(Problem) -> ControlResponse {
        { (context) async throws(Problem) in try await Self(plane: plane, context: context).answerPatch() }
    }

    /// `DELETE` of one.
    static func delete(_ plane: ControlPlane) -> (RequestContext) async throws(Problem) -> ControlResponse {
        { (context) async throws(Problem) in try await Self(plane: plane, context: context).answerDelete() }
    }

    private func answerList() async throws(Problem) -> ControlResponse {
        let page = try context.page()
        let selection = try selection()
        var after: String?
        if let last = page.after { after = try key(of: last) }
        let found = plane.store.page(
            Value.self, in: selection.group, after: after, limit: page.limit + 1,
            where: selection.isIncluded
        ).map(\.record)
        let shown = try await bodies(found)
        return page.answer(zip(found, shown).map { (name(of: $0), $1) })
    }

    private func answerShow() async throws(Problem) -> ControlResponse {
        let value = try stored(name).record
        guard isVisible(value) else { throw Problem.notFound(Self.noun, name) }
        return try await answer(value)
    }

    private func answerCreate() async throws(Problem) -> ControlResponse {
        let fields = try context.fields(known: Self.members)
        let name = try fields.requiredName("name")
        let draft = try draft(fields)
        if Self.takesRoom { try await plane.requireRoom() }
        return try await plane.locks.withLocks(locks(making: name, draft)) { () async throws(Problem) in
            guard plane.store.get(Value.self, try key(of: name)) == nil else {
                throw Problem.exists(Self.noun, name)
            }
            try checkCount()
            var undo = Undo()
            let made: Made<Value>
            let response: ControlResponse
            do throws(Problem) {
                made = try await make(name, draft, undo: &undo)
                response = ControlResponse(
                    status: made.status, json: made.body, tag: tag(of: made.value),
                    location: "/\(context.request.segments.joined(separator: "/"))/\(name)")
                var changes = made.changes
                let value = made.value
                try Problem.translating { () throws(CatalogError) in try changes.insert(value) }
                try plane.record(
                    response, for: context, in: &changes, body: made.storable?.body ?? made.body,
                    sealed: made.storable?.sealed)
                try await plane.commit(changes)
            } catch {
                await undo.run()
                throw error
            }
            try await made.then?()
            if let audit = made.audit { plane.audit(audit.what, context, audit.details) }
            if let kind = made.event {
                plane.events.append(
                    kind, subject: "\(Self.noun)/\(name)", message: "created by \(context.caller.name)")
            }
            return response
        }
    }

    private func answerPatch() async throws(Problem) -> ControlResponse {
        let fields = try context.fields(known: Self.changeable)
        try check(fields)
        return try await plane.locks.withLock(lock(of: name)) { () async throws(Problem) in
            let stored = try subject()
            try checkPrecondition(stored)
            var value = stored.record
            try apply(fields, to: &value)
            let written = try await write(value, over: stored)
            return ControlResponse(
                status: written.operation == nil ? .ok : .accepted,
                json: try await body(written.value).warning(written.warning),
                tag: tag(of: written.value), location: written.operation?.location)
        }
    }

    private func answerDelete() async throws(Problem) -> ControlResponse {
        let isForced = Self.canBeForced ? try context.flag("force") : false
        return try await plane.locks.withLock(lock(of: name)) { () async throws(Problem) in
            let stored = try stored(name)
            try checkPrecondition(stored)
            return try await remove(stored, isForced: isForced)
        }
    }

    private func checkPrecondition(_ stored: Stored<Value>) throws(Problem) {
        if let tag = tag(of: stored.record) { try context.checkPrecondition(tag) }
    }

    /// The one of a name.
    func stored(_ name: String) throws(Problem) -> Stored<Value> {
        guard let stored = plane.store.get(Value.self, try key(of: name)) else {
            throw Problem.notFound(Self.noun, name)
        }
        return stored
    }
}

// MARK: What most have

extension Resource {
    static var changeable: [String] { [] }
    static var countMax: Int? { Limits.recordsPerKindMax }
    static var takesRoom: Bool { true }
    static var canBeForced: Bool { false }
    static func bringUp(_ plane: ControlPlane) async throws(Problem) {}

    /// How many there are.
    static func count(_ plane: ControlPlane) -> Int { plane.store.count(Value.self) }

    var name: String { context.name }
    func key(of name: String) throws(Problem) -> String { name }
    func lock(of name: String) -> String { "\(Self.noun)/\(name)" }
    func tag(of value: Value) -> String? { nil }

    func selection() throws(Problem) -> Selection<Value> { Selection() }
    func isVisible(_ value: Value) -> Bool { true }

    func bodies(_ values: [Value]) async throws(Problem) -> [JSONValue] {
        var bodies: [JSONValue] = []
        for value in values { bodies.append(try await body(value)) }
        return bodies
    }

    func answer(_ value: Value) async throws(Problem) -> ControlResponse {
        ControlResponse(status: .ok, json: try await body(value), tag: tag(of: value))
    }

    func locks(making name: String, _ draft: Draft) -> Set<String> { [lock(of: name)] }

    func checkCount() throws(Problem) {
        guard let most = Self.countMax, plane.store.count(Value.self) >= most else { return }
        throw Problem(.limitReached, "the server has its most \(Self.noun)s, \(most)")
    }

    func check(_ fields: Fields) throws(Problem) {}
    func subject() throws(Problem) -> Stored<Value> { try stored(name) }
    func apply(_ fields: Fields, to value: inout Value) throws(Problem) {}

    func write(_ value: Value, over stored: Stored<Value>) async throws(Problem) -> Written<Value> {
        if value != stored.record { try await plane.put(value, over: stored) }
        return Written(value: value)
    }
}

extension Resource where Value: NamedRecord {
    func name(of value: Value) -> String { value.name }
    func tag(of value: Value) -> String? { value.entityTag }
}

extension ControlPlane {
    /// Puts a changed record in the place of the one that was read.
    func put<Value: Record>(_ value: Value, over stored: Stored<Value>) async throws(Problem) {
        var changes = RecordChanges()
        try Problem.translating { () throws(CatalogError) in try changes.put(value, over: stored.revision) }
        try await commit(changes)
    }

    /// Records an intent before what it is for begins.
    ///
    /// - Parameter other: what must be on record still.
    func begin<Intent: Record>(
        _ intent: Intent, requiring other: Stored<PoolRecord>? = nil
    ) async throws(Problem) -> Stored<Intent> {
        var changes = RecordChanges()
        let previous = store.get(Intent.self, intent.recordKey)?.revision ?? 0
        try Problem.translating { () throws(CatalogError) in try changes.put(intent, over: previous) }
        if let other { changes.require(other) }
        try await commit(changes)
        guard let stored = store.get(Intent.self, intent.recordKey) else {
            throw Problem(.internalError, "an intent was committed and is not there")
        }
        return stored
    }
}
