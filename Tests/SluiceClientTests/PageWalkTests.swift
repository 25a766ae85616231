import SluiceClient
import Testing

/// Lists of servers that never come to an end.
@Suite struct PageWalkTests {
    private func walk(_ page: @escaping (Int, String?) -> ListPage<Int>) throws -> (items: Int, pages: Int) {
        var pages = 0
        let items = try PageWalk.all(whose: "the server", path: "/v1/volumes") { place, limit in
            #expect(limit == PageWalk.pageItemsMax)
            defer { pages += 1 }
            return page(pages, place.first?.1)
        }
        return (items.count, pages)
    }

    private func page(_ count: Int, next: String?) -> ListPage<Int> {
        ListPage(items: Array(0..<count), nextCursor: next)
    }

    @Test func pagesFollowOneAnotherToTheLast() throws {
        let seen = try walk { index, cursor in
            #expect(cursor == (index == 0 ? nil : "p\(index)"))
            return self.page(index == 2 ? 7 : 1000, next: index == 2 ? nil : "p\(index + 1)")
        }
        #expect(seen == (2007, 3))
    }

    /// The error of a walk.
    private func failure(_ page: @escaping (Int, String?) -> ListPage<Int>) -> String {
        do {
            return "none after \(try walk(page))"
        } catch {
            return "\(error)"
        }
    }

    @Test func cursorsThatComeAgainEndTheWalk() {
        for cycle in 1...5 {
            var asked = 0
            let text = failure { index, _ in
                asked = index + 1
                return self.page(1, next: "c\(index % cycle)")
            }
            #expect(text.contains("repeats a page"))
            #expect(asked == cycle + 1)
        }
    }

    @Test func endlessListsAreGivenUp() {
        for (items, most) in [(1000, 1001), (0, 4001)] {
            var asked = 0
            let text = failure { index, _ in
                asked = index + 1
                return self.page(items, next: "c\(index)")
            }
            #expect(text.contains("does not come to an end"))
            #expect(asked < most)
        }
        #expect(failure { _, _ in self.page(1001, next: nil) }.contains("more of"))
    }
}
