"""Disks that ail: reads from a mirror one of whose disks takes a second for each, and rebuilding what
a lost disk held, with clients at work and without.

The disks are loop devices over memory; how fast they are, the kernel's block throttle says for this
process and those that it starts. Needs root, and the blkio controller of control groups.
"""

import json
import os
import statistics
import time

from blip import Loop
from measuring import GIB, MIB, BenchError, Poold, empty_file, fio, middle_and_spread

BLKIO = "/sys/fs/cgroup/blkio"
DISK_BYTES = 3 * GIB
DATA_BYTES = 2 * GIB
DISK_RATE = 60 * MIB
PATIENCE_SECONDS = 600


class Throttle:
    """A control group that this process, and whatever it starts, is in."""

    def __init__(self):
        self.folder = os.path.join(BLKIO, f"poold-bench-{os.getpid()}")
        try:
            os.mkdir(self.folder)
            self.write("cgroup.procs", str(os.getpid()))
        except OSError as problem:
            raise BenchError(f"no block throttle here: {problem}") from problem

    def write(self, name, text):
        with open(os.path.join(self.folder, name), "w", encoding="ascii") as file:
            file.write(text)

    def limit(self, loop, what, value):
        """`what`: read_iops, write_bps ...; `value` 0: none."""
        number = os.stat(loop.device).st_rdev
        place = f"{os.major(number)}:{os.minor(number)}"
        self.write(f"blkio.throttle.{what}_device", f"{place} {value}")

    def end(self):
        with open(os.path.join(BLKIO, "cgroup.procs"), "w", encoding="ascii") as file:
            file.write(str(os.getpid()))
        for _ in range(50):
            try:
                return os.rmdir(self.folder)
            except OSError:
                time.sleep(0.1)


class Disks:
    def __init__(self, options, count):
        self.files, self.loops = [], []
        try:
            for number in range(count):
                path = empty_file(os.path.join(options.disks, f"disk{number}"), DISK_BYTES)
                self.files.append(path)
                self.loops.append(Loop(path))
        except BenchError:
            self.end()
            raise

    def devices(self):
        return [loop.device for loop in self.loops]

    def end(self):
        for loop in self.loops:
            loop.detach()
        for path in self.files:
            os.remove(path)


def percentile(report, direction):
    """The 99th, in microseconds."""
    return report[direction]["clat_ns"]["percentile"]["99.000000"] / 1000


def job(uri, rw, depth, *more):
    return ["--ioengine=nbd", f"--uri={uri}", f"--rw={rw}", "--bs=4k", f"--iodepth={depth}", *more]


def fill(poold, core):
    fio(core, ["--ioengine=nbd", f"--uri={poold.uri('bench/space')}", "--rw=write", "--bs=1M",
               "--iodepth=8", f"--size={DATA_BYTES}", "--end_fsync=1"])


# ---------------------------------------------------------------- a slow disk


def slow(options):
    core = os.cpu_count() - 1
    throttle, disks = Throttle(), None
    try:
        disks = Disks(options, 2)
        poold = Poold(options, "slow")
        try:
            poold.start()
            poold.control("pool", "create", "bench", *disks.devices())
            poold.control(
                "space", "create", "bench/space", "--size", "4G", "--resiliency", "mirror2")
            fill(poold, core)
        finally:
            poold.stop()
        runs = {"healthy": [], "slow": []}
        for _ in range(options.pairs):
            for kind, iops in (("healthy", 0), ("slow", 1)):
                runs[kind].append(read_mirror(options, poold, throttle, disks, iops, core))
        return {"runs": runs}
    finally:
        if disks is not None:
            disks.end()
        throttle.end()


def read_mirror(options, poold, throttle, disks, iops, core):
    """From a daemon that knows nothing of its disks yet."""
    try:
        poold.start()
        throttle.limit(disks.loops[1], "read_iops", iops)
        report = fio(core, job(poold.uri("bench/space"), "randread", 4), options.seconds)
        return {"p99_us": percentile(report, "read"), "iops": report["read"]["iops"]}
    finally:
        throttle.limit(disks.loops[1], "read_iops", 0)
        poold.stop()


