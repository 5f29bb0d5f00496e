import Foundation
import Logging
import NIOCore
import NIOHTTP1
import NIOPosix
import PoolControl
import Synchronization

/// Carries out one request of the control protocol. Called on a thread that may block.
protocol ControlService: Sendable {
    func answer(_ route: ControlProtocol.Route, _ body: Data) throws(ControlFailure) -> Data
}

/// HTTP on DIR/control.sock: parses, checks who asks, bounds everything, and hands each request to
/// the service on a thread that may wait.
///
/// Requests that change something run one after the other, in order of arrival; those that only
/// look run beside them, so that a status never waits for a pool that is being made.
final class ControlServer: Sendable {
    static let maximumConnections = 128
    /// From the accept until the request is whole.
    static let requestDeadline = TimeAmount.seconds(30)

    private let path: String
    private let group: MultiThreadedEventLoopGroup
    private let listener: any Channel
    /// Requests that were read and are not answered yet.
    private let answering: BoundedCount
    private let changes: NIOThreadPool
    private let looks: NIOThreadPool

    /// Binds and listens; a stale socket is replaced (the caller holds the directory's lock).
    ///
    /// - Throws: ``ControlFailure`` where the socket cannot be made.
    init(
        path: String, service: any ControlService, changes: NIOThreadPool, logger: Logger
    ) throws(ControlFailure) {
        self.path = path
        self.changes = changes
        group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        looks = NIOThreadPool(numberOfThreads: 2)
        looks.start()
        let connections = BoundedCount(limit: Self.maximumConnections)
        let answering = BoundedCount(limit: Self.maximumConnections)
        self.answering = answering
        let looks = self.looks
        let peers = PeerPolicy(socketPath: path)
        _ = unsafe unlink(path)
        do {
            listener = try ServerBootstrap(group: group)
                .serverChannelOption(.backlog, value: 64)
                .childChannelOption(.allowRemoteHalfClosure, value: true)
                .childChannelInitializer { channel in
                    guard connections.enter() else {
                        return channel.eventLoop.makeFailedFuture(ChannelError.eof)
                    }
                    channel.closeFuture.whenComplete { _ in connections.leave() }
                    return peers.refusal(of: channel).flatMapThrowing { refusal in
                        let pipeline = channel.pipeline.syncOperations
                        try pipeline.configureHTTPServerPipeline()
                        try pipeline.addHandler(
                            NIOHTTPServerRequestAggregator(
                                maxContentLength: ControlProtocol.maximumRequestBytes))
                        try pipeline.addHandler(
                            RequestHandler(service, refusal, changes, looks, answering, logger))
                    }
                }
                .bind(unixDomainSocketPath: path).wait()
        } catch {
            throw ControlFailure(
                .failed, "cannot listen on \(path): \(error)",
                hint: "look at the folder's rights and its file system")
        }
        guard unsafe chmod(path, 0o660) == 0 else {
            throw DurableFile.systemFailure("cannot set the rights of \(path)")
        }
    }

    /// Takes no more connections, removes the socket, waits for the requests under way (bounded)
    /// and closes what is left.
    func stop(within seconds: Int) {
        try? listener.close().wait()
        _ = unsafe unlink(path)
        let deadline = ContinuousClock.now + .seconds(seconds)
        while answering.current > 0, ContinuousClock.now < deadline { usleep(10_000) }
        try? looks.syncShutdownGracefully()
        try? group.syncShutdownGracefully()
    }
}

/// How many there are of something; counted on event loops, read anywhere.
private final class BoundedCount: Sendable {
    private let limit: Int
    private let count = Mutex(0)

    init(limit: Int) { self.limit = limit }

    var current: Int { count.withLock { $0 } }

    func enter() -> Bool {
        count.withLock { count in
            guard count < limit else { return false }
            count += 1
            return true
        }
    }

    func leave() { count.withLock { $0 -= 1 } }
}

/// One connection: one request, one response, close.
private final class RequestHandler: ChannelInboundHandler {
    typealias InboundIn = NIOHTTPServerRequestFull
    typealias OutboundOut = HTTPServerResponsePart

