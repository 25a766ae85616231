import Capability
import Core
import FoundationEssentials
import Glibc
import Reactor
import SluiceClient
import TLS

/// A capability that the control API issued to the holder of the credentials.
public struct IssuedCapability: Sendable {
    /// The sealed capability, binary form.
    public var bytes: [UInt8]
    /// Its id.
    public var id: Identifier
    /// The volume's id.
    public var resource: Identifier
    /// What it allows.
    public var rights: Rights
    /// Unix seconds.
    public var issuedAt: UInt64
    /// Unix seconds.
    public var expiry: UInt64
    /// When it was asked for, in nanoseconds of this machine's monotonic clock: its life began no earlier, whatever the time
    /// of day is here.
    public var askedAt: UInt64 = 0

    /// How long it lasts, by the clock of the server that issued it, in seconds; a year at most.
    public var lifeSeconds: UInt64 {
        expiry > issuedAt ? min(expiry - issuedAt, AttachLimits.lifeSecondsMax) : 0
    }

    /// When it ends, in nanoseconds of this machine's monotonic clock.
    var deadline: UInt64 { askedAt.adding(seconds: lifeSeconds) }
}

/// When the node's certificate ends, and what is wrong with renewing it.
struct CertificateState: Sendable, Equatable {
    /// Unix seconds.
    var expiry: UInt64
    /// Nil when all is well.
    var trouble: String?
    /// How often this process has renewed it.
    var renewals: Int
}

/// A node's way to a volume: a capability from the control API, then the data channel with it.
///
/// Blocks; one thread, never a reactor's.
public struct VolumeAccess: Sendable {
    /// The volume.
    public let volume: ResourceName
    /// The control API.
    public let server: ServerAddress
    private var credentials: Credentials
    /// The file with a capability that was handed to this node; nil has the control API issue them.
    public var capabilityFile: String?
    var lastHanded: [UInt8] = []
    /// The id that the server said has the volume's name; nil while it has not said so.
    var namedResource: Identifier?
    /// The thumbprint of the credentials' key.
    var holder: Digest32 { credentials.certificate.thumbprint }
    /// The monotonic clock's time before which the certificate is not renewed again, in nanoseconds.
    private var nextRenewal: UInt64 = 0
    private var renewals = 0
    /// Why the node's certificate could not be renewed, or not be kept; nil when all is well.
    private var certificateTrouble: String?

    /// Reads the credentials; `server` overrides the one that they name.
    public init(volume: ResourceName, credentialsFolder: String, server: String?) throws(AttachError) {
        self.volume = volume
        do throws(ClientError) {
            credentials = try Credentials.load(folder: credentialsFolder)
            guard let text = server ?? credentials.config.server else {
                throw ClientError(
                    kind: .caller, code: "NO_SERVER",
                    detail: "the credentials in \(credentialsFolder) name no server",
                    advice: "Name it by --server https://HOST:\(ServerAddress.defaultPort) or SLUICE_SERVER.")
            }
            self.server = try ServerAddress(text: text)
        } catch {
            throw AttachError(error)
        }
    }

    private struct Wish: Encodable {
        var resource: String
        var rights: [String]?
        var lifetimeSecondsWanted: UInt64?
    }

    private struct Answer: Decodable {
        var token: String
    }

    private struct ServerInfo: Decodable {
        var channel: [String]
    }

    /// Has a capability issued for the volume, with these rights, or with all that the grant gives, for so many seconds
    /// or as long as the grant allows; nil leaves that to the server. Renews the node's certificate first when that is
    /// due.
    public mutating func issue(
        rights: Rights?, lifetimeSeconds: UInt64? = nil
    ) throws(AttachError) -> IssuedCapability {
        if let capabilityFile { return try handed(capabilityFile, rights: rights) }
        do throws(ClientError) {
            // A certificate that cannot be renewed now may still be good for a while.
            do throws(AttachError) { _ = try renewCertificate() } catch {}
            let wish = Wish(
                resource: "volume/\(volume)", rights: rights?.names, lifetimeSecondsWanted: lifetimeSeconds)
            let askedAt = SystemClock.monotonic()
            let issued: Answer = try post("/v1/capabilities", wish)
            var capability = try Self.parse(issued.token)
            capability.askedAt = askedAt
            return capability
        } catch {
            throw AttachError(error)
        }
    }

    /// What a capability that was handed over is for.
    struct Inspection: Decodable {
        var resource: String
        var isUsable: Bool
        var reason: String?
    }

    private struct Token: Encodable {
        var token: String
    }

    /// Asks the control API what a capability for the credentials' key is for.
    mutating func inspect(_ capability: IssuedCapability) throws(ClientError) -> Inspection {
        let text = Capability.textPrefix + Base64URL.encode(capability.bytes)
        return try post("/v1/capabilities/inspect", Token(token: text))
    }