def print_slow(result):
    runs = result["runs"]
    print("\n4 KiB random reads of a mirror2 at depth 4, one of its disks healthy, or taking a second"
          " for each read\n")
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
    throttle, disks = Throttle(), None
    try:
        disks = Disks(options, 5)
        result = {"disk_bytes_per_second": DISK_RATE, "idle": [], "load": []}
        for _ in range(3):
            result["idle"].append(with_pool(options, throttle, disks, core, rebuild_idle))
        for _ in range(options.pairs):
            result["load"].append(with_pool(options, throttle, disks, core, rebuild_under_load))
        return result
    finally:
        if disks is not None:
            disks.end()
        throttle.end()


def limit_all(throttle, disks, rate):
    for loop in disks.loops:
        for what in ("read_bps", "write_bps"):
            throttle.limit(loop, what, rate)


def with_pool(options, throttle, disks, core, measure):
    """A pool that lacks one of its disks, not rebuilt yet, on disks that are as slow as they are."""
    poold = Poold(options, f"rebuild-{time.monotonic_ns()}")
    try:
        poold.start()
        poold.control("pool", "create", "bench", *disks.devices(), "--force")
        poold.control(
            "space", "create", "bench/space", "--size", "4G", "--resiliency", "mirror2")
        fill(poold, core)
        poold.control("disk", "offline", "bench", "disk5")
        limit_all(throttle, disks, DISK_RATE)
        return measure(options, poold, disks, core)
    finally:
        limit_all(throttle, disks, 0)
        poold.stop()


def rebuild_idle(options, poold, disks, core):
    before = sum(loop.written_bytes() for loop in disks.loops[:4])
    begun = time.monotonic()
    poold.control("disk", "retire", "bench", "disk5")
    wait_until_whole(poold)
    seconds = time.monotonic() - begun
    written = sum(loop.written_bytes() for loop in disks.loops[:4]) - before
    return {"seconds": seconds, "written_bytes": written}


def rebuild_under_load(options, poold, disks, core):
    uri = poold.uri("bench/space")
    clients = job(uri, "randrw", 1, "--rwmixread=70", "--rate_iops=200,100")
    quiet = fio(core, clients, options.seconds)
    poold.control("disk", "retire", "bench", "disk5")
    busy = fio(core, clients, options.seconds)
    if is_whole(poold):
        raise BenchError("the rebuild was over before it was measured: fewer --seconds")
    return {
        kind: {direction: percentile(report, direction) for direction in ("read", "write")}
        for kind, report in (("quiet", quiet), ("rebuilding", busy))
    }


def is_whole(poold):
    pool = json.loads(poold.control("pool", "status", "bench", "--json"))
    return not any(job["state"] in ("running", "waiting") for job in pool.get("jobs", []))


def wait_until_whole(poold):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_whole(poold):
        if time.monotonic() > deadline:
            raise BenchError(f"not rebuilt after {PATIENCE_SECONDS} s")
        time.sleep(0.05)


def print_rebuild(result):
    print(f"\nrebuilding what one of five disks held, mirror2, {DATA_BYTES // MIB} MiB of data, each"
          f" disk {DISK_RATE // MIB} MiB/s\n")
    # What the throttle lets four of them write.
    most = 4 * result["disk_bytes_per_second"]
    used = [idle["written_bytes"] / idle["seconds"] / most for idle in result["idle"]]
    middle, spread = middle_and_spread(used)
    seconds = statistics.median(idle["seconds"] for idle in result["idle"])
    print(f"  nobody else at work: {seconds:.1f} s, writes at {middle:.2f} of what the four that are"
          f" left let through (spread {spread:.0%}); each copy is written anew")
    for direction in ("read", "write"):
        ratios = [pair["rebuilding"][direction] / pair["quiet"][direction]
                  for pair in result["load"]]
        middle, spread = middle_and_spread(ratios)
        quiet = statistics.median(pair["quiet"][direction] for pair in result["load"])
        print(f"  p99 of 4 KiB {direction}s: {middle:.2f} of what it is without (spread {spread:.0%},"
              f" {len(ratios)} pairs; {quiet:.0f} us without)")
