import ArgumentParser
import FoundationEssentials
import Glibc
import SluiceClient

/// `sluice events`
struct EventsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "events",
        abstract: "Show what happened to drivers, capabilities and sessions.",
        discussion: """
            The server keeps events of each kind for 90 days, the latest where there are many. With --follow, further ones
            are shown as they happen, also over restarts of the server, until you end it; with -o json each is a line
            then, and without --follow they are one array.

            EXAMPLES:
              sluice events
              sluice events --kind driver,session.lost --since 1h
              sluice events --resource volume/data --since 2026-11-24T04:13:27Z
              sluice events --follow -o json
            """)

    @OptionGroup var global: GlobalOptions
    @Option(
        help: ArgumentHelp(
            "Only events of these kinds, with commas between them.",
            discussion: "A kind is such as session.lost, or all that it begins with, such as driver.",
            valueName: "kind"))
    var kind: String?
    @Option(
        help: ArgumentHelp(
            "Only events about this, such as volume/data or pool/default, or caused by this node.",
            valueName: "kind/name"))
    var resource: String?
    @Option(
        help: ArgumentHelp(
            "Only events of the last such as 15m, 1h or 7d, or from a time such as 2026-11-24T04:13:27Z on.",
            valueName: "time"))
    var since: SinceArgument?
    @Flag(name: [.short, .long], help: "Go on with what happens from now on.") var follow = false

    private var query: [(String, String?)] {
        [
            ("kind", kind), ("resource", resource), ("sinceSeconds", since?.seconds.map { "\($0)" }),
            ("sinceTime", since?.time),
        ]
    }

    func run() throws {
        let api = try ControlAPI(global)
        guard follow else {
            return try global.output.show(list: try api.list("/v1/events", query: query) as [Answered<Event>])
        }
        var place = "0"
        var wasThere = false
        while Terminal.isHeard {
            do {
                try api.follow("/v1/events", query: query, after: place) { event in
                    wasThere = true
                    if let id = event.id { place = id }
                    show(event)
                    return Terminal.isHeard
                }
                guard Terminal.isHeard else { return }
                wasThere = true
                Terminal.note("sluice: the server ended the stream; waiting for it to come back")
            } catch let failure as Failure where failure.status == .unreachable && wasThere {
                Terminal.note("sluice: \(failure.message); trying again")
            }
            // Waits as long as the server asks clients to wait (`retry`).
            _ = poll(nil, 0, 2000)
        }
    }

    private func show(_ event: EventStreamParser.Event) {
        if event.name == "gap" { return Terminal.note("sluice: events were lost") }
        guard let known = try? JSONDecoder().decode(Answered<Event>.self, from: Data(event.data.utf8)) else {
            return Terminal.note(
                "sluice: an event is not shown, since it is not like those that this version knows; see `sluice events -o json`"
            )
        }
        global.output.show(next: known)
    }
}
