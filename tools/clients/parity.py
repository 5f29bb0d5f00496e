"""What parity costs against a simple space of the same disks: the measurement behind
`tools/bench parity`. See its usage."""

import os
import sys

from measuring import Poold, fio, middle_and_spread

# One parity in five, as the aims say.
COLUMNS = 5
SPACES = ("simple", "parity1")
# What is done, as fio says it, and the least of the simple space's rate that is aimed at.
WORKLOADS = {
    "whole grains, sequential writes": (["--rw=write", "--bs=1m", "--iodepth=4"], 0.6),
    "128 KiB sequential writes, depth 1": (["--rw=write", "--bs=128k", "--iodepth=1"], 0.4),
    "4 KiB random writes, depth 32": (["--rw=randwrite", "--bs=4k", "--iodepth=32"], 0.5),
    "4 KiB random reads, depth 32": (["--rw=randread", "--bs=4k", "--iodepth=32"], None),
    "sequential reads": (["--rw=read", "--bs=1m", "--iodepth=4"], None),
}


def parity(options):
    """Every workload on each space in turn, round after round, on one core."""
    core = max(os.sched_getaffinity(0))
    poold = Poold(options, "parity", core)
    try:
        poold.start()
        disks = [os.path.join(options.disks, f"disk{number}") for number in range(COLUMNS)]
        poold.control("pool", "create", "bench", *disks, "--create-size", "2G")
        for name in SPACES:
            poold.control(
                "space", "create", f"bench/{name}", "--size", "1G", "--resiliency", name,
                "--columns", str(COLUMNS))
            # What is measured are overwrites and real reads.
            measure(core, poold, name, WORKLOADS["whole grains, sequential writes"][0], None)
        runs = []
        for number in range(options.repeats):
            for workload, (arguments, _) in WORKLOADS.items():
                rates = {
                    name: measure(core, poold, name, arguments, options.seconds)
                    for name in SPACES
                }
                runs.append({"round": number, "workload": workload, "bytes_per_second": rates})
            print(f"  round {number + 1} of {options.repeats} done", file=sys.stderr, flush=True)
        return {"core": core, "runs": runs, "summary": summarise(runs)}
    finally:
        poold.stop()


def measure(core, poold, name, arguments, seconds):
    uri = poold.uri(f"bench/{name}")
    job = fio(core, ["--ioengine=nbd", f"--uri={uri}", *arguments], seconds)
    return max(job["read"]["bw_bytes"], job["write"]["bw_bytes"])


def summarise(runs):
    summary = {}
    for workload, (_, aim) in WORKLOADS.items():
        rates = [run["bytes_per_second"] for run in runs if run["workload"] == workload]
        simple, _ = middle_and_spread([rate["simple"] for rate in rates])
        ratio, spread = middle_and_spread([rate["parity1"] / rate["simple"] for rate in rates])
        summary[workload] = {"simple": simple, "ratio": ratio, "spread": spread, "aim": aim}
    return summary


def print_parity(result):
    print(f"\nparity1 of {COLUMNS} columns against a simple space of {COLUMNS}, one core for client"
          " and server\n")
    print(f"{'':38}{'simple MB/s':>12}{'ratio':>8}{'spread':>8}{'aim':>6}")
    for workload, entry in result["summary"].items():
        aim = "" if entry["aim"] is None else f"{entry['aim']:.1f}"
        print(f"{workload:38}{entry['simple'] / 1e6:12.1f}{entry['ratio']:8.2f}"
              f"{entry['spread']:8.0%}{aim:>6}")
