"""How long a killed daemon takes to serve again with a write-back cache that is in use: the
measurement behind `tools/bench replay`. See its usage."""

import json
import os
import subprocess
import time

from measuring import GIB, MIB, Poold, end, fio, fio_command, middle_and_spread, started
from serving import seconds_to_serve

TARGET = "replay/space"
SPACE_BYTES = 4 * GIB
CACHE_BYTES = GIB
AIM_SECONDS = 5
# Long enough for the cache to be as full as these writes get it: from half of it on the daemon makes
# room.
WRITE_SECONDS = 30


def replay(options):
    """Writes to the cache of a parity1 space, kills the daemon meanwhile and starts it again."""
    poold = Poold(options, "replay")
    core = max(os.sched_getaffinity(0))
    try:
        poold.start()
        disks = [os.path.join(options.disks, f"disk-replay{number}") for number in range(3)]
        poold.control("pool", "create", "replay", *disks, "--create-size", "6G")
        poold.control(
            "space", "create", TARGET, "--size", str(SPACE_BYTES), "--resiliency", "parity1",
            "--write-cache", str(CACHE_BYTES))
        # What is written then are overwrites of stripes.
        fio(core, [*client(poold), "--rw=write", "--bs=1m", "--iodepth=4"])
        runs = []
        for _ in range(options.repeats):
            cached = kill_under_writes(poold, core)
            seconds = seconds_to_serve(poold, TARGET)
            runs.append({"cached_bytes": cached, "left_bytes": dirty_bytes(poold),
                         "seconds": seconds})
        seconds, spread = middle_and_spread([run["seconds"] for run in runs])
        return {"runs": runs, "seconds": seconds, "spread": spread, "aim": AIM_SECONDS}
    finally:
        poold.stop()


def client(poold):
    return ["--ioengine=nbd", f"--uri={poold.uri(TARGET)}", f"--size={SPACE_BYTES}"]


def dirty_bytes(poold):
    status = json.loads(poold.control("space", "status", TARGET, "--json"))
    return status["write_cache_dirty_bytes"]


def kill_under_writes(poold, core):
    """Returns the bytes that lay in the cache."""
    command = fio_command(
        core, [*client(poold), "--rw=randwrite", "--bs=4k", "--iodepth=32"], 2 * WRITE_SECONDS)
    writer = started(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(WRITE_SECONDS)
        cached = dirty_bytes(poold)
        poold.kill()
        return cached
    finally:
        end(writer, 5)


def print_replay(result):
    print(f"\nparity1 of 3 columns with a write-back cache of {CACHE_BYTES // MIB} MiB, killed"
          " under 4 KiB random writes\n")
    for run in result["runs"]:
        print(f"  {run['cached_bytes'] / MIB:7.0f} MiB in it, serves after {run['seconds']:6.2f} s,"
              f" with {run['left_bytes'] / MIB:5.0f} MiB still in it")
    print(f"  median {result['seconds']:.2f} s, spread {result['spread']:.0%},"
          f" aim {result['aim']} s")
