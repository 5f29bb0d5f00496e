"""What parity costs against a simple space of the same disks: the measurement behind
`tools/bench parity`. See its usage."""

import json
import os
import sys
import time

from measuring import BenchError, Poold, fio, middle_and_spread

# One parity in five, as the aims say.
COLUMNS = 5
# The spaces, and the pools that they are in: one of those lacks a disk.
SIMPLE, PARITY, DEGRADED = "simple", "parity1", "a disk away"
TARGETS = {SIMPLE: "whole/simple", PARITY: "whole/parity1", DEGRADED: "degraded/parity1"}
# A write cache that a burst fits in, and one that it exceeds several times.
LARGE, SMALL = "1G", "32M"
RANDOM_WRITES = ["--rw=randwrite", "--bs=4k", "--iodepth=32"]
# What is done, as fio says it, with which cache, and the least of the simple space's rate that is
# aimed at.
WORKLOADS = {
    "whole grains, sequential writes": (["--rw=write", "--bs=1m", "--iodepth=4"], LARGE, 0.6),
    "128 KiB sequential writes, depth 1": (["--rw=write", "--bs=128k", "--iodepth=1"], LARGE, 0.4),
    "4 KiB random writes, depth 32": (RANDOM_WRITES, LARGE, 0.5),
    "the same, a cache that is too small": (RANDOM_WRITES, SMALL, 0.25),
    "4 KiB random reads, depth 32": (["--rw=randread", "--bs=4k", "--iodepth=32"], LARGE, None),
    "sequential reads": (["--rw=read", "--bs=1m", "--iodepth=4"], LARGE, None),
}


def parity(options):
    """Every workload on each space in turn, round after round, on one core."""
    core = max(os.sched_getaffinity(0))
    poold = Poold(options, "parity", core)
    try:
        poold.start()
        for pool in ("whole", "degraded"):
            disks = [os.path.join(options.disks, f"disk-{pool}{n}") for n in range(COLUMNS)]
            poold.control("pool", "create", pool, *disks, "--create-size", "2G")
        for target in TARGETS.values():
            poold.control(
                "space", "create", target, "--size", "1G", "--resiliency",
                target.partition("/")[2], "--columns", str(COLUMNS))
            # What is measured are overwrites and real reads.
            measure(core, poold, target, WORKLOADS["whole grains, sequential writes"][0], None)
        poold.control("disk", "offline", "degraded", "disk1")
        runs = []
        for number in range(options.repeats):
            for workload, (arguments, cache, _) in WORKLOADS.items():
                rates = {}
                for name, target in TARGETS.items():
                    if name != SIMPLE:
                        empty_cache(poold, target, cache)
                    rates[name] = measure(core, poold, target, arguments, options.seconds)
                runs.append({"round": number, "workload": workload, "bytes_per_second": rates})
            print(f"  round {number + 1} of {options.repeats} done", file=sys.stderr, flush=True)
        return {"core": core, "runs": runs, "summary": summarise(runs)}
    finally:
        poold.stop()


def empty_cache(poold, target, size):
    """Waits until nothing lies in the cache of a space, which then has another size."""
    poold.control("space", "set", target, f"write-cache={size}")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        status = json.loads(poold.control("space", "status", target, "--json"))
        if status["write_cache_dirty_bytes"] == 0:
            return
        time.sleep(0.2)
    raise BenchError(f"the cache of {target} is never empty")


def measure(core, poold, target, arguments, seconds):
    job = fio(core, ["--ioengine=nbd", f"--uri={poold.uri(target)}", *arguments], seconds)
    return max(job["read"]["bw_bytes"], job["write"]["bw_bytes"])


def summarise(runs):
    summary = {}
    for workload, (_, _, aim) in WORKLOADS.items():
        rates = [run["bytes_per_second"] for run in runs if run["workload"] == workload]
        simple, _ = middle_and_spread([rate[SIMPLE] for rate in rates])
        summary[workload] = {"simple": simple, "aim": aim}
        for name in (PARITY, DEGRADED):
            ratio, spread = middle_and_spread([rate[name] / rate[SIMPLE] for rate in rates])
            summary[workload][name] = {"ratio": ratio, "spread": spread}
    return summary


def print_parity(result):
    print(f"\nparity1 of {COLUMNS} columns, and with one of its disks away, as ratios to a simple"
          f" space\nof {COLUMNS}; one core for client and server\n")
    print(f"{'':36}{'simple MB/s':>12}{PARITY:>9}{'spread':>8}{'aim':>5}{DEGRADED:>13}"
          f"{'spread':>8}")
    for workload, entry in result["summary"].items():
        aim = "" if entry["aim"] is None else f"{entry['aim']:.2f}"
        ratios = [f"{entry[name]['ratio']:.2f}" for name in (PARITY, DEGRADED)]
        spreads = [f"{entry[name]['spread']:.0%}" for name in (PARITY, DEGRADED)]
        print(f"{workload:36}{entry['simple'] / 1e6:12.1f}{ratios[0]:>9}{spreads[0]:>8}{aim:>5}"
              f"{ratios[1]:>13}{spreads[1]:>8}")
