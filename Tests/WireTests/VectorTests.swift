import Core
import Testing
import Wire

@Suite struct VectorTests {
    let vectors: Vectors

    init() throws {
        vectors = try Vectors.load()
    }

    @Test func requestHeadersDecodeToTheirFieldsAndEncodeToTheirBytes() throws {
        #expect(vectors.requests.count >= 14)
        for vector in vectors.requests {
            let header = try #require(RequestHeader(bytes: vector.bytes))
            let expected = RequestHeader(
                length: try vector.number("length"), opcode: try vector.number("opcode"),
                flags: RequestFlags(rawValue: try vector.number("flags")), slot: try vector.number("slot"),
                reserved: try vector.number("reserved"), sequence: try vector.number("sequence"),
                handle: try vector.number("handle"), count: try vector.number("count"),
                offset: try vector.number("offset"))
            #expect(header == expected, "\(vector.name)")
            #expect(header.bytes == vector.bytes, "\(vector.name)")
            let limits =
                header.knownOpcode == .hello
                ? FrameLimits.greeting : .established(payloadBytesMax: UInt32(Limits.payloadBytesMax))
            #expect(header.validate(limits) == .ok, "\(vector.name)")
        }
    }

    @Test func replyHeadersDecodeToTheirFieldsAndEncodeToTheirBytes() throws {
        #expect(vectors.replies.count >= 8)
        for vector in vectors.replies {
            let header = try #require(ReplyHeader(bytes: vector.bytes))
            let expected = ReplyHeader(
                length: try vector.number("length"), status: try vector.number("status"),
                flags: try vector.number("flags"), slot: try vector.number("slot"),
                opcode: try vector.number("opcode"), sequence: try vector.number("sequence"),
                value: try vector.number("value"), detail: try vector.number("detail"))
            #expect(header == expected, "\(vector.name)")
            #expect(header.bytes == vector.bytes, "\(vector.name)")
            #expect(header.fault(payloadBytesMax: UInt32(Limits.payloadBytesMax)) == nil, "\(vector.name)")
        }
    }

    @Test func eventsDecodeAndEncodeToTheirBytes() throws {
        #expect(Set(vectors.events.map { $0.fields["kind"] }).count == EventKind.allCases.count)
        for vector in vectors.events {
            let header = try #require(ReplyHeader(bytes: vector.bytes))
            #expect(header.isEvent && header.fault(payloadBytesMax: 16384) == nil, "\(vector.name)")
            let payload = Array(vector.bytes.dropFirst(Limits.headerBytes))
            let event = try #require(try ChannelEvent.decode(header, payload: payload))
            #expect(event.kind.rawValue == (try vector.number("kind")), "\(vector.name)")
            #expect(event.frame(number: try vector.number("number")) == vector.bytes, "\(vector.name)")
        }
    }

    @Test func helloDecodesToItsFieldsAndEncodesToItsBytes() throws {
        for vector in vectors.hello {
            let hello = try Hello(bytes: vector.bytes)
            #expect(hello.versionMin == (try vector.number("version_min")))
            #expect(hello.versionMax == (try vector.number("version_max")))
            #expect(hello.payloadBytesMax == (try vector.number("payload_max")))
            #expect(hello.features.rawValue == (try vector.number("features")))
            #expect(hello.slots == (try vector.number("slots")))
            #expect(hello.session == (try vector.identifier("session")))
            #expect(hello.secret == (try vector.data("secret")))
            #expect(hello.clientName == (try vector.text("client_name")))
            #expect(hello.instance == (try vector.identifier("instance")))
            #expect((hello.resumes ?? 0) == (try vector.number("channel")))
            #expect((hello.resumes == nil ? 0 : 1) == (try vector.number("flags") as UInt16))
            #expect(hello.bytes == vector.bytes, "\(vector.name)")
        }
    }

    @Test func helloRepliesDecodeToTheirFieldsAndEncodeToTheirBytes() throws {
        for vector in vectors.helloReply {
            let reply = try HelloReply(bytes: vector.bytes)
            #expect(reply.slots == (try vector.number("slots")))
            #expect(reply.payloadBytesMax == (try vector.number("payload_max")))
            #expect(reply.session == (try vector.identifier("session")))
            #expect(reply.secret == (try vector.data("secret")))
            #expect(reply.channel == (try vector.number("channel")))
            #expect(reply.channelsMax == (try vector.number("channels_max")))
            #expect(reply.handlesMax == (try vector.number("handles_max")))
            #expect(reply.idleSeconds == (try vector.number("idle_seconds")))
            #expect(reply.cluster == (try vector.identifier("cluster")))
            #expect(reply.resumption.rawValue == (try vector.number("resumption")))
            #expect(reply.lingerSeconds == (try vector.number("linger_seconds")))
            #expect(reply.serverName == (try vector.text("server_name")))
            #expect(reply.bytes == vector.bytes, "\(vector.name)")
        }
    }