    private let service: any ControlService
    private let refusal: ControlFailure?
    private let changes: NIOThreadPool
    private let looks: NIOThreadPool
    private let answering: BoundedCount
    private let logger: Logger
    private var deadline: Scheduled<Void>?
    private var isAnswering = false

    init(
        _ service: any ControlService, _ refusal: ControlFailure?, _ changes: NIOThreadPool,
        _ looks: NIOThreadPool, _ answering: BoundedCount, _ logger: Logger
    ) {
        self.answering = answering
        self.service = service
        self.refusal = refusal
        self.changes = changes
        self.looks = looks
        self.logger = logger
    }

    func handlerAdded(context: ChannelHandlerContext) {
        let channel = context.channel
        deadline = context.eventLoop.scheduleTask(in: ControlServer.requestDeadline) {
            channel.close(promise: nil)
        }
    }

    func handlerRemoved(context: ChannelHandlerContext) { deadline?.cancel() }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        // A second request on the connection is not read: the first response closes it.
        guard !isAnswering else { return }
        isAnswering = true
        deadline?.cancel()
        let request = unwrapInboundIn(data)
        if let refusal { return respond(context, .failure(refusal)) }
        let route: ControlProtocol.Route
        do throws(ControlFailure) {
            route = try ControlProtocol.Route(
                method: request.head.method.rawValue, path: request.head.uri)
        } catch {
            return respond(context, .failure(error))
        }
        let body = request.body.map { Data($0.readableBytesView) } ?? Data()
        let pool = request.head.method == .GET ? looks : changes
        guard answering.enter() else {
            let busy = ControlFailure(.unavailable, "too many requests at once", hint: "try again")
            return respond(context, .failure(busy))
        }
        let bound = NIOLoopBound((handler: self, context: context), eventLoop: context.eventLoop)
        pool.runIfActive(eventLoop: context.eventLoop) { [service, logger] in
            RequestHandler.answer(service, route, body, logger)
        }.whenComplete { [answering] result in
            // What follows is on its way before this event loop does anything else.
            defer { answering.leave() }
            let (handler, context) = bound.value
            switch result {
            case .success(let answer): handler.respond(context, answer)
            case .failure:
                handler.respond(
                    context,
                    .failure(
                        ControlFailure(
                            .unavailable, "the daemon is stopping", hint: "start it again")))
            }
        }
    }

    /// Nothing more is asked; what was, is answered.
    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if event as? ChannelEvent == .inputClosed, !isAnswering { context.close(promise: nil) }
        context.fireUserInboundEventTriggered(event)
    }

    private static func answer(
        _ service: any ControlService, _ route: ControlProtocol.Route, _ body: Data,
        _ logger: Logger
    ) -> Result<Data, ControlFailure> {
        let result = Result { () throws(ControlFailure) in try service.answer(route, body) }
        if route.method != "GET" {
            switch result {
            case .success: logger.info("\(route.method) \(route.path): done")
            case .failure(let failure):
                logger.notice("\(route.method) \(route.path): \(failure.what)")
            }
        }
        return result
    }

    private func respond(_ context: ChannelHandlerContext, _ answer: Result<Data, ControlFailure>) {
        let status: HTTPResponseStatus
        let body: Data
        switch answer {
        case .success(let data): (status, body) = (.ok, data)
        case .failure(let failure):
            status = HTTPResponseStatus(statusCode: failure.httpStatus)
            body = (try? ControlJSON.encode(FailureMessage(failure))) ?? Data()
        }
        var head = HTTPResponseHead(version: .http1_1, status: status)
        head.headers = [
            "Content-Type": "application/json", "Content-Length": "\(body.count)",
            "Connection": "close",
        ]
        context.write(wrapOutboundOut(.head(head)), promise: nil)
        let buffer = context.channel.allocator.buffer(bytes: body)
        context.write(wrapOutboundOut(.body(.byteBuffer(buffer))), promise: nil)
        let channel = context.channel
        context.writeAndFlush(wrapOutboundOut(.end(nil))).whenComplete { _ in
            channel.close(promise: nil)
        }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        context.close(promise: nil)
    }
}