    private mutating func post<Reply: Decodable>(
        _ path: String, _ message: some Encodable
    ) throws(ClientError) -> Reply {
        let body = try Self.json { try JSONEncoder().encode(message) }
        let server = server
        var outcome: CertificateRenewal.Outcome?
        let answer = try CertificateRenewal.retrying(
            credentials, server: server.description, onRenewal: { outcome = $0 }
        ) { current throws(ClientError) in
            try ControlClient(server: server.description, credentials: current).request(
                .post, path, body: Array(body))
        }
        if let outcome { take(outcome) }
        return try Self.json { try JSONDecoder().decode(Reply.self, from: Data(answer.body)) }
    }

    /// What an attachment says of the node's certificate.
    var certificate: CertificateState {
        CertificateState(
            expiry: credentials.certificate.notAfter, trouble: certificateTrouble, renewals: renewals)
    }

    /// Seconds until the node's certificate is worth looking at again.
    var secondsUntilCertificateIsDue: UInt64 {
        let now = SystemWallClock().now()
        let monotonic = SystemClock.monotonic()
        if nextRenewal > monotonic { return (nextRenewal - monotonic) / 1_000_000_000 + 1 }
        let isNode = credentials.config.node != nil
        guard isNode, !CertificateRenewal.isDue(credentials.certificate, now: now) else {
            let left = credentials.certificate.notAfter > now ? credentials.certificate.notAfter - now : 0
            let range = AttachLimits.certificateRetrySeconds
            return min(max(left / 8, range.lowerBound), range.upperBound)
        }
        return CertificateRenewal.secondsUntilDue(credentials.certificate, now: now)
    }

    /// Renews the node's certificate when that is due, at the server in use; its new expiry in Unix seconds, or nil when it
    /// was not. One that cannot be kept in the folder is used from memory, and `certificateTrouble` says so.
    mutating func renewCertificate() throws(AttachError) -> UInt64? {
        guard SystemClock.monotonic() >= nextRenewal else { return nil }
        do throws(ClientError) {
            let outcome = try CertificateRenewal.renewIfDue(
                credentials, now: SystemWallClock().now(), server: server.description)
            guard outcome.isRenewed else { return nil }
            take(outcome)
            return outcome.credentials.certificate.notAfter
        } catch {
            certificateTrouble = "it could not be renewed: \(error.detail)"
            throw AttachError(error)
        }
    }

    private mutating func take(_ outcome: CertificateRenewal.Outcome) {
        credentials = outcome.credentials
        renewals += 1
        certificateTrouble = outcome.unsaved.map {
            "it was renewed, but for this process alone: \($0.detail)"
        }
        nextRenewal =
            SystemClock.monotonic()
            + CertificateRenewal.minimumInterval(outcome.credentials.certificate) * 1_000_000_000
    }

    private static func parse(_ token: String) throws(ClientError) -> IssuedCapability {
        do {
            let capability = try Capability(text: token)
            let claims = capability.claims
            return IssuedCapability(
                bytes: try CapabilityToSend(capability).bytes, id: capability.id, resource: claims.resource,
                rights: claims.rights, issuedAt: claims.issuedAt, expiry: claims.expiry)
        } catch {
            throw ClientError(
                kind: .bug, code: "BAD_CAPABILITY",
                detail: "the server issued a capability that cannot be read: \(error)")
        }
    }

    private static func json<Value>(_ body: () throws -> Value) throws(ClientError) -> Value {
        do {
            return try body()
        } catch {
            throw ClientError(
                kind: .bug, code: "BAD_JSON",
                detail: "the server's answer is not what was asked for: \(error)",
                advice: "Are client and server of the same version?")
        }
    }

    /// How to open the volume with the capability, over so many channels.
    public func clientOptions(
        _ capability: IssuedCapability, rights: Rights, channels: Int
    ) throws(AttachError) -> VolumeClientOptions {
        do throws(ClientError) {
            let client = try ControlClient(server: server.description, credentials: credentials)
            let answer = try client.request(.get, "/v1/server")
            let info = try Self.json { try JSONDecoder().decode(ServerInfo.self, from: Data(answer.body)) }
            let offered = Self.order(Array(info.channel.prefix(AttachLimits.placesMax)), host: server.host)
            guard !offered.isEmpty else {
                throw ClientError(
                    kind: .bug, code: "NO_CHANNEL", detail: "the server at \(server) names no data channel")
            }
            // Where it is not the server's, nobody looks what there is.
            let names = client.serverNames
            let places = offered.filter { place in
                place.host == server.host || names.map { Self.covers($0, place) } ?? false
            }
            guard !places.isEmpty else {
                let texts = offered.map(\.authority).joined(separator: ", ")
                throw ClientError(
                    kind: .denied, code: "FOREIGN_CHANNEL",
                    detail: "the server at \(server) has its data channel at \(texts), which its certificate "
                        + "does not name",
                    advice: "`sluiced init --address` decides what it names.")
            }
            let find: @Sendable ([ServerAddress]) -> [SocketAddress] = { places in
                Self.resolve(places).filter { names?.mayHave($0) ?? true }
            }
            let addresses = find(places)
            guard !addresses.isEmpty else {
                let names = places.map(\.host).joined(separator: ", ")
                throw ClientError(
                    kind: .device, code: "UNREACHABLE",
                    detail: "the data channel's name has no address: \(names)",
                    advice: "Check the name service.")
            }
            var options = VolumeClientOptions(
                addresses: addresses, serverName: server.host, tls: try Self.context(credentials),
                capability: capability.bytes, rights: rights)
            options.channels = channels
            options.lookUp = { answer in
                inBackground("look-up") {
                    answer(find(places))
                } otherwise: { _ in
                    answer([])
                }
            }
            options.resolve = { place, answer in
                guard let address = try? ServerAddress(text: "https://\(place)") else { return answer([]) }
                inBackground("look-up") {
                    answer(Self.resolve([address]))
                } otherwise: { _ in
                    answer([])
                }
            }
            return options
        } catch {
            throw AttachError(error)
        }
    }

