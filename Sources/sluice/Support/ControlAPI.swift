import Core
import FoundationEssentials
import Glibc
import HTTPTypes
import SluiceClient
import TLS

/// The control API as the commands use it: JSON in and out, every error as a `Failure`.
struct ControlAPI {
    private let client: ControlClient

    /// Whom the client is.
    let credentials: Credentials

    /// The control API's address.
    var server: ServerAddress { client.server }

    /// Clients that take the place of `client` when its certificate turns out not to count.
    private let renewed = Renewed()

    private final class Renewed {
        var client: ControlClient?
    }

    /// A client for the server and the credentials that the options, the environment or the defaults name.
    init(_ options: GlobalOptions) throws {
        try self.init(credentials: ControlAPI.credentials(options), server: options.chosenServer)
    }

    /// A client with these credentials, renewed first when they are a node's and soon expire.
    init(credentials: Credentials, server: String?) throws {
        do throws(ClientError) {
            let server = server ?? credentials.config.server ?? GlobalOptions.localServer
            let current = ControlAPI.renewed(credentials, server: server)
            self.credentials = current
            client = try ControlClient(server: server, credentials: current)
        } catch {
            throw Failure(error)
        }
    }

    /// The credentials that the options, the environment or the defaults name.
    static func credentials(_ options: GlobalOptions) throws -> Credentials {
        do throws(ClientError) {
            return try Credentials.load(folder: options.folder)
        } catch {
            throw Failure(error)
        }
    }

    /// A renewal that fails is worth a word, and nothing more as long as the certificate lasts. Where the new one cannot be
    /// kept, the old one is used while it lasts: each command would make a new one otherwise.
    private static func renewed(_ credentials: Credentials, server: String) -> Credentials {
        let now = TimeText.now
        let certificate = credentials.certificate
        guard CertificateRenewal.isDue(certificate, now: now) else { return credentials }
        let isOver = now > certificate.notAfter
        if !isOver, !credentials.canBeKept {
            if CertificateRenewal.isLate(certificate, now: now) {
                Terminal.note(
                    "sluice: the certificate in \(credentials.folder) ends at \(TimeText.text(certificate.notAfter)), "
                        + "and you may not write there to renew it: run any sluice command as who may")
            }
            return credentials
        }
        // A clock that is ahead shows every certificate as old; the server says so when one has ended in truth.
        if let age = credentials.ageOfCertificate(now: now),
            age < CertificateRenewal.minimumInterval(certificate)
        {
            return credentials
        }
        do throws(ClientError) {
            let outcome = try CertificateRenewal.renewIfDue(credentials, now: now, server: server)
            note(outcome)
            return outcome.credentials
        } catch {
            Terminal.note("sluice: the certificate could not be renewed: \(Failure(error).message)")
            return credentials
        }
    }

    private static func note(_ outcome: CertificateRenewal.Outcome) {
        guard let unsaved = outcome.unsaved else { return }
        Terminal.note(
            "sluice: the certificate was renewed for this command alone, since it cannot be kept: \(unsaved.detail)"
        )
    }

    // MARK: Requests

    /// GET of one resource.
    func get<Model: Decodable>(_ path: String) throws -> Answered<Model> {
        try decode(try send(.get, path))
    }

    /// GET of every page of a list.
    func list<Item: Codable & Sendable>(_ path: String, query: [(String, String?)] = []) throws -> [Item] {
        let filters = query.compactMap { name, value in value.map { (name, $0) } }
        do {
            return try PageWalk.all(whose: "the server at \(server)", path: path) { place, limit in
                try decode(try send(.get, path, query: filters + [("limit", "\(limit)")] + place))
            }
        } catch let error as ClientError {
            throw Failure(error)
        }
    }

    /// POST that makes something or does something; a repeat after a broken connection does it once.
    func post<Model: Decodable>(_ path: String, _ body: some Encodable) throws -> Answered<Model> {
        var headers = HTTPFields()
        if let name = HTTPField.Name("idempotency-key") {
            headers[name] = Hex.encode(OpenSSLRandom().bytes(16))
        }
        return try decode(try send(.post, path, headers: headers, body: try encode(body)))
    }

    /// PATCH (JSON merge patch).
    func patch<Model: Decodable>(_ path: String, _ body: some Encodable) throws -> Answered<Model> {
        let headers: HTTPFields = [.contentType: "application/merge-patch+json"]
        return try decode(try send(.patch, path, headers: headers, body: try encode(body)))
    }

