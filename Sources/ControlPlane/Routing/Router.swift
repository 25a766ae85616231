import Catalog
import Core
import HTTPTypes
import Logging
import TLS

extension ControlPlane: ControlHandler {
    /// Answers one request: route, caller, role, query, body, handler, in this order.
    nonisolated(nonsending) public func respond(to request: ControlRequest) async -> ControlResponse {
        var template = "none"
        var response: ControlResponse
        do throws(Problem) {
            // The answer to HEAD is that to GET without its body, which HTTP/2 leaves out (RFC 9110 §9.3.2).
            let method = request.method == .head ? .get : request.method
            let (route, parameters) = try RouteTable.find(method, request.segments)
            template = route.template
            response = try await answer(request, route: route, parameters: parameters)
        } catch {
            response = error.response
            log(error, request: request)
        }
        response.headers[.cacheControl] = "no-store"
        response.headers[.date] = Timestamp.httpDate(wallClock.now())
        counters.count(method: request.method.rawValue, template: template, status: response.status.code)
        return response
    }

    nonisolated(nonsending) private func answer(
        _ request: ControlRequest, route: Route, parameters: [String: String]
    ) async throws(Problem) -> ControlResponse {
        let caller = try identify(request.peer, for: route)
        try Router.checkQuery(request, route: route)
        try Router.checkBody(request, route: route)
        var context = RequestContext(request: request, parameters: parameters, caller: caller)
        if !route.roles.isEmpty, !isReady {
            throw Problem(.notReady, "the server is starting; /readyz tells when it is ready")
        }
        if route.method == .get { return try await route.handler(self)(context) }

        // A change that has begun is finished, also when its client goes away: it runs in a task of its own.
        let result = await Urgency.$isUrgent.withValue(Router.isUrgent(request, route: route)) {
            await Task { [self, context] () -> Result<ControlResponse, Problem> in
                do throws(Problem) {
                    guard route.isIdempotent else { return .success(try await route.handler(self)(context)) }
                    return .success(try await repeatable(context, route: route))
                } catch { return .failure(error) }
            }.value
        }
        context.idempotency = nil
        return try result.get()
    }

    /// Whether a request goes before all others.
    public func isUrgent(_ request: ControlRequest) -> Bool {
        guard let (route, _) = try? RouteTable.find(request.method, request.segments) else { return false }
        return Router.isUrgent(request, route: route)
    }

    /// Who asks, as the catalog knows them; refuses when the route is not for them.
    private func identify(_ peer: PeerIdentity, for route: Route) throws(Problem) -> Caller {
        if route.roles.isEmpty { return .anonymous }
        guard let role = peer.role else {
            throw Problem(
                .unauthenticated, "present a client certificate of this server's authority",
                expected: "for example curl --cert DIR/admin/cert.pem --key DIR/admin/key.pem")
        }
        if let certificate = peer.certificate { try checkTime(of: certificate, role: role, for: route) }
        let caller: Caller
        switch role {
        case .admin: caller = .admin(try admin(peer))
        case .observer: caller = .observer(peer.commonName)
        case .node:
            guard let stored = store.get(NodeRecord.self, peer.commonName), stored.record.id == peer.nodeID,
                let thumbprint = stored.record.keyThumbprint, thumbprint == peer.thumbprint
            else {
                throw Problem(.unauthenticated, "this node was removed, or has enrolled with another key")
            }
            caller = .node(stored.record)
        }
        guard route.roles.contains(role) else {
            let roles = route.roles.map(\.rawValue).sorted().joined(separator: " or ")
            throw Problem(.forbidden, "the role \(role.rawValue) may not do this", expected: "role \(roles)")
        }
        return caller
    }

