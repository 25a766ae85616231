import Catalog
import Core
import HTTPTypes
import Services
import TLS

/// `/v1/admins`: whoever may do everything.
struct Admins: Resource {
    static let noun = "administrator"
    static let members = ["name", "csr"]
    static let countMax: Int? = Limits.adminsMax
    /// One is made also where nothing else is.
    static let takesRoom = false

    static let routes: [Route] = [
        Route(.get, "/v1/admins", RouteTable.readers, query: RouteTable.page, list),
        Route(.post, "/v1/admins", RouteTable.admin, idempotent: true, create),
        Route(.get, "/v1/admins/{name}", RouteTable.readers, show),
        Route(.delete, "/v1/admins/{name}", RouteTable.admin, urgent: true, delete),
        Route(.post, "/v1/admins/{name}/certificate", RouteTable.admin, ControlPlane.renewAdminCertificate),
    ]

    let plane: ControlPlane
    let context: RequestContext

    func name(of admin: AdminRecord) -> String { admin.name }

    /// The lock of all of them: no two may have one key, and one has to stay.
    func lock(of name: String) -> String { "admins" }

    func draft(_ fields: Fields) throws(Problem) -> CertificateRequest {
        try plane.certificateRequest(try fields.pem("csr", bytesMax: 16384))
    }

    /// Another administrator, for the key of a certificate request.
    func make(
        _ name: String, _ request: CertificateRequest, undo: inout Undo
    ) async throws(Problem) -> Made<AdminRecord> {
        try plane.checkKeyIsFree(request.publicKeyThumbprint, forAdmin: name)
        let id = Identifier.random(using: plane.random)
        let certificate = try plane.issueCertificate(request, forAdmin: name, id)
        let admin = AdminRecord(
            id: id, name: name, keyThumbprint: request.publicKeyThumbprint,
            certificateExpiresAt: certificate.notAfter, createdAt: plane.wallClock.now())
        var made = Made(admin, body: plane.answer(certificate, name: name, id: id))
        made.then = { [plane, context] () async throws(Problem) in
            plane.note(
                .adminAdded, admin, context,
                "may do everything, until \(Timestamp.text(certificate.notAfter))")
        }
        return made
    }

    /// Removes an administrator, whose certificates no longer count when this answers.
    func remove(_ stored: Stored<AdminRecord>, isForced: Bool) async throws(Problem) -> ControlResponse {
        guard plane.store.count(AdminRecord.self) > 1 else {
            throw Problem(
                .inUse, "\(context.name) is the only administrator",
                expected: "another one first: `sluice admin add NAME --out FOLDER`")
        }
        var changes = RecordChanges()
        changes.delete(stored)
        try await plane.commit(changes)
        plane.note(.adminRevoked, stored.record, context, "its certificates no longer count")
        return ControlResponse(status: .noContent)
    }

    func body(_ admin: AdminRecord) -> JSONValue {
        var members: [String: JSONValue] = [
            "id": .string(admin.id.hex), "name": .string(admin.name),
            "createdAt": .string(Timestamp.text(admin.createdAt)),
            "updatedAt": .string(Timestamp.text(admin.updatedAt)),
        ]
        members["keyThumbprint"] = admin.keyThumbprint.map { .string($0.hex) }
        members["certificateExpiresAt"] = admin.certificateExpiresAt.map { .string(Timestamp.text($0)) }
        return .object(members)
    }
}

extension ControlPlane {
    /// `POST /v1/admins/{name}/certificate`: a fresh certificate; for another key, that of before no longer counts.
    func renewAdminCertificate(_ context: RequestContext) async throws(Problem) -> ControlResponse {
        let fields = try context.fields(known: ["csr"])
        let request = try certificateRequest(try fields.pem("csr", bytesMax: 16384))
        return try await locks.withLock("admins") { () async throws(Problem) in
            let stored = try Admins(plane: self, context: context).stored(context.name)
            try checkKeyIsFree(request.publicKeyThumbprint, forAdmin: context.name)
            let certificate = try issueCertificate(request, forAdmin: context.name, stored.record.id)
            var admin = stored.record
            let isOtherKey = admin.keyThumbprint != request.publicKeyThumbprint
            admin.keyThumbprint = request.publicKeyThumbprint
            admin.certificateExpiresAt = certificate.notAfter
            admin.updatedAt = wallClock.now()
            let changed = admin
            var changes = RecordChanges()
            try Problem.translating { () throws(CatalogError) in
                try changes.put(changed, over: stored.revision)
            }
            try await commit(changes)
            note(
                .adminRenewed, admin, context,
                "until \(Timestamp.text(certificate.notAfter))\(isOtherKey ? ", with another key" : "")")
            return ControlResponse(
                status: .created, json: answer(certificate, name: admin.name, id: admin.id))
        }
    }

    /// The administrator that a certificate stands for, if it still does.
    func admin(_ peer: PeerIdentity) throws(Problem) -> AdminRecord {
        guard let record = store.get(AdminRecord.self, peer.commonName)?.record,
            peer.certificate != nil, peer.adminID == nil || peer.adminID == record.id,
            // Before administrators had records, there was one; its certificate carries no id.
            record.keyThumbprint == peer.thumbprint || record.keyThumbprint == nil && peer.adminID == nil
        else {
            throw Problem(
                .unauthenticated, "this administrator was revoked, or has another key by now",
                expected: "another administrator, or on the server itself `sluiced admin`")
        }
        return record
    }

    /// Whether who was let in would still be.
    func isAllowed(_ peer: PeerIdentity) -> Bool {
        guard peer.certificate?.isValid(at: wallClock.now()) ?? true else { return false }
        return peer.role != .admin || (try? admin(peer)) != nil
    }

    /// Makes the record of the one administrator of a folder that was made before administrators had records.
    func adoptAdministrator() async throws(Problem) {
        guard store.count(AdminRecord.self) == 0 else { return }
        let bundle = Authority.bundle(in: authority.folder)
        let admin = AdminRecord(
            id: .random(using: random), name: "admin", keyThumbprint: bundle?.thumbprint,
            certificateExpiresAt: bundle?.notAfter, createdAt: wallClock.now())
        var changes = RecordChanges()
        try Problem.translating { () throws(CatalogError) in try changes.insert(admin) }
        try await commit(changes)
    }

    fileprivate func checkKeyIsFree(_ thumbprint: Digest32, forAdmin name: String) throws(Problem) {
        let others = store.page(AdminRecord.self, limit: 1) {
            $0.keyThumbprint == thumbprint && $0.name != name
        }
        guard others.isEmpty else {
            throw Problem.invalid(
                "csr", "is for a key that another administrator has", expected: "a key of its own")
        }
    }

    fileprivate func issueCertificate(
        _ request: CertificateRequest, forAdmin name: String, _ id: Identifier
    ) throws(Problem) -> Certificate {
        do throws(TLSError) {
            return try Authority.adminCertificate(
                authority.certificates, request: request, name: name, id: id, now: wallClock.now())
        } catch {
            throw Problem(.internalError, "the certificate could not be issued: \(error)")
        }
    }

    fileprivate func note(
        _ kind: ServerEvent.Kind, _ admin: AdminRecord, _ context: RequestContext, _ message: String
    ) {
        audit(
            "\(kind.rawValue)", context,
            ["admin": admin.name, "id": admin.id.hex, "key": admin.keyThumbprint?.hex ?? ""])
        events.append(kind, subject: "admin/\(admin.name)", message: "by \(context.caller.name): \(message)")
    }
}
