import HTTPTypes

/// Every operation of the control API, in one table; a test holds it against `API/openapi.yaml` in both directions.
public enum RouteTable {
    private static let everyRole: Set<PeerRole> = [.admin, .observer, .node]
    private static let readers: Set<PeerRole> = [.admin, .observer]
    private static let admin: Set<PeerRole> = [.admin]
    private static let page = ["limit", "cursor"]

    static let routes: [Route] = [
        Route(.get, "/livez", [], ControlPlane.livez),
        Route(.get, "/readyz", [], ControlPlane.readyz),
        Route(.get, "/metrics", readers, ControlPlane.metrics),
        Route(.get, "/v1/server", everyRole, ControlPlane.showServer),
        Route(.patch, "/v1/server", admin, ControlPlane.patchServer),
        Route(.post, "/v1/server/drain", admin, idempotent: true, ControlPlane.drainServer),
        Route(.delete, "/v1/server/drain", admin, ControlPlane.undrainServer),

        Route(.get, "/v1/pools", readers, query: page, ControlPlane.listPools),
        Route(.post, "/v1/pools", admin, idempotent: true, ControlPlane.createPool),
        Route(.get, "/v1/pools/{name}", readers, ControlPlane.showPool),
        Route(.patch, "/v1/pools/{name}", admin, ControlPlane.patchPool),
        Route(.delete, "/v1/pools/{name}", admin, query: ["force"], ControlPlane.deletePool),
        Route(.post, "/v1/pools/{name}/restart", admin, idempotent: true, ControlPlane.restartPool),

        Route(.get, "/v1/drivers", readers, query: page, ControlPlane.listDrivers),
        Route(.get, "/v1/drivers/{pool}", readers, ControlPlane.showDriver),
        Route(.post, "/v1/drivers/{pool}/upgrade", admin, idempotent: true, ControlPlane.upgradeDriver),

        Route(.get, "/v1/volumes", everyRole, query: page + ["pool"], ControlPlane.listVolumes),
        Route(.post, "/v1/volumes", admin, idempotent: true, ControlPlane.createVolume),
        Route(.get, "/v1/volumes/{name}", everyRole, ControlPlane.showVolume),
        Route(.patch, "/v1/volumes/{name}", admin, ControlPlane.patchVolume),
        Route(
            .post, "/v1/volumes/{name}/fence", admin, idempotent: true, urgent: true, ControlPlane.fenceVolume
        ),
        Route(
            .delete, "/v1/volumes/{name}", admin, query: ["force"], urgent: true, ControlPlane.deleteVolume),
        Route(.get, "/v1/volumes/{name}/markers", everyRole, query: page, ControlPlane.listMarkers),
        Route(.post, "/v1/volumes/{name}/markers", admin, idempotent: true, ControlPlane.createMarker),
        Route(.get, "/v1/volumes/{name}/markers/{marker}", everyRole, ControlPlane.showMarker),
        Route(.delete, "/v1/volumes/{name}/markers/{marker}", admin, ControlPlane.deleteMarker),

        Route(.get, "/v1/operations", readers, query: page, ControlPlane.listOperations),
        Route(.get, "/v1/operations/{id}", readers, ControlPlane.showOperation),
        Route(.delete, "/v1/operations/{id}", admin, ControlPlane.cancelOperation),

        Route(.get, "/v1/nodes", readers, query: page, ControlPlane.listNodes),
        Route(.post, "/v1/nodes", admin, idempotent: true, ControlPlane.createNode),
        Route(.get, "/v1/nodes/{name}", everyRole, ControlPlane.showNode),
        Route(.patch, "/v1/nodes/{name}", admin, ControlPlane.patchNode),
        Route(.delete, "/v1/nodes/{name}", admin, urgent: true, ControlPlane.deleteNode),
        Route(.post, "/v1/nodes/{name}/token", admin, idempotent: true, ControlPlane.createToken),
        Route(.post, "/v1/nodes/{name}/enroll", [], ControlPlane.enrol),
        Route(
            .post, "/v1/nodes/{name}/certificate", [.node], admitsExpired: true, ControlPlane.renewCertificate
        ),

        Route(.get, "/v1/admins", readers, query: page, ControlPlane.listAdmins),
        Route(.post, "/v1/admins", admin, idempotent: true, ControlPlane.createAdmin),
        Route(.get, "/v1/admins/{name}", readers, ControlPlane.showAdmin),
        Route(.delete, "/v1/admins/{name}", admin, urgent: true, ControlPlane.deleteAdmin),
        Route(.post, "/v1/admins/{name}/certificate", admin, ControlPlane.renewAdminCertificate),

        Route(.get, "/v1/grants", everyRole, query: page + ["node", "resource"], ControlPlane.listGrants),
        Route(.post, "/v1/grants", admin, idempotent: true, ControlPlane.createGrant),
        Route(.get, "/v1/grants/{name}", everyRole, ControlPlane.showGrant),
        Route(.patch, "/v1/grants/{name}", admin, urgent: true, ControlPlane.patchGrant),
        Route(.delete, "/v1/grants/{name}", admin, urgent: true, ControlPlane.deleteGrant),

        Route(
            .get, "/v1/capabilities", everyRole, query: page + ["node", "resource", "revoked"],
            ControlPlane.listCapabilities),
        Route(
            .post, "/v1/capabilities", [.admin, .node], idempotent: true, ControlPlane.issueCapability),
        Route(.get, "/v1/capabilities/{id}", everyRole, ControlPlane.showCapability),
        Route(
            .post, "/v1/capabilities/{id}/revoke", [.admin, .node], urgent: true,
            ControlPlane.revokeCapability),

        Route(.get, "/v1/sessions", everyRole, query: page, ControlPlane.listSessions),
        Route(.get, "/v1/sessions/{id}", everyRole, ControlPlane.showSession),
        Route(
            .delete, "/v1/sessions/{id}", admin, query: ["reason"], urgent: true, ControlPlane.endSession),
        Route(.post, "/v1/sessions/{id}/disconnect", admin, urgent: true, ControlPlane.disconnectSession),

        Route(.get, "/v1/events", readers, query: page, ControlPlane.readEvents),
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
        for route in routes {
            guard let parameters = route.match(path) else { continue }
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
