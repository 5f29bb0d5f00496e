import Glibc

/// CLOCK_MONOTONIC in nanoseconds: the shard loop's time.
public func monotonicNs() -> UInt64 {
    var time = timespec()
    unsafe clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) &* 1_000_000_000 &+ UInt64(time.tv_nsec)
}
