"""Disks that ail: reads from a mirror one of whose disks takes a second for each, and rebuilding
what a lost disk held, with clients at work and without.

The disks are loop devices over memory; how fast they are, the kernel's block throttle says for this
process and those that it starts. Needs root, and the blkio controller of control groups.
"""

import contextlib
import json
import os
import statistics
import time

from loops import loop_disks, throttle
from measuring import GIB, MIB, BenchError, Poold, fio, middle_and_spread

DISK_BYTES = 3 * GIB
READ_BYTES = 2 * GIB
# Enough that a rebuild goes on for longer than its clients are measured, however fast it is.
REBUILT_BYTES = 3 * GIB
DISK_RATE = 60 * MIB
# Of the clients, requests in a second.
READ_RATE, WRITE_RATE = 700, 300
# How many of a phase's requests have to be slower than its 99th percentile for that to say much.
FEWEST_SLOW = 40
DIRECTIONS = ("read", "write")
PATIENCE_SECONDS = 600


def percentile(report, direction):
    """The 99th, in microseconds."""
    return report[direction]["clat_ns"]["percentile"]["99.000000"] / 1000


def job(uri, rw, depth, *more):
    return ["--ioengine=nbd", f"--uri={uri}", f"--rw={rw}", "--bs=4k", f"--iodepth={depth}", *more]


def fill(poold, core, size_bytes):
    fio(core, ["--ioengine=nbd", f"--uri={poold.uri('bench/space')}", "--rw=write", "--bs=1M",
               "--iodepth=8", f"--size={size_bytes}", "--end_fsync=1"])


# ---------------------------------------------------------------- a slow disk


def slow(options):
    core = os.cpu_count() - 1
    with throttle(options) as limits, loop_disks(options, 2, DISK_BYTES) as loops:
        poold = Poold(options, "slow")
        try:
            poold.start()
            poold.control("pool", "create", "bench", *(loop.device for loop in loops))
            poold.control(
                "space", "create", "bench/space", "--size", "4G", "--resiliency", "mirror2")
            fill(poold, core, READ_BYTES)
        finally:
            poold.stop()
        runs = {"healthy": [], "slow": []}
        for _ in range(options.pairs):
            for kind, iops in (("healthy", 0), ("slow", 1)):
                runs[kind].append(read_mirror(options, poold, limits, loops[1], iops, core))
        return {"runs": runs}


def read_mirror(options, poold, limits, loop, iops, core):
    """From a daemon that knows nothing of its disks yet."""
    with contextlib.ExitStack() as left:
        left.callback(poold.stop)
        # Before it is stopped: what a stop writes is not to wait.
        left.callback(limits.limit, loop, "read_iops", 0)
        poold.start()
        limits.limit(loop, "read_iops", iops)
        report = fio(core, job(poold.uri("bench/space"), "randread", 4), options.seconds)
        return {"p99_us": percentile(report, "read"), "iops": report["read"]["iops"]}


def print_slow(result):
    runs = result["runs"]
    print("\n4 KiB random reads of a mirror2 at depth 4, one of its disks healthy, or taking a"
          " second for each read\n")
    for kind, some in runs.items():
        middle, spread = middle_and_spread([run["p99_us"] for run in some])
        iops = statistics.median(run["iops"] for run in some)
        print(f"  {kind:8}  p99 {middle:8.0f} us (spread {spread:4.0%})   {iops:8.0f} IOPS")
    ratios = [b["p99_us"] / a["p99_us"] for a, b in zip(runs["healthy"], runs["slow"])]
    middle, spread = middle_and_spread(ratios)
    print(f"  ratio of the p99   {middle:.2f} (spread {spread:.0%}, {len(ratios)} pairs)")


# ---------------------------------------------------------------- a lost disk


def rebuild(options):
    core = os.cpu_count() - 1
    result = {"disk_bytes_per_second": DISK_RATE, "idle": [], "load": []}
    with throttle(options) as limits, loop_disks(options, 5, DISK_BYTES) as loops:
        for _ in range(3):
            result["idle"].append(with_pool(options, limits, loops, core, rebuild_idle))
        for _ in range(options.pairs):
            result["load"].append(with_pool(options, limits, loops, core, rebuild_under_load))
    return result


def limit_all(limits, loops, rate):
    for loop in loops:
        for what in ("read_bps", "write_bps"):
            limits.limit(loop, what, rate)


