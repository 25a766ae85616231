import Core

/// One page of a list of the control API.
public struct ListPage<Item: Decodable & Sendable>: Decodable, Sendable {
    /// In the server's order.
    public var items: [Item]
    /// Where the next page begins; nil on the last.
    public var nextCursor: String?

    /// A page of its parts.
    public init(items: [Item], nextCursor: String?) {
        self.items = items
        self.nextCursor = nextCursor
    }
}

/// Reads lists page by page, of servers that may never come to an end.
public enum PageWalk {
    /// The most items of a page, which servers are asked for.
    public static let pageItemsMax = 1000
    /// The most items of a list: five times what a server keeps of any kind.
    public static let itemsMax = 1_000_000
    /// The most pages; a server may leave items out that a filter does not want.
    static let pagesMax = 4 * itemsMax / pageItemsMax

    /// All items.
    ///
    /// - Parameters:
    ///   - whose: who is asked, for the error.
    ///   - fetch: the page at a place (a query, empty for the first), of at most so many items.
    /// - Throws: `ClientError` for a cursor that came before, a page that is longer than asked for, more than `itemsMax`
    ///   items; and what `fetch` throws.
    public static func all<Item>(
        whose: String, path: String,
        fetch: (_ place: [(String, String)], _ limit: Int) throws -> ListPage<Item>
    ) throws -> [Item] {
        var items: [Item] = []
        var seen: Set<String> = []
        var place: [(String, String)] = []
        for _ in 0..<pagesMax {
            let page = try fetch(place, pageItemsMax)
            guard page.items.count <= pageItemsMax else {
                throw fault("\(whose) sent more of \(path) than it was asked for")
            }
            items += page.items
            guard let cursor = page.nextCursor else { return items }
            guard seen.insert(cursor).inserted else { throw fault("\(whose) repeats a page of \(path)") }
            guard items.count < itemsMax else { break }
            place = [("cursor", cursor)]
        }
        throw fault("\(whose) does not come to an end of \(path), after \(items.count) items")
    }

    private static func fault(_ text: String) -> ClientError {
        ClientError(kind: .bug, code: "BAD_LIST", detail: text)
    }
}
