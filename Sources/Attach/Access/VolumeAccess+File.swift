import Capability
import Core
import Glibc
import Reactor
import SluiceClient
import TLS

/// A capability that its holder was handed in a file, in place of one that the control API issues.
extension VolumeAccess {
    /// The capability in the file, which must be for the key of the credentials and allow `rights`, or anything where
    /// these are nil.
    ///
    /// The file is read anew each time, so that whoever hands out capabilities renews one by replacing the file.
    /// - Throws: also where the file still holds the capability that was taken before, since it cannot be renewed.
    mutating func handed(_ path: String, rights: Rights?) throws(AttachError) -> IssuedCapability {
        let text = try Self.text(path)
        var capability: IssuedCapability
        let allowed: Rights
        do throws(CapabilityError) {
            let token = try Capability(text: text)
            let effective = try EffectiveCapability(narrowing: token)
            guard effective.holder == holder else {
                throw CapabilityError.malformed(
                    "it is for another TLS key (thumbprint \(effective.holder)) than that of the credentials (\(holder))"
                )
            }
            guard effective.kind == .volume else {
                throw CapabilityError.malformed("it is for a \(effective.kind.name), not for a volume")
            }
            allowed = effective.rights
            capability = IssuedCapability(
                bytes: try CapabilityToSend(token).bytes, id: effective.id, resource: effective.resource,
                rights: effective.rights, issuedAt: token.claims.issuedAt, expiry: effective.expiry)
        } catch {
            throw AttachError(.usage, "\(path) holds no capability that can be used: \(error)")
        }
        if let rights, !rights.isSubset(of: allowed) {
            let missing = rights.subtracting(allowed).names.joined(separator: ", ")
            throw AttachError(.denied, "the capability in \(path) gives no right to \(missing)")
        }
        let end = Timestamp.text(capability.expiry)
        // How old it is, only the time of day can say.
        let (wall, now) = (SystemWallClock().now(), SystemClock.monotonic())
        let age = min(wall - min(wall, capability.issuedAt), capability.lifeSeconds) * 1_000_000_000
        capability.askedAt = now - min(now, age)
        guard capability.expiry > wall else {
            throw AttachError(
                .denied, "the capability in \(path) ended at \(end); ask its issuer for a newer one")
        }
        guard capability.bytes != lastHanded else {
            throw AttachError(
                .denied, "the capability in \(path) ends at \(end); put a newer one into the file before that"
            )
        }
        try requireName(of: capability, in: path)
        lastHanded = capability.bytes
        return capability
    }

    /// Refuses a capability for another volume than the one that the user names: its resource is an id, which only the
    /// control API can put a name to. Without its answer nothing goes on, for the user may be about to destroy what is
    /// there. An id that has the name is not asked about again: a volume keeps both for its life.
    private mutating func requireName(
        of capability: IssuedCapability, in path: String
    ) throws(AttachError) {
        guard capability.resource != namedResource else { return }
        let inspection: Inspection
        do throws(ClientError) {
            inspection = try inspect(capability)
        } catch {
            guard error.code == "NOT_FOUND" else {
                throw AttachError(
                    AttachError(error).reason,
                    "the server does not say which volume \(path) is a capability for, and nothing was done: "
                        + AttachError(error).message, code: error.code)
            }
            throw AttachError(
                .denied,
                "the server at \(server) knows no volume that \(path) is a capability for: that volume is gone, or "
                    + "another cluster issued the capability", code: error.code)
        }
        guard inspection.resource == "volume/\(volume)" else {
            throw AttachError(
                .usage,
                "\(path) is a capability for \(inspection.resource), not for volume/\(volume); nothing was done"
            )
        }
        guard inspection.isUsable else {
            throw AttachError(
                .denied,
                "the capability in \(path) does not count: \(inspection.reason ?? "the server does not say why")"
            )
        }
        namedResource = capability.resource
    }

    private static func text(_ path: String) throws(AttachError) -> String {
        let fd = unsafe open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard fd >= 0 else {
            throw AttachError(.notFound, "\(path): \(ReactorError.text(errno: errno))")
        }
        let file = FileDescriptor(owning: fd)
        var bytes = [UInt8](repeating: 0, count: Limits.capabilityTextCharactersMax + 64)
        let count = unsafe bytes.withUnsafeMutableBytes {
            unsafe Glibc.read(file.raw, $0.baseAddress, $0.count)
        }
        guard count >= 0 else { throw AttachError(.system, "\(path): \(ReactorError.text(errno: errno))") }
        let words = String(decoding: bytes.prefix(count), as: UTF8.self).split(whereSeparator: \.isWhitespace)
        return words.first.map(String.init) ?? ""
    }
}
