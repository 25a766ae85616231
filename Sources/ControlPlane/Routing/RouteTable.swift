import HTTPTypes

/// Every operation of the control API, in one table; a test holds it against `API/openapi.yaml` in both directions.
public enum RouteTable {
    static let everyRole: Set<PeerRole> = [.admin, .observer, .node]
    static let readers: Set<PeerRole> = [.admin, .observer]
    static let admin: Set<PeerRole> = [.admin]
    static let page = ["limit", "cursor"]

    static let routes: [Route] = Kinds.all.flatMap { $0.routes } + others

    /// Those of what is no kind of resource.
    private static let others: [Route] = [
        Route(.get, "/livez", [], ControlPlane.livez),
        Route(.get, "/readyz", [], ControlPlane.readyz),
        Route(.get, "/metrics", readers, ControlPlane.metrics),
        Route(.get, "/v1/server", everyRole, ControlPlane.showServer),
        Route(.patch, "/v1/server", admin, ControlPlane.patchServer),
        Route(.post, "/v1/server/drain", admin, idempotent: true, ControlPlane.drainServer),
        Route(.delete, "/v1/server/drain", admin, ControlPlane.undrainServer),

        Route(.get, "/v1/drivers", readers, query: page, ControlPlane.listDrivers),
        Route(.get, "/v1/drivers/{pool}", readers, ControlPlane.showDriver),
        Route(.post, "/v1/drivers/{pool}/upgrade", admin, idempotent: true, ControlPlane.upgradeDriver),

        Route(.get, "/v1/operations", readers, query: page, ControlPlane.listOperations),
        Route(.get, "/v1/operations/{id}", readers, ControlPlane.showOperation),
        Route(.delete, "/v1/operations/{id}", admin, ControlPlane.cancelOperation),

        Route(
            .get, "/v1/capabilities", everyRole, query: page + ["node", "resource", "revoked"],
            ControlPlane.listCapabilities),
        Route(
            .post, "/v1/capabilities", [.admin, .node], idempotent: true, ControlPlane.issueCapability),
        Route(.post, "/v1/capabilities/inspect", [.admin, .node], ControlPlane.inspectCapability),
        Route(.get, "/v1/capabilities/{id}", everyRole, ControlPlane.showCapability),
        Route(
            .post, "/v1/capabilities/{id}/revoke", [.admin, .node], urgent: true,
            ControlPlane.revokeCapability),

        Route(.get, "/v1/sessions", everyRole, query: page, ControlPlane.listSessions),
        Route(.get, "/v1/sessions/{id}", everyRole, ControlPlane.showSession),
        Route(
            .delete, "/v1/sessions/{id}", admin, query: ["reason"], urgent: true, ControlPlane.endSession),
        Route(.post, "/v1/sessions/{id}/disconnect", admin, urgent: true, ControlPlane.disconnectSession),

        Route(
            .get, "/v1/events", readers, query: page + EventFilter.parameters, ControlPlane.readEvents),
    ]

    /// The operations as `METHOD /path/{parameter}`, with the roles that may use them; none means everybody.
    public static var operations: [(operation: String, roles: Set<PeerRole>, query: [String])] {
        routes.map { ("\($0.method.rawValue) \($0.template)", $0.roles, $0.query) }
    }

    /// The route of a request with the values of its parameters.
    static func find(
        _ method: HTTPRequest.Method, _ path: [String]
    ) throws(Problem) -> (route: Route, parameters: [String: String]) {
        var allowed: [String] = []
        let found = routes.compactMap { route in route.match(path).map { (route, parameters: $0) } }
        // A part that is spelt out goes before a parameter in its place.
        let fewest = found.map { $0.parameters.count }.min()
        for (route, parameters) in found where parameters.count == fewest {
            if route.method == method { return (route, parameters) }
            allowed.append(route.method.rawValue)
            if route.method == .get { allowed.append("HEAD") }
        }
        guard !allowed.isEmpty else {
            throw Problem(.noSuchRoute, "there is nothing at this path; API/openapi.yaml lists what there is")
        }
        var problem = Problem(.methodNotAllowed, "this path takes \(allowed.joined(separator: ", "))")
        problem.allow = allowed.joined(separator: ", ")
        throw problem
    }
}