    /// Whether the place is where the server's certificate names it.
    private static func covers(_ names: ServerNames, _ place: ServerAddress) -> Bool {
        guard let address = try? SocketAddress(host: place.host, port: place.port) else {
            return names.cover(name: place.host)
        }
        return names.cover(address)
    }

    private static func context(_ credentials: Credentials) throws(ClientError) -> TLSContext {
        do {
            return try TLSContext.client(
                identity: credentials.identity, trust: .authority(caPEM: credentials.authorityPEM),
                alpn: [SecureLink.protocolName])
        } catch {
            throw ClientError(kind: .caller, code: "BAD_CREDENTIALS", detail: "\(error)")
        }
    }

    /// The addresses that the server listens on, a wildcard standing for the host that the control API was
    /// reached by; what is on that host comes first.
    static func order(_ channels: [String], host: String) -> [ServerAddress] {
        let places = channels.compactMap { try? ServerAddress(text: "https://\($0)") }.map { place in
            ["0.0.0.0", "::", "*"].contains(place.host)
                ? (try? ServerAddress(
                    text: host.contains(":")
                        ? "https://[\(host)]:\(place.port)" : "https://\(host):\(place.port)")) ?? place
                : place
        }
        return places.filter { $0.host == host } + places.filter { $0.host != host }
    }

    /// All addresses of all names, in that order, each once.
    private static func resolve(_ places: [ServerAddress]) -> [SocketAddress] {
        var all: [SocketAddress] = []
        for address in places.flatMap(resolve) where !all.contains(address) { all.append(address) }
        return all
    }

    private static func resolve(_ place: ServerAddress) -> [SocketAddress] {
        if let address = try? SocketAddress(host: place.host, port: place.port) { return [address] }
        var hints = unsafe addrinfo()
        unsafe hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        var list: UnsafeMutablePointer<addrinfo>?
        guard unsafe getaddrinfo(place.host, nil, &hints, &list) == 0 else { return [] }
        defer { if unsafe list != nil { unsafe freeaddrinfo(list) } }
        var addresses: [SocketAddress] = []
        var entry = unsafe list
        while let one = unsafe entry {
            var text = [CChar](repeating: 0, count: Int(NI_MAXHOST))
            let result = unsafe getnameinfo(
                one.pointee.ai_addr, one.pointee.ai_addrlen, &text, socklen_t(text.count), nil, 0,
                NI_NUMERICHOST)
            let host = String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
            if result == 0, let address = try? SocketAddress(host: host, port: place.port) {
                addresses.append(address)
            }
            unsafe entry = unsafe one.pointee.ai_next
        }
        return addresses
    }
}

extension AttachError {
    /// The error of a request to the control API.
    init(_ error: ClientError) {
        let reason: Reason =
            switch (error.kind, error.code, error.status) {
            case (_, "UNREACHABLE", nil), (_, "TIMED_OUT", nil): .unreachable
            case (_, "NO_CREDENTIALS", nil): .notFound
            case (.denied, _, _): .denied
            case (.busy, _, _): .busy
            case (_, _, 404): .notFound
            case (.caller, _, _): .usage
            case (.device, _, _), (.bug, _, _): .system
            }
        // One line: it goes into the log and the record too.
        self.init(
            reason, error.description.split(separator: "\n").joined(separator: ". "), code: error.code)
    }

    /// The error of a data channel.
    init(_ error: ChannelError, volume: String) {
        let reason: Reason =
            switch error {
            case .unreachable, .timedOut, .lost: .unreachable
            case .closed, .violation: .system
            case .tls, .refused, .superseded, .expired:
                switch error.kind {
                case .denied: .denied
                case .busy: .busy
                case .caller where error.status == .notFound: .notFound
                case .caller, .device, .bug: .system
                }
            }
        let code = reason == .unreachable || error.status == .ok ? nil : error.status.name
        self.init(reason, "volume/\(volume): \(error)", code: code)
    }
}