    /// Follows a stream of events until the server ends it.
    func follow(
        _ path: String, query: [(String, String?)], after id: String,
        _ onEvent: (EventStreamParser.Event) -> Bool
    ) throws {
        let filters = query.compactMap { name, value in value.map { (name, $0) } }
        do throws(ClientError) {
            try client.follow(path, query: filters, lastEventID: id, onEvent: onEvent)
        } catch {
            throw Failure(error, path: path)
        }
    }

    /// DELETE.
    func delete(_ path: String, query: [(String, String)] = []) throws {
        _ = try send(.delete, path, query: query)
    }

    /// DELETE of what may take other things with it, or leave something; a server that does not tell says nothing.
    func deletion(_ path: String, query: [(String, String)] = []) throws -> Deleted {
        let answer = try send(.delete, path, query: query)
        return answer.body.isEmpty ? Deleted() : try decode(answer)
    }

    // MARK: Details

    private func send(
        _ method: HTTPRequest.Method, _ path: String, query: [(String, String)] = [],
        headers: HTTPFields = HTTPFields(), body: [UInt8]? = nil
    ) throws -> ControlAnswer {
        do throws(ClientError) {
            if let client = renewed.client {
                return try client.request(method, path, query: query, headers: headers, body: body)
            }
            let (first, own, server, renewed) = (
                client, credentials.certificate, client.server.description, renewed
            )
            return try CertificateRenewal.retrying(
                credentials, server: server, onRenewal: ControlAPI.note
            ) { current throws(ClientError) in
                let client =
                    current.certificate == own
                    ? first : try ControlClient(server: server, credentials: current)
                if current.certificate != own { renewed.client = client }
                return try client.request(method, path, query: query, headers: headers, body: body)
            }
        } catch {
            throw Failure(error, path: path)
        }
    }

    private func encode(_ body: some Encodable) throws -> [UInt8] {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        return Array(try encoder.encode(body))
    }

    private func decode<Answer: Decodable>(_ answer: ControlAnswer) throws -> Answer {
        do {
            return try JSONDecoder().decode(Answer.self, from: Data(answer.body))
        } catch {
            throw Failure(
                .failure,
                "\(server) answered something else than its API says; are client and server of the same version?"
            )
        }
    }
}

extension Failure {
    /// What an error of the control client means to the user, with what to do next.
    init(_ error: ClientError, path: String? = nil) {
        let status = ExitStatus(error)
        var text = error.detail
        // Where a command has a word of its own for what to do, the API's, which speaks of requests, is left out.
        let own = path.flatMap { Failure.advice(error, status, path: $0) }
        if own == nil, let expected = error.expected, !text.contains(expected) {
            text += error.field == nil ? "; \(expected)" : "; expected: \(expected)"
        }
        if let advice = own ?? error.advice { text = Failure.sentence(text) + " " + advice }
        self.init(status, Failure.oneLine(text), code: error.code)
    }

    /// The text with a full stop, unless it ends a sentence already.
    static func sentence(_ text: String) -> String {
        text.last.map { ".!?:".contains($0) } ?? true ? text : text + "."
    }

    /// The text without line ends.
    static func oneLine(_ text: String) -> String {
        text.split(separator: "\n").joined(separator: " ")
    }

    private static func advice(_ error: ClientError, _ status: ExitStatus, path: String) -> String? {
        let nouns = [
            "volumes": "volume", "pools": "pool", "nodes": "node", "grants": "grant",
            "capabilities": "capability", "sessions": "session", "drivers": "driver", "admins": "admin",
            "operations": "operation",
        ]
        let parts = path.split(separator: "/").map(String.init)
        let noun = parts.count > 1 ? nouns[parts[1]] : nil
        switch (error.code, status) {
        case ("ALREADY_EXISTS", _): return "Choose another name."
        case ("IN_USE", _) where noun == "volume":
            return "Detach it first; --force deletes it under its users, who get I/O errors."
        case ("NO_GRANT", _), ("BEYOND_GRANT", _):
            return "An administrator gives rights: sluice grant create."
        case ("MISSING_FIELD", _) where error.field == "node" && noun == "capability":
            return
                "Name the node by --node; I/O itself takes a node's credentials (--credentials), not an administrator's."
        case ("FORBIDDEN", _):
            return "Do the --credentials allow it? Administration needs the server's DIR/admin."
        case (_, .notFound):
            // What is missing is the resource of the path only where the path names one.
            if error.code == "INVALID_FIELD", let named = error.namedNoun {
                return "See `sluice \(named) list`."
            }
            guard parts.count > 2, let noun else { return nil }
            if parts.count > 4, parts[3] == "markers" { return "See `sluice volume markers \(parts[2])`." }
            return "See `sluice \(noun) list`."
        default: return nil
        }
    }
}
