/// How a shard reaches the kernel. Both do the same things; see ``Ring``.
public enum DiskEngine: String, CaseIterable, Sendable {
    /// One io_uring carries disks and sockets.
    case ioUring = "io_uring"
    /// Linux AIO carries the disks, epoll the sockets: for machines that switch io_uring off, as
    /// Docker's default seccomp profile and `kernel.io_uring_disabled=2` do.
    case libaio
}
