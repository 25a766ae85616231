import CNGHTTP2
import HTTPTypes
import Simulation
import Testing

@testable import HTTP2

/// Heads of requests as the library hands them over, field by field: what is taken can be sent on, and is the same then.
@Suite struct HeadFuzzTests {
    private static let bytesMax = 300

    /// Names and values, each ended by a line feed, the two parted by a tab.
    private static let fuzzer = Fuzzer(
        "request heads",
        texts: [
            ":method\tGET\n:scheme\thttps\n:authority\tio:7480\n:path\t/v1/volumes?limit=3\naccept\tapplication/json\n",
            ":method\tPOST\n:path\t/v1/volumes\ncontent-type\tapplication/json\ncontent-length\t12\nidempotency-key\tk\n",
            ":method\tPATCH\n:path\t/v1/volumes/db\nif-match\t\"7\"\nx-\u{e9}\tv\n",
            ":status\t200\ncontent-type\tapplication/json\n", ":status\t1000\n", ":status\t-1\n", ":path\t\n",
        ],
        tokens: [
            ":path", ":method", ":status", ":unknown", "\t", "\n", " ", "cookie", "Host", "\r\n", "\0",
            "99999999999999999999",
            "content-length", "\u{301}", "é",
        ])

    @Test func aHeadThatIsTakenIsTheSameWhenItIsSentOn() {
        var taken = 0
        var answers = 0
        Self.fuzzer.run(20_000) { input, place, _ in
            let head = Self.head(input)
            #expect(head.isTooLarge == (head.countedBytes > Self.bytesMax), "\(place)")
            if head.isTooLarge { #expect(head.fields.isEmpty, "\(place)") }
            if let response = head.response() {
                answers += 1
                #expect((100...599).contains(response.status.code), "\(place)")
            }
            guard let request = head.request(), !head.isTooLarge else { return }
            taken += 1
            for field in request.headerFields {
                // What HTTP/2 cannot carry, and what would begin another line where a value is shown.
                #expect(!field.value.utf8.contains { [0, 10, 13].contains($0) }, "\(place): \(field)")
            }
            let again = Self.sentOn(request)
            #expect(again?.method == request.method, "\(place)")
            #expect(again?.path == request.path || request.path == nil, "\(place)")
            #expect(again?.headerFields == request.headerFields, "\(place)")
        }
        #expect(taken > 1000 && answers > 100)
    }

    private static func head(_ input: [UInt8]) -> IncomingHead {
        var head = IncomingHead()
        for line in input.split(separator: 10) {
            let parts = line.split(separator: 9, maxSplits: 1, omittingEmptySubsequences: false)
            append(Array(parts[0]), parts.count > 1 ? Array(parts[1]) : [], to: &head)
        }
        return head
    }

    private static func append(_ name: [UInt8], _ value: [UInt8], to head: inout IncomingHead) {
        unsafe name.withUnsafeBytes { name in
            unsafe value.withUnsafeBytes { value in
                unsafe head.append(name: name, value: value, maximum: bytesMax)
            }
        }
    }

    /// The request that the other side sees.
    private static func sentOn(_ request: HTTPRequest) -> HTTPRequest? {
        var head = IncomingHead()
        unsafe HTTP2HeadBlock(request).withFields { list, count in
            for index in 0..<count {
                let field = unsafe list![index]
                unsafe head.append(
                    name: UnsafeRawBufferPointer(start: field.name, count: field.namelen),
                    value: UnsafeRawBufferPointer(start: field.value, count: field.valuelen), maximum: 1 << 20
                )
            }
        }
        return head.request()
    }
}