    @Test func openAndRenewDecodeToTheirFieldsAndEncodeToTheirBytes() throws {
        for vector in vectors.open {
            let request = try OpenRequest(bytes: vector.bytes)
            #expect(request.kind.rawValue == (try vector.number("kind")))
            #expect(request.rights.rawValue == (try vector.number("rights")))
            #expect((request.takesOver ? 1 : 0) == (try vector.number("flags") as UInt8))
            #expect(request.capability == (try vector.data("capability")))
            #expect(request.bytes == vector.bytes, "\(vector.name)")
        }
        for vector in vectors.renew {
            let request = try RenewRequest(bytes: vector.bytes)
            #expect(request.capability == (try vector.data("capability")))
            #expect(request.bytes == vector.bytes, "\(vector.name)")
        }
    }

    @Test func resourceStatesDecodeToTheirFieldsAndEncodeToTheirBytes() throws {
        for vector in vectors.resourceState {
            let state = try ResourceState(bytes: vector.bytes)
            #expect(state.kind.rawValue == (try vector.number("kind")))
            let shape = VolumeShape(
                size: try vector.number("size"), blockSize: try vector.number("block_size"),
                transferBytesMax: try vector.number("transfer_max"))
            switch state.shape {
            case .volume(let found): #expect(found == shape && state.volume == shape)
            case .words(_, let first, let second):
                #expect(first == shape.size && UInt32(truncatingIfNeeded: second) == shape.blockSize)
                #expect(state.size == 0, "it is no volume")
            }
            #expect(state.rights.rawValue == (try vector.number("rights")))
            #expect(state.accessMode.wire == (try vector.number("access_mode")))
            #expect(state.range.offset == (try vector.number("range_offset")))
            #expect(state.range.length == (try vector.number("range_length")))
            #expect(state.expiry == (try vector.number("expiry")))
            #expect(state.resource == (try vector.identifier("resource")))
            #expect(state.capability == (try vector.identifier("capability")))
            #expect(state.epoch == (try vector.number("epoch")))
            #expect((state.limits.iops ?? 0) == (try vector.number("iops")))
            #expect((state.limits.bytesPerSecond ?? 0) == (try vector.number("bytes_per_second")))
            #expect(state.writerGeneration == (try vector.number("writer_generation")))
            #expect(state.bytes == vector.bytes, "\(vector.name)")
        }
    }

    @Test func sourcesAndMapsDecodeToTheirFieldsAndEncodeToTheirBytes() throws {
        for vector in vectors.copySource {
            let source = try CopySource(bytes: vector.bytes)
            #expect(source.handle == (try vector.number("handle")))
            #expect(source.offset == (try vector.number("offset")))
            #expect(source.bytes == vector.bytes, "\(vector.name)")
        }
        for vector in vectors.blockMap {
            let map = try BlockMap(bytes: vector.bytes, covered: try vector.number("covered"))
            let text = map.extents.map { "\($0.length):\($0.flags.rawValue)" }.joined(separator: " ")
            #expect(text == (try vector.text("extents")))
            #expect(map.covered == (try vector.number("covered")))
            #expect(map.bytes == vector.bytes, "\(vector.name)")
        }
    }

    @Test func everyRejectIsRefusedWithItsStatus() throws {
        #expect(vectors.rejects.count >= 100)
        for reject in vectors.rejects {
            let status = try #require(Self.status(of: reject), "\(reject.where): \(reject.name) is accepted")
            #expect(status.name == reject.status, "\(reject.where): \(reject.name)")
        }
    }

    private static func status(of reject: Vectors.Reject) -> Status? {
        do throws(StatusError) {
            switch reject.where {
            case "hello": _ = try Hello(bytes: reject.bytes)
            case "helloReply": _ = try HelloReply(bytes: reject.bytes)
            case "open": _ = try OpenRequest(bytes: reject.bytes)
            case "renew": _ = try RenewRequest(bytes: reject.bytes)
            case "resourceState": _ = try ResourceState(bytes: reject.bytes)
            case "copySource": _ = try CopySource(bytes: reject.bytes)
            case "blockMap": _ = try BlockMap(bytes: reject.bytes, covered: Vectors.coveredByRejects)
            default:
                guard let header = RequestHeader(bytes: reject.bytes) else { return nil }
                let limits =
                    reject.where == "greeting"
                    ? FrameLimits.greeting : .established(payloadBytesMax: UInt32(Limits.payloadBytesMax))
                let status = header.validate(limits)
                return status == .ok ? nil : status
            }
        } catch {
            return error.status
        }
        return nil
    }
}