def with_pool(options, limits, loops, core, measure):
    """A pool that lacks one of its disks, not rebuilt yet, on disks as slow as they are to be."""
    poold = Poold(options, f"rebuild-{time.monotonic_ns()}")
    with contextlib.ExitStack() as left:
        left.callback(poold.stop)
        left.callback(limit_all, limits, loops, 0)
        poold.start()
        devices = [loop.device for loop in loops]
        poold.control("pool", "create", "bench", *devices, "--force")
        poold.control(
            "space", "create", "bench/space", "--size", "4G", "--resiliency", "mirror2")
        fill(poold, core, REBUILT_BYTES)
        poold.control("disk", "offline", "bench", "disk5")
        limit_all(limits, loops, DISK_RATE)
        return measure(options, poold, loops[:4], core)


class Written:
    """What reaches some disks from here on, and in how long."""

    def __init__(self, loops):
        self.loops = loops
        self.before, self.begun = self.total(), time.monotonic()

    def total(self):
        return sum(loop.written_bytes() for loop in self.loops)

    def so_far(self):
        seconds = time.monotonic() - self.begun
        return {"seconds": seconds, "written_bytes": self.total() - self.before}


def rebuild_idle(options, poold, loops, core):
    written = Written(loops)
    poold.control("disk", "retire", "bench", "disk5")
    wait_until_rebuilt(poold)
    return written.so_far()


def rebuild_under_load(options, poold, loops, core):
    uri = poold.uri("bench/space")
    clients = job(uri, "randrw", 1, "--rwmixread=70", f"--rate_iops={READ_RATE},{WRITE_RATE}")
    written = Written(loops)
    quiet = fio(core, clients, options.seconds)
    share = written.so_far()
    poold.control("disk", "retire", "bench", "disk5")
    written = Written(loops)
    busy = fio(core, clients, options.seconds)
    both = written.so_far()
    if is_rebuilt(poold):
        raise BenchError("the rebuild was over before it was measured: fewer --seconds")
    rates = [some["written_bytes"] / some["seconds"] for some in (both, share)]
    reports = {"quiet": quiet, "rebuilding": busy}
    return {
        **{kind: {direction: percentile(report, direction) for direction in DIRECTIONS}
           for kind, report in reports.items()},
        "requests": {kind: {direction: report[direction]["total_ios"] for direction in DIRECTIONS}
                     for kind, report in reports.items()},
        "written": {"quiet": share, "rebuilding": both},
        # What the clients write has the same part in both.
        "rebuild_bytes_per_second": rates[0] - rates[1],
    }


def is_rebuilt(poold):
    """Whether the disk is emptied, and nothing else under way.

    Raises: BenchError where a job has failed, or is blocked.
    """
    jobs = json.loads(poold.control("pool", "status", "bench", "--json"))["jobs"]
    for found in jobs:
        if found["state"] in ("failed", "blocked"):
            raise BenchError(f"the {found['kind']} is {found['state']}: {found['reason']}")
    if not any(found["kind"] == "retire" for found in jobs):
        raise BenchError(f"there is no rebuild among {jobs}")
    return all(found["state"] == "done" for found in jobs)


def wait_until_rebuilt(poold):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_rebuilt(poold):
        if time.monotonic() > deadline:
            raise BenchError(f"not rebuilt after {PATIENCE_SECONDS} s")
        time.sleep(0.05)


def print_rebuild(result):
    print(f"\nrebuilding what one of five disks held, mirror2, {REBUILT_BYTES // MIB} MiB of data,"
          f" each disk {DISK_RATE // MIB} MiB/s\n")
    # What the throttle lets four of them write.
    most = 4 * result["disk_bytes_per_second"]
    used = [idle["written_bytes"] / idle["seconds"] / most for idle in result["idle"]]
    middle, spread = middle_and_spread(used)
    seconds = statistics.median(idle["seconds"] for idle in result["idle"])
    print(f"  nobody else at work: {seconds:.1f} s, writes at {middle:.2f} of what the four that"
          f" are left let through (spread {spread:.0%})")
    for direction in DIRECTIONS:
        ratios = [pair["rebuilding"][direction] / pair["quiet"][direction]
                  for pair in result["load"]]
        middle, spread = middle_and_spread(ratios)
        quiet = statistics.median(pair["quiet"][direction] for pair in result["load"])
        print(f"  p99 of 4 KiB {direction}s: {middle:.2f} of what it is without (spread"
              f" {spread:.0%}, {len(ratios)} pairs; {quiet:.0f} us without)")
        fewest = min(count[direction] for pair in result["load"]
                     for count in pair["requests"].values())
        if fewest // 100 < FEWEST_SLOW:
            print(f"    too few to tell: {fewest // 100} of {fewest} requests are slower than that")
    rates = [pair["rebuild_bytes_per_second"] / MIB for pair in result["load"]]
    middle, spread = middle_and_spread(rates)
    print(f"  meanwhile the rebuild wrote {middle:.0f} MiB/s of the {most / MIB:.0f} that the disks"
          f" let through (spread {spread:.0%})")
