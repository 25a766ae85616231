import Catalog
import Core
import Logging
import Services
import TLS

/// What is known of a certificate that the server looks after or has issued.
struct WatchedCertificate: Sendable, Equatable {
    /// How near its end it is.
    enum Stage: Int, Sendable, Comparable {
        case valid
        /// It should have been renewed.
        case expiring
        /// A day is left.
        case lastDay
        case expired

        static func < (left: Stage, right: Stage) -> Bool { left.rawValue < right.rawValue }

        /// As the API and the metrics have it.
        var name: String {
            switch self {
            case .valid: "valid"
            case .expiring, .lastDay: "expiring"
            case .expired: "expired"
            }
        }
    }

    let kind: CertificateKind
    /// Whose it is: the server's name, an administrator's or a node's.
    let name: String
    /// Unix seconds.
    let expiresAt: UInt64

    /// `node/compute-1`, as events name it.
    var subject: String {
        switch kind {
        case .authority, .server: kind.rawValue
        case .admin, .node: "\(kind.rawValue)/\(name)"
        }
    }

    /// Seconds before its end from which on something is wrong with a certificate that is not renewed.
    static func warningSeconds(_ kind: CertificateKind) -> UInt64 {
        switch kind {
        case .authority: (Authority.Days.renewAuthorityBefore - 7) * 86400
        case .server: (Authority.Days.renewBefore - 2) * 86400
        case .admin: 30 * 86400
        case .node: Limits.nodeCertificateSeconds / 6
        }
    }

    func stage(at now: UInt64) -> Stage {
        guard expiresAt > now else { return .expired }
        let left = expiresAt - now
        if left <= 86400 { return .lastDay }
        return left <= Self.warningSeconds(kind) ? .expiring : .valid
    }

    /// What to do about it.
    var advice: String {
        switch kind {
        case .authority, .server: "the server renews it by itself, and could not: see the reason in its log"
        case .admin: "its owner renews it with `sluice admin renew`, or any use of sluice does"
        case .node:
            "the node renews it whenever it uses the server, also for \(Limits.nodeCertificateGraceSeconds / 86400) days after the end; one that is gone for good can be removed: `sluice node remove \(name)`"
        }
    }
}

/// What was said of certificates, so that it is said once, and again when it gets worse.
struct CertificateReports: Sendable {
    /// By subject.
    var stages: [String: WatchedCertificate.Stage] = [:]
    /// By subject; what could not be written.
    var troubles: [CertificateKind: AuthorityError] = [:]
    /// Wall clock of the next look, and of the last; Unix seconds.
    var nextLook: UInt64 = 0
    var lastLook: UInt64 = 0
}

extension ControlPlane {
    /// Renews what of the server's own ends soon, and says which certificates are near their end. Worth calling every
    /// second: it does nothing until a look is due, which is once an hour, or when the clock was set.
    public func lookAtCertificates() async {
        let now = wallClock.now()
        let isDue = reports.withLock { reports in
            guard now >= reports.nextLook || now < reports.lastLook else { return false }
            reports.nextLook = now + Limits.certificateLookSeconds
            reports.lastLook = now
            return true
        }
        guard isDue else { return }
        await renewCertificates()
        reportCertificates(now: now)
    }

    /// Whom to tell of the server's certificate, now and whenever it is another.
    public func onServerCertificate(_ body: @escaping @Sendable (Authority) -> Void) {
        certificateUser.withLock { $0 = body }
    }

    /// Renews what is due; the new server certificate is in use when this returns.
    func renewCertificates() async {
        await locks.withLock("certificates") {
            guard let server = store.get(ServerRecord.self, "self")?.record else { return }
            let bundle = Authority.bundle(in: authority.folder)
            let admin = bundle.flatMap { store.get(AdminRecord.self, $0.subjectCommonName) }
            let owner = admin?.record.keyThumbprint
            var next = authority
            do throws(AuthorityError) {
                let renewed = try next.renew(server: server, bundle: owner, now: wallClock.now())
                keeper.withLock { $0 = next }
                if !renewed.isEmpty { certificateUser.withLock { $0 }?(next) }
                for (kind, expiry) in renewed { await noteRenewal(kind, expiry, admin) }
            } catch {
                counters.update { $0.certificateRenewalsFailed += 1 }
                logger.error("a certificate cannot be renewed", metadata: ["reason": "\(error)"])
            }
            reportTroubles(next.troubles)
        }
    }

