import Core
import FoundationEssentials
import HTTPTypes
import TLS
import Wire

/// Makes this machine a node of a cluster, with a token that an administrator printed.
public enum NodeEnrolment {
    struct Enrolled: Decodable {
        var name: String
        var id: String
        var certificate: String
        var ca: String
    }

    struct ServerInfo: Decodable {
        var clusterID: String?
        var channel: [String]?
    }

    private struct Request: Encodable {
        var token: String
        var csr: String
    }

    /// Addresses of the data channel that are kept.
    private static let channelsMax = 64

    /// Enrols: makes a key that never leaves this machine, has it certified, and writes the folder.
    ///
    /// The token says which authority to trust, so nobody in between can pass for the server. The folder
    /// appears
    /// complete or not at all. A folder whose certificate has ended, or with `again` any, is enrolled anew by the key that
    /// it holds, so that capabilities for that key go on to be valid.
    /// - Parameter server: `https://HOST[:PORT]`.
    /// - Throws: `ClientError`; nothing was written then, though the token may be used up.
    public static func join(
        server: String, token text: String, folder: String, again: Bool = false, now: UInt64 = .max,
        timeouts: ControlTimeouts = ControlTimeouts()
    ) throws(ClientError) -> Credentials {
        let address = try ServerAddress(text: server)
        let token = try parse(text)
        let place = CredentialFolder(path: folder)
        let old = place.isTaken ? try former(folder, again: again, now: now) : nil
        // The token works once: where what it brings cannot be kept, it is not used.
        if old == nil { try place.expectWritable() }
        let key = old?.key ?? PrivateKey.generateP256()
        let client = try ControlClient(
            server: address, identity: nil, trust: .fingerprint(token.authorityFingerprint),
            timeouts: timeouts)
        let request = Request(token: token.text, csr: try requestPEM(key, token.nodeName.text))
        let answer = try client.request(
            .post, "/v1/nodes/\(token.nodeName)/enroll", body: ClientJSON.encode(request))
        let enrolled = try ClientJSON.decode(Enrolled.self, answer.body)
        let (certificate, authority) = try certified(enrolled, token, key)
        let config = Credentials.Config(
            server: address.description, channels: nil, node: token.nodeName.text, nodeID: enrolled.id)
        // Of each text that one certificate which was looked at, and nothing that stands beside it.
        var credentials = Credentials(
            folder: folder, authorityPEM: authority.pem, certificatePEM: certificate.pem,
            certificate: certificate, key: key, config: config)
        credentials = addServerInfo(credentials, timeouts)
        if old == nil { try place.create(credentials) } else { try place.replace(credentials) }
        return credentials
    }

    /// The credentials that are there, when they may be replaced.
    private static func former(
        _ folder: String, again: Bool, now: UInt64
    ) throws(ClientError) -> Credentials {
        let old = try Credentials.load(folder: folder)
        let end = old.certificate.notAfter
        guard again || now != .max && now > end else {
            var error = ClientError.credentials(
                "\(folder) holds credentials already, of \(old.config.node ?? "an administrator or node"), whose certificate lasts until \(Timestamp.text(end))",
                "To enrol this machine anew, with the key that it has, as after the node was removed, add --again; to join another cluster, name another folder by --credentials."
            )
            error.code = ClientError.takenCode
            throw error
        }
        return old
    }

    private static func parse(_ text: String) throws(ClientError) -> JoinToken {
        do {
            return try JoinToken(text: text)
        } catch {
            throw ClientError(
                kind: .caller, code: "INVALID_TOKEN", detail: error.message,
                advice:
                    "Copy all of what `sluice node add` printed, or get a new one: `sluice node token NAME`."
            )
        }
    }

    static func requestPEM(_ key: PrivateKey, _ name: String) throws(ClientError) -> String {
        do {
            return String(decoding: try CertificateRequest.make(key: key, commonName: name), as: UTF8.self)
        } catch {
            throw .credentials("cannot make a certificate request: \(error)", "Report this.")
        }
    }

    /// The certificate that came, and its authority's, when it is for this key and this node, and the authority the one
    /// that the token names.
    private static func certified(
        _ enrolled: Enrolled, _ token: JoinToken, _ key: PrivateKey
    ) throws(ClientError) -> (Certificate, authority: Certificate) {
        do {
            let certificate = try Certificate(pem: Array(enrolled.certificate.utf8))
            let authority = try Certificate(pem: Array(enrolled.ca.utf8))
            guard certificate.thumbprint == key.publicKeyThumbprint else {
                throw TLSError.malformed("it is for another key")
            }
            guard authority.fingerprint == token.authorityFingerprint else {
                throw TLSError.malformed("its authority is not the one that the token names")
            }
            guard enrolled.name == token.nodeName.text, Identifier(hex: enrolled.id) != nil,
                certificate.subjectCommonName == token.nodeName.text
            else { throw TLSError.malformed("it is for another node than \(token.nodeName)") }
            return (certificate, authority)
        } catch {
            throw .credentials("the server's answer to the enrolment is wrong: \(error)", "Report this.")
        }
    }

    /// Asks with the new certificate where the data channel is. The node is enrolled whether or not that
    /// works.
    private static func addServerInfo(_ credentials: Credentials, _ timeouts: ControlTimeouts) -> Credentials
    {
        guard let client = try? ControlClient(credentials: credentials, timeouts: timeouts),
            let answer = try? client.request(.get, "/v1/server"),
            let info = try? ClientJSON.decode(ServerInfo.self, answer.body)
        else { return credentials }
        var config = credentials.config
        config.clusterID = info.clusterID.flatMap { Identifier(hex: $0)?.hex }
        config.channels = info.channel?.prefix(channelsMax).compactMap { place in
            (try? ServerAddress(text: "https://\(place)"))?.authority
        }
        return credentials.replacing(config: config)
    }
}

/// JSON of the control API.
enum ClientJSON {
    static func encode(_ value: some Encodable) throws(ClientError) -> [UInt8] {
        do {
            return Array(try JSONEncoder().encode(value))
        } catch {
            throw ClientError(kind: .bug, code: "BAD_JSON", detail: "a request cannot be written: \(error)")
        }
    }

    static func decode<Value: Decodable>(_ type: Value.Type, _ bytes: [UInt8]) throws(ClientError) -> Value {
        do {
            return try JSONDecoder().decode(type, from: Data(bytes))
        } catch {
            throw ClientError(
                kind: .device, code: "BAD_ANSWER", detail: "the server's answer is not what was expected",
                advice: "Are client and server of the same version?")
        }
    }
}
