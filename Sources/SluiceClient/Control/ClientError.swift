import Core
import FoundationEssentials

/// Why a request to the control API failed, in words for the user.
public struct ClientError: Error, Sendable, Equatable, CustomStringConvertible {
    /// Whose fault it is.
    public var kind: ErrorKind
    /// The stable code: the server's `code`, or one of this client's, such as `UNREACHABLE`.
    public var code: String
    /// The HTTP status; nil when no answer came.
    public var status: Int?
    /// What went wrong, one sentence.
    public var detail: String
    /// What to do next.
    public var advice: String?
    /// The field, parameter or header that is wrong.
    public var field: String?
    /// What would be right for it.
    public var expected: String?

    /// An error of its parts.
    public init(
        kind: ErrorKind, code: String, status: Int? = nil, detail: String, advice: String? = nil,
        field: String? = nil, expected: String? = nil
    ) {
        self.kind = kind
        self.code = code
        self.status = status
        self.detail = detail
        self.advice = advice
        self.field = field
        self.expected = expected
    }

    /// Detail and advice.
    public var description: String {
        var text = detail
        if let expected {
            text += field.map { " (\($0) should be \(expected))" } ?? " (expected: \(expected))"
        }
        if let advice { text += "\n\(advice)" }
        return text
    }

    /// The server did not answer at all.
    static func unreachable(_ server: ServerAddress, _ reason: String) -> ClientError {
        ClientError(
            kind: .busy, code: "UNREACHABLE", detail: "cannot reach the server at \(server): \(reason)",
            advice: "Is sluiced running there, and is \(server.port)/tcp the port of its control API? "
                + "--server https://HOST:PORT or SLUICE_SERVER names another.")
    }

    /// The server took longer than the client waits.
    static func timedOut(_ server: ServerAddress, _ what: String, seconds: Int) -> ClientError {
        ClientError(
            kind: .busy, code: "TIMED_OUT", detail: "\(server) did not \(what) within \(seconds) seconds",
            advice: "Check the network to the server and its load, then try again.")
    }

    /// The peer is no control API, or broke off.
    static func broken(_ server: ServerAddress, _ reason: String) -> ClientError {
        ClientError(
            kind: .device, code: "CONNECTION_BROKEN", detail: "the connection to \(server) failed: \(reason)",
            advice: "Is \(server.port)/tcp the control API's port? The data channel's port is another.")
    }

    /// The code where a folder holds credentials already.
    public static let takenCode = "CREDENTIALS_EXIST"

    /// A file of the credentials is missing or unusable.
    static func credentials(_ detail: String, _ advice: String) -> ClientError {
        ClientError(kind: .caller, code: "BAD_CREDENTIALS", detail: detail, advice: advice)
    }
}

extension ClientError {
    private struct Document: Decodable {
        var code: String?
        var title: String?
        var detail: String?
        var field: String?
        var expected: String?
    }

    /// The error that an answer with a status of 400 or more stands for.
    static func of(status: Int, body: [UInt8]) -> ClientError {
        let document = try? JSONDecoder().decode(Document.self, from: Data(body))
        let text = document?.detail ?? document?.title ?? plainText(body) ?? "the server answered \(status)"
        var error = ClientError(
            kind: kind(status), code: document?.code.flatMap(code) ?? "HTTP_\(status)", status: status,
            detail: shown(text), field: document?.field.map(shown), expected: document?.expected.map(shown))
        if error.isBeyondWaiting { error.kind = .device }
        error.advice = error.isAboutTheCertificate || error.isBeyondWaiting ? nil : advice(status)
        return error
    }

    /// Whether something of the server has failed that does not mend itself.
    public var isBeyondWaiting: Bool { code == "DEVICE_FAILED" || code == "CATALOG_FAILED" }

    /// The most characters of a text of the server's.
    private static let charactersMax = 1024

    /// The server's words, one line that is safe to show.
    private static func shown(_ text: String) -> String {
        ShownText.line(text, charactersMax: charactersMax)
    }

    /// The server's code, if it is one.
    private static func code(_ text: String) -> String? {
        let isCode =
            (1...64).contains(text.utf8.count)
            && text.utf8.allSatisfy {
                $0 == UInt8(ascii: "_") || (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains($0)
                    || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0)
            }
        return isCode ? text : nil
    }

    private static func kind(_ status: Int) -> ErrorKind {
        switch status {
        case 401, 403: .denied
        case 408, 429, 503: .busy
        case 507: .device
        case 500...: .bug
        default: .caller
        }
    }

    private static func advice(_ status: Int) -> String? {
        switch status {
        case 401: "Name a folder with a certificate by --credentials or SLUICE_CREDENTIALS."
        case 503: "Try again in a moment."
        default: nil
        }
    }

    /// The start of a body that is no JSON, safe to print.
    private static func plainText(_ body: [UInt8]) -> String? {
        guard !body.isEmpty, let text = String(validating: body.prefix(200), as: UTF8.self) else {
            return nil
        }
        let line = String(text.prefix { $0 != "\n" && $0 != "\r\n" })
        return ShownText.isPlain(line) ? line : nil
    }
}
