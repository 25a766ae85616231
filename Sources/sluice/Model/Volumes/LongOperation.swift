import Core

/// Long work on the server, as the control API describes it.
struct LongOperation: Presentable {
    var id: String
    /// What is being done, such as `volume.grow`.
    var kind: String
    /// To what, such as `volume/data`.
    var resource: String
    /// `running`, `waiting`, `done`, `failed` or `cancelled`.
    var state: String
    /// Why it waits, or has failed.
    var message: String?
    var progress: VolumeProgress?
    /// The bytes that the volume has when it is done.
    var size: UInt64?
    var since: String
    /// Nil while it is under way.
    var endedAt: String?

    static let columns = ["ID", "KIND", "RESOURCE", "STATE", "PROGRESS", "SINCE", "ENDED"]

    var row: [String] {
        [id, kind, resource, state, progress?.percentText ?? "", since, endedAt ?? ""]
    }

    var details: [(name: String, value: String)] {
        [
            ("ID", id), ("Kind", kind), ("Resource", resource), ("State", state), ("Message", message ?? ""),
            ("Progress", progressText), ("Size", size.map { ByteCount($0).description } ?? ""),
            ("Since", since), ("Ended", endedAt ?? ""),
        ]
    }

    /// How far it is.
    private var progressText: String {
        guard let progress else { return "" }
        return "\(progress.percentText) (\(ByteCount(progress.done)) of \(ByteCount(progress.total)))"
    }

    /// What a person who waits for it sees.
    var waitingText: String {
        "\(resource): \(kind) \(progressText)" + (message.map { ", \(state): \($0)" } ?? "")
    }
}

extension VolumeProgress {
    /// In percent, rounded down.
    var percentText: String {
        guard total > 0 else { return "" }
        return "\(total.dividingFullWidth(min(done, total).multipliedFullWidth(by: 100)).quotient) %"
    }
}
