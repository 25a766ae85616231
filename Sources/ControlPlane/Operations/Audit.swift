import Logging

extension ControlPlane {
    /// Logs who did what to which resource.
    func audit(_ what: Logger.Message, _ context: RequestContext, _ details: [String: String]) {
        var metadata: Logger.Metadata = ["by": "\(context.caller.name)"]
        if let address = context.request.remoteAddress { metadata["from"] = "\(address)" }
        for (name, value) in details { metadata[name] = "\(value)" }
        logger.notice(what, metadata: metadata)
    }
}
