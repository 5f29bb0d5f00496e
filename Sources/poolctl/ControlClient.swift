import Foundation
import NIOCore
import NIOHTTP1
import NIOPosix
import PoolControl

/// One request to the daemon of a directory, one answer.
struct ControlClient {
    let directory: String

    private var socketPath: String { directory + "/" + ControlProtocol.socketName }

    /// - Throws: ``ControlFailure``: the daemon's own, or what is wrong with reaching it.
    func send<Answer: ControlMessage>(
        _ route: ControlProtocol.Route, expecting type: Answer.Type
    ) throws -> Answer {
        try exchange(route, Data(), type)
    }

    func send<Answer: ControlMessage>(
        _ route: ControlProtocol.Route, _ request: some ControlMessage, expecting type: Answer.Type
    ) throws -> Answer {
        let body = try ControlJSON.encode(request)
        guard body.count <= ControlProtocol.maximumRequestBytes else {
            throw ControlFailure(
                .invalid, "the request is larger than the daemon takes",
                hint: "name fewer disks at once")
        }
        return try exchange(route, body, type)
    }

    private func exchange<Answer: ControlMessage>(
        _ route: ControlProtocol.Route, _ body: Data, _ type: Answer.Type
    ) throws -> Answer {
        let group = MultiThreadedEventLoopGroup.singleton
        let response: Response
        do {
            let answered = group.next().makePromise(of: Response.self)
            let request = Request(route: route, body: body)
            let channel = ClientBootstrap(group: group)
                .connectTimeout(.seconds(5))
                .channelInitializer { channel in
                    channel.eventLoop.makeCompletedFuture {
                        let pipeline = channel.pipeline.syncOperations
                        try pipeline.addHTTPClientHandlers()
                        try pipeline.addHandler(NIOHTTPClientResponseAggregator(
                            maxContentLength: ControlProtocol.maximumResponseBytes))
                        try pipeline.addHandler(ExchangeHandler(request, answered))
                    }
                }
                .connect(unixDomainSocketPath: socketPath)
            channel.cascadeFailure(to: answered)
            response = try answered.futureResult.wait()
        } catch {
            throw explain(error)
        }
        guard response.status < 400 else {
            throw try ControlJSON.decode(FailureMessage.self, from: response.body).error
        }
        return try ControlJSON.decode(type, from: response.body)
    }

    private func explain(_ error: any Error) -> ControlFailure {
        if let failure = error as? ControlFailure { return failure }
        let code = (error as? IOError)?.errnoCode
        if code == EACCES || code == EPERM {
            return ControlFailure(
                .unavailable, "no permission to talk to the poold at \(directory)",
                hint: "run as root, as the daemon's user, or as a member of the socket's group")
        }
        if socketPath.utf8.count > ControlProtocol.maximumSocketPathBytes {
            return ControlFailure(
                .unavailable, "no poold at \(directory): the path is too long for a socket",
                hint: "use a --dir of at most "
                    + "\(ControlProtocol.maximumDirectoryBytes) bytes")
        }
        if code == ENOENT || code == ECONNREFUSED || code == ENOTDIR || error is NIOConnectionError
        {
            return ControlFailure(
                .unavailable, "no poold at \(directory)",
                hint: "start one: poold --dir \(ShellText.quoted(directory))")
        }
        return ControlFailure(
            .failed, "the daemon did not answer: \(error)",
            hint: "look at its log, and at 'poolctl pool status' for what was done")
    }
}

private struct Request {
    var route: ControlProtocol.Route
    var body: Data
}

private struct Response {
    var status: Int
    var body: Data
}

/// Sends the request once connected and takes the one response.
private final class ExchangeHandler: ChannelInboundHandler {
    typealias InboundIn = NIOHTTPClientResponseFull
    typealias OutboundOut = HTTPClientRequestPart

    private let request: Request
    private let answered: EventLoopPromise<Response>

    init(_ request: Request, _ answered: EventLoopPromise<Response>) {
        self.request = request
        self.answered = answered
    }

    func channelActive(context: ChannelHandlerContext) {
        var head = HTTPRequestHead(
            version: .http1_1, method: HTTPMethod(rawValue: request.route.method),
            uri: request.route.path)
        head.headers = [
            "Host": "poold", "Connection": "close", "Content-Type": "application/json",
            "Content-Length": "\(request.body.count)",
        ]
        context.write(wrapOutboundOut(.head(head)), promise: nil)
        let body = context.channel.allocator.buffer(bytes: request.body)
        context.write(wrapOutboundOut(.body(.byteBuffer(body))), promise: nil)
        context.writeAndFlush(wrapOutboundOut(.end(nil)), promise: nil)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let full = unwrapInboundIn(data)
        let body = full.body.map { Data($0.readableBytesView) } ?? Data()
        answered.succeed(Response(status: Int(full.head.status.code), body: body))
        context.close(promise: nil)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        answered.fail(error)
        context.close(promise: nil)
    }

    func channelInactive(context: ChannelHandlerContext) {
        // Ignored where the answer came first.
        answered.fail(
            ControlFailure(
                .failed, "the daemon went away before it answered",
                hint: "look at its log, and at 'poolctl pool status' for what was done"))
    }
}

/// Text that a shell reads back as one word.
enum ShellText {
    static func quoted(_ text: String) -> String {
        let plain = text.utf8.allSatisfy { byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"):
                true
            default: "/._-+=:,@".utf8.contains(byte)
            }
        }
        return plain && !text.isEmpty
            ? text : "'" + text.replacingOccurrences(of: "'", with: "'\\''") + "'"
    }
}