    private func noteRenewal(_ kind: CertificateKind, _ expiry: UInt64, _ admin: Stored<AdminRecord>?) async {
        counters.update { $0.certificatesRenewed += 1 }
        let name = kind == .admin ? admin?.record.name ?? "" : authority.name
        let subject = WatchedCertificate(kind: kind, name: name, expiresAt: expiry).subject
        logger.notice(
            "certificate renewed",
            metadata: ["certificate": "\(subject)", "until": "\(Timestamp.text(expiry))"])
        events.append(
            .certificateRenewed, subject: subject, message: "it lasts until \(Timestamp.text(expiry))")
        guard kind == .admin, let admin else { return }
        var record = admin.record
        record.certificateExpiresAt = expiry
        record.updatedAt = wallClock.now()
        var changes = RecordChanges()
        do {
            try changes.put(record, over: admin.revision)
            try await commit(changes)
        } catch { logger.warning("the end of a certificate was not noted", metadata: ["reason": "\(error)"]) }
    }

    private func reportTroubles(_ troubles: [CertificateKind: AuthorityError]) {
        let new = reports.withLock { reports in
            let new = troubles.filter { reports.troubles[$0.key] != $0.value }
            reports.troubles = troubles
            return new
        }
        for (kind, error) in new {
            counters.update { $0.certificateRenewalsFailed += 1 }
            let message =
                "its certificate was renewed, is in use, and cannot be kept: \(error); tried again every hour"
            logger.error(
                "a certificate cannot be kept",
                metadata: ["certificate": "\(kind.rawValue)", "reason": "\(error)"])
            events.append(.certificateExpiring, subject: kind.rawValue, message: message)
        }
    }

    /// All certificates that matter, nodes' too.
    func watchedCertificates() -> [WatchedCertificate] {
        let authority = authority
        var all = [
            WatchedCertificate(
                kind: .authority, name: authority.name, expiresAt: authority.certificates.certificate.notAfter
            ),
            WatchedCertificate(
                kind: .server, name: authority.name, expiresAt: authority.serverCertificate.notAfter),
        ]
        all += store.all(AdminRecord.self).compactMap { stored in
            stored.record.certificateExpiresAt.map {
                WatchedCertificate(kind: .admin, name: stored.record.name, expiresAt: $0)
            }
        }
        all += store.all(NodeRecord.self).compactMap { stored in
            stored.record.certificateExpiresAt.map {
                WatchedCertificate(kind: .node, name: stored.record.name, expiresAt: $0)
            }
        }
        return all
    }

    /// Says what is near its end, once for each step; the server's own again with each look, so every hour.
    private func reportCertificates(now: UInt64) {
        let watched = watchedCertificates().map { ($0, $0.stage(at: now)) }
        let worse = reports.withLock { reports in
            let worse = watched.filter { certificate, stage in
                stage > reports.stages[certificate.subject] ?? .valid
                    || stage > .valid && (certificate.kind == .server || certificate.kind == .authority)
            }
            reports.stages = Dictionary(
                watched.filter { $0.1 > .valid }.map { ($0.0.subject, $0.1) }, uniquingKeysWith: max)
            return worse
        }
        for (certificate, stage) in worse.prefix(Limits.certificateReportsMax) {
            let end = Timestamp.text(certificate.expiresAt)
            let message =
                (stage == .expired ? "the certificate ended at \(end)" : "the certificate ends at \(end)")
                + ", it is \(Timestamp.text(now)): \(certificate.advice)"
            logger.warning(
                "\(stage == .expired ? "certificate expired" : "certificate near its end")",
                metadata: [
                    "certificate": "\(certificate.subject)", "end": "\(end)",
                    "advice": "\(certificate.advice)",
                ])
            events.append(
                stage == .expired ? .certificateExpired : .certificateExpiring, subject: certificate.subject,
                message: message)
        }
        if worse.count > Limits.certificateReportsMax {
            logger.warning(
                "more certificates are near their end",
                metadata: ["left out": "\(worse.count - Limits.certificateReportsMax)"])
        }
    }
}
