import HTTPTypes

extension ControlPlane {
    /// `GET /livez`: the process answers.
    func livez(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        ControlResponse(status: .ok, json: .object(["status": .string("alive")]))
    }

    /// `GET /readyz`: the server takes requests.
    func readyz(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        guard isReady else { throw Problem(.notReady, "the server is starting or stopping") }
        guard !isDraining else { throw Problem(.notReady, "the server is being drained") }
        return ControlResponse(status: .ok, json: .object(["status": .string("ready")]))
    }
}