    /// Refuses a certificate that does not count now, in words that let two clocks be compared.
    private func checkTime(
        of certificate: Certificate, role: PeerRole, for route: Route
    ) throws(Problem) {
        let now = wallClock.now()
        guard !certificate.isValid(at: now) else { return }
        let grace = Limits.nodeCertificateGraceSeconds
        if route.admitsExpired, role == .node, now > certificate.notAfter, now - certificate.notAfter <= grace
        {
            return
        }
        let clock = "this server's clock says \(Timestamp.text(now))"
        if now < certificate.notBefore {
            throw Problem(
                .unauthenticated,
                "the client certificate is not valid before \(Timestamp.text(certificate.notBefore)), and \(clock)",
                field: "certificate",
                expected: "clocks that agree; if this server's is right, a new certificate")
        }
        let remedy =
            switch role {
            case .node where now - certificate.notAfter <= grace:
                "a renewal by its key: any command of `sluice` does that, or POST /v1/nodes/{name}/certificate"
            case .node:
                "a new enrolment: `sluice node token \(certificate.subjectCommonName)` here, then `sluice join` there"
            case .admin, .observer:
                "a new certificate: from another administrator (`sluice admin add`), or on the server itself (`sluiced admin`)"
            }
        throw Problem(
            .unauthenticated,
            "the client certificate ended at \(Timestamp.text(certificate.notAfter)), and \(clock)",
            field: "certificate", expected: remedy)
    }

    private func log(_ problem: Problem, request: ControlRequest) {
        let isDefect = problem.code.httpStatus == 500
        let isNotable = request.method != .get || isDefect
        var metadata: Logger.Metadata = [
            "by": "\(request.peer.logName)", "method": "\(request.method.rawValue)",
            "path": "\(request.path.prefix(200))", "code": "\(problem.code.rawValue)",
            "detail": "\(problem.detail)",
        ]
        if let address = request.remoteAddress { metadata["from"] = "\(address)" }
        logger.log(
            level: isDefect ? .error : isNotable ? .notice : .debug, "request refused", metadata: metadata)
    }
}

/// Checks that need nothing but the request and its route.
enum Router {
    /// An administrator takes authority away. What a node does to itself waits for its turn.
    static func isUrgent(_ request: ControlRequest, route: Route) -> Bool {
        route.isUrgent && request.peer.role == .admin
    }

    static func checkQuery(_ request: ControlRequest, route: Route) throws(Problem) {
        var seen: Set<String> = []
        for item in request.query {
            guard route.query.contains(item.name) else {
                throw Problem(
                    .invalidParameter, "there is no query parameter \(item.name.prefix(64))",
                    field: String(item.name.prefix(64)),
                    expected: route.query.isEmpty
                        ? "no query parameters" : "one of \(route.query.joined(separator: ", "))")
            }
            guard seen.insert(item.name).inserted else {
                throw Problem(
                    .invalidParameter, "\(item.name) is there twice", field: item.name, expected: "one value")
            }
        }
    }

    /// Refuses a body that is not JSON; a PATCH may also call itself a merge patch (RFC 7396).
    static func checkBody(_ request: ControlRequest, route: Route) throws(Problem) {
        guard !request.body.isEmpty, request.method == .post || request.method == .patch else { return }
        guard let header = request.headers[.contentType] else { return }
        let parts = header.split(separator: ";", omittingEmptySubsequences: false).map { part in
            part.lowercased().filter { $0 != " " && $0 != "\t" }
        }
        let types =
            request.method == .patch
            ? ["application/merge-patch+json", "application/json"] : ["application/json"]
        let isForm = parts[0] == "application/x-www-form-urlencoded"
        let isPlainText = parts.dropFirst().allSatisfy { $0 == "charset=utf-8" || $0 == "charset=\"utf-8\"" }
        // What curl -d sends when nobody says otherwise is taken for what the caller meant.
        guard isForm || types.contains(parts[0]) && isPlainText else {
            throw Problem(
                .unsupportedMediaType, "the body's type is not JSON in UTF-8", field: "Content-Type",
                expected: types.joined(separator: " or "))
        }
    }
}
