import Core

extension Capability {
    /// What the capability says, in plain words over several lines; no secret is shown.
    ///
    /// Works offline, so it says what is claimed, not whether the signatures are right.
    ///
    /// - Parameter now: The time in seconds since 1970, to say how long it stays valid; nil leaves that out.
    public func explained(now: UInt64?) -> String {
        var lines = [
            "capability \(id) for the \(claims.kind.name) \(claims.resource)",
            "  issued by cluster \(claims.issuer) at \(UTCTime.text(claims.issuedAt)), "
                + "signing key \(Hex.encode(keyID))",
            "  accepted by cluster \(claims.audience)",
            "  issued to node \(claims.subject) (node epoch \(claims.nodeEpoch), "
                + "\(claims.kind.name) epoch \(claims.resourceEpoch))",
            "As issued",
            "  allows \(list(claims.rights)) on \(place(claims.range))\(suffix(claims.limits))",
            "  valid from \(UTCTime.text(claims.notBefore)) until \(UTCTime.text(claims.expiry))",
            "  for the holder of the TLS key with thumbprint \(claims.holder); "
                + handing(claims.delegationDepth),
        ]
        for (index, attenuation) in attenuations.enumerated() {
            lines.append("Attenuation \(index + 1)")
            lines += explained(attenuation).map { "  \($0)" }
        }
        do throws(CapabilityError) {
            lines += explained(try EffectiveCapability(narrowing: self), now: now)
        } catch {
            lines.append("Every server will refuse it: \(error)")
        }
        lines.append(isSealed ? sealedNote : openNote)
        lines.append("The signatures were not checked: that takes the issuer's public key.")
        return lines.joined(separator: "\n")
    }

    private func explained(_ effective: EffectiveCapability, now: UInt64?) -> [String] {
        var lines: [String] = []
        if !attenuations.isEmpty {
            lines = [
                "What is left",
                "  allows \(list(effective.rights)) on \(place(effective.range))\(suffix(effective.limits))",
                "  valid from \(UTCTime.text(effective.notBefore)) until \(UTCTime.text(effective.expiry))",
                "  for the holder of the TLS key with thumbprint \(effective.holder); "
                    + handing(effective.delegationDepth),
            ]
        }
        guard let now else { return lines }
        if now < effective.notBefore {
            lines.append("Not valid yet: becomes valid in \(UTCTime.duration(effective.notBefore - now)).")
        } else if now >= effective.expiry {
            lines.append("Expired \(UTCTime.duration(now - effective.expiry)) ago.")
        } else {
            lines.append("Valid now, for another \(UTCTime.duration(effective.expiry - now)).")
        }
        return lines
    }

    private func explained(_ attenuation: Attenuation) -> [String] {
        var lines: [String] = []
        if let rights = attenuation.rights { lines.append("allows only \(list(rights))") }
        if let range = attenuation.range { lines.append("only on \(place(range))") }
        if let notBefore = attenuation.notBefore {
            lines.append("not before \(UTCTime.text(notBefore))")
        }
        if let expiry = attenuation.expiry { lines.append("only until \(UTCTime.text(expiry))") }
        if let limits = attenuation.limits { lines.append("at most \(rates(limits))") }
        if let holder = attenuation.holder {
            lines.append("handed to the holder of the TLS key with thumbprint \(holder)")
        }
        if let depth = attenuation.delegationDepth { lines.append(handing(depth)) }
        return lines
    }

    private var sealedNote: String { "Sealed: nobody can attenuate it further." }

    private var openNote: String {
        let delegable = (try? EffectiveCapability(narrowing: self))?.delegationDepth ?? 0
        let open = "Open: whoever has it can attenuate it."
        if delegable == 0 { return open }
        return open + " Keep it secret: whoever reads it can hand it to a key of their own. "
            + "Seal it before sending it."
    }

    private func list(_ rights: Rights) -> String { rights.names.joined(separator: ", ") }

    private func place(_ range: ByteRange?) -> String {
        guard let range else { return "all of it" }
        return "the \(range.length) bytes from \(range.offset) up to \(range.end)"
    }

    private func suffix(_ limits: IOLimits) -> String {
        limits == .none ? "" : ", at most \(rates(limits))"
    }

    private func rates(_ limits: IOLimits) -> String {
        var parts: [String] = []
        if let iops = limits.iops { parts.append("\(iops) operations per second") }
        if let rate = limits.bytesPerSecond { parts.append("\(rate) bytes per second") }
        return parts.joined(separator: " and ")
    }

    private func handing(_ depth: UInt8) -> String {
        switch depth {
        case 0: "may not be handed on"
        case 1: "may be handed on once"
        default: "may be handed on \(depth) times"
        }
    }
}
