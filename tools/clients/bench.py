#!/usr/bin/python3
"""The measurements behind tools/bench. See its usage.

Rules: client and server share one core, because a wake-up across cores costs more than the work;
the servers take turns within each round, so that a noisy minute hits all of them; medians and
spreads are printed, and ratios only between figures of the same run.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time

import nbd

from ailing import print_rebuild, print_slow, rebuild, slow
from blip import blip, print_blip
from measuring import (
    GIB, MIB, SPAN_BYTES, BenchError, Poold, Server, at_least, cpu_seconds, cpu_seconds_fine,
    direct_file, empty_file, fio, leave_at_signals, machine, memory_bytes, middle_and_spread,
    storage_daemon_command,
)
from parity import parity, print_parity
from replay import print_replay, replay
from serving import connect, seconds_to_serve

# What needs no root.
ALL = ("speed", "allocations", "idle", "map")
MEASURE_SECONDS = 10
# Of a rebuild, so that the 99th percentile of its clients stands on enough requests.
REBUILD_SECONDS = 15
REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


# ---------------------------------------------------------------- speed


def measure_nbd(core, uri, pid, rw, seconds):
    before = cpu_seconds(pid)
    arguments = ["--ioengine=nbd", f"--uri={uri}", f"--rw={rw}", "--bs=4k", "--iodepth=32"]
    job = fio(core, arguments, seconds)
    used = cpu_seconds(pid) - before
    side = job["read" if rw == "randread" else "write"]
    return {"iops": side["iops"], "cpu_us": used * 1e6 / max(1, side["total_ios"])}


def measure_raw(core, path, rw, seconds):
    # All of fio's threads: what it reports itself leaves out the kernel's I/O workers, which the
    # servers' figures contain.
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    arguments = ["--ioengine=io_uring", "--direct=1", f"--filename={path}"]
    job = fio(core, [*arguments, f"--rw={rw}", "--bs=4k", "--iodepth=32"], seconds)
    side = job["read" if rw == "randread" else "write"]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"iops": side["iops"], "cpu_us": used * 1e6 / max(1, side["total_ios"])}


def speed(options):
    core = max(os.sched_getaffinity(0))
    raw = empty_file(os.path.join(options.disks, "raw"))
    poold = Poold(options, "speed", core)
    socket = os.path.join(options.scratch, "qemu.sock")
    disk = direct_file("disk", empty_file(os.path.join(options.disks, "qemu")))
    command = storage_daemon_command(socket, [disk], "disk")
    qemu = Server("qemu-storage-daemon", options, core, socket, command)
    try:
        poold.start()
        qemu.start()
        disks = [os.path.join(options.disks, f"disk{number}") for number in range(2)]
        poold.control("pool", "create", "bench", *disks, "--create-size", "4G")
        for name, resiliency in (("simple", "simple"), ("mirror", "mirror2")):
            size = ["--size", "1G", "--resiliency", resiliency, "--columns", "1"]
            poold.control("space", "create", f"bench/{name}", *size)
        targets = {
            "poold simple": (poold.uri("bench/simple"), poold.pid),
            "poold mirror2": (poold.uri("bench/mirror"), poold.pid),
            "qemu-storage-daemon": (qemu.uri("disk"), qemu.pid),
        }
        runs = interleaved(options, core, targets, raw)
        return {"core": core, "runs": runs, **summarise(runs)}
    finally:
        qemu.stop()
        poold.stop()


def interleaved(options, core, targets, raw):
    """Every target in turn, round after round, reads then writes."""
    # Everything is written once before: what is measured are overwrites and real reads.
    fill = ["--rw=write", "--bs=1m", "--iodepth=4"]
    for uri, _ in targets.values():
        fio(core, ["--ioengine=nbd", f"--uri={uri}", *fill])
    fio(core, ["--ioengine=io_uring", "--direct=1", f"--filename={raw}", *fill])
    runs = []
    for number in range(options.repeats):
        for rw in ("randread", "randwrite"):
            for name, (uri, pid) in targets.items():
                figures = measure_nbd(core, uri, pid, rw, options.seconds)
                runs.append({"round": number, "target": name, "rw": rw, **figures})
            figures = measure_raw(core, raw, rw, options.seconds)
            runs.append({"round": number, "target": "raw io_uring", "rw": rw, **figures})
        print(f"  round {number + 1} of {options.repeats} done", file=sys.stderr, flush=True)
    return runs


def summarise(runs):
    summary = {}
    for run in runs:
        key = f"{run['target']} {run['rw']}"
        entry = summary.setdefault(key, {"iops": [], "cpu_us": []})
        entry["iops"].append(run["iops"])
        entry["cpu_us"].append(run["cpu_us"])
    for entry in summary.values():
        for figure in ("iops", "cpu_us"):
            values = entry.pop(figure)
            entry[figure], entry[figure + "_spread"] = middle_and_spread(values)
    return {"summary": summary, "ratios": ratios(summary)}


def ratios(summary):
    def figure(target, rw, name):
        return summary[f"{target} {rw}"][name]

    found = {}
    for rw, label in (("randread", "read"), ("randwrite", "write")):
        for name, label2 in (("iops", "IOPS"), ("cpu_us", "server CPU per I/O")):
            ours = figure("poold simple", rw, name)
            found[f"simple / qemu-storage-daemon, {label} {label2}"] = ours / figure(
                "qemu-storage-daemon", rw, name
            )
    # What the second copy costs the server, against what a write costs the disk below it.
    extra = figure("poold mirror2", "randwrite", "cpu_us") - figure(
        "poold simple", "randwrite", "cpu_us"
    )
    found["(mirror2 - simple) / raw, write CPU per I/O (bound 1.2)"] = extra / figure(
        "raw io_uring", "randwrite", "cpu_us"
    )
    return found


def print_speed(result):
    print("\n4 KiB, depth 32, one core for client and server; raw CPU includes its client\n")
    print(f"{'':28}{'k IOPS':>9}{'spread':>9}{'CPU us/IO':>12}{'spread':>9}")
    for key, entry in result["summary"].items():
        print(
            f"{key:30}{entry['iops'] / 1000:7.1f}{entry['iops_spread']:9.0%}"
            f"{entry['cpu_us']:12.2f}{entry['cpu_us_spread']:9.0%}"
        )
    print()
    for key, value in result["ratios"].items():
        print(f"{key:64}{value:8.2f}")


# ---------------------------------------------------------------- allocations


def allocations(options):
    """Counts the daemon's allocations while requests are served, with a malloc of our own."""
    core = max(os.sched_getaffinity(0))
    counter = os.path.join(options.scratch, "allocations.count")
    library = os.path.join(options.scratch, "allocations.so")
    source = os.path.join(REPOSITORY, "Benchmarks", "AllocationCounter", "allocations.c")
    subprocess.run(["clang", "-shared", "-fPIC", "-O2", "-o", library, source], check=True)
    poold = Poold(options, "allocations", core)
    poold.environment |= {"ALLOCATION_COUNT": counter, "LD_PRELOAD": library}
    try:
        poold.start()
        disks = [os.path.join(options.disks, f"disk{number}") for number in range(2)]
        poold.control("pool", "create", "bench", *disks, "--create-size", "4G")
        poold.control("space", "create", "bench/mirror", "--size", "1G", "--resiliency", "mirror2")
        uri = poold.uri("bench/mirror")
        fio(core, ["--ioengine=nbd", f"--uri={uri}", "--rw=write", "--bs=1m", "--iodepth=4"])
        result = {}
        for rw in ("randread", "randwrite"):
            handle = connect(poold.socket, "bench/mirror")
            turn(handle, rw, 100_000)
            before = read_count(counter)
            turn(handle, rw, 200_000)
            result[rw] = (read_count(counter) - before) / 200_000
            handle.shutdown()
        return result
    finally:
        poold.stop()


def read_count(path):
    with open(path, "rb") as file:
        return int.from_bytes(file.read(8), "little")


def turn(handle, rw, requests):
    """4 KiB requests at depth 32, over one connection that stays."""
    buffers = {}
    for index in range(requests):
        offset = shuffled(index, SPAN_BYTES // 4096) * 4096
        buffer = nbd.Buffer(4096)
        if rw == "randread":
            cookie = handle.aio_pread(buffer, offset)
        else:
            buffer = nbd.Buffer.from_bytearray(bytearray(index.to_bytes(8, "little") * 512))
            cookie = handle.aio_pwrite(buffer, offset)
        buffers[cookie] = buffer
        while len(buffers) >= 32:
            handle.poll(-1)
            take_completed(handle, buffers)
    while buffers:
        handle.poll(-1)
        take_completed(handle, buffers)


def print_allocations(result):
    print("\nAllocations of the daemon per 4 KiB request, depth 32, mirror2, steady state\n")
    for rw, value in result.items():
        print(f"  {rw:26} {value:8.4f}")


# ---------------------------------------------------------------- idle


def idle(options):
    poold = Poold(options, "idle")
    try:
        poold.start()
        disks = [os.path.join(options.disks, f"idle{number}") for number in range(2)]
        poold.control("pool", "create", "idle", *disks, "--create-size", "2G")
        poold.control("space", "create", "idle/space", "--size", "1G", "--resiliency", "mirror2")
        seconds = max(10, options.seconds)
        result = {"rss_bytes": memory_bytes(poold.pid)}
        time.sleep(5)
        result["no_client_percent"] = idle_percent(poold.pid, seconds)
        handle = connect(poold.socket, "idle/space")
        handle.pwrite(bytes(4096), 0)
        handle.flush()
        time.sleep(5)
        result["one_client_percent"] = idle_percent(poold.pid, seconds)
        handle.shutdown()
        return result
    finally:
        poold.stop()


def idle_percent(pid, seconds):
    before = cpu_seconds_fine(pid)
    begun = time.monotonic()
    time.sleep(seconds)
    return (cpu_seconds_fine(pid) - before) / (time.monotonic() - begun) * 100


def print_idle(result):
    print("\nIdle, a pool open\n")
    print(f"  CPU, no client             {result['no_client_percent']:8.3f} %")
    print(f"  CPU, one client, silent    {result['one_client_percent']:8.3f} %")
    print(f"  memory                     {result['rss_bytes'] / MIB:8.1f} MiB")


# ---------------------------------------------------------------- map


def map_grains(options):
    grains = options.grains
    poold = Poold(options, "map")
    try:
        first_start = poold.start()
        # Sparse files: room for the grains, an eighth more, and the metadata.
        disks = [os.path.join(options.disks, f"map{number}") for number in range(4)]
        disk_bytes = (grains * MIB * 9 // 8 // 4 + 2 * GIB) // MIB * MIB
        poold.control("pool", "create", "map", *disks, "--create-size", str(disk_bytes))
        size = str(grains * MIB)
        poold.control("space", "create", "map/space", "--size", size, "--resiliency", "simple")
        before = memory_bytes(poold.pid)
        handle = connect(poold.socket, "map/space")
        begun = time.monotonic()
        touch_every_grain(handle, grains)
        handle.flush()
        seconds = time.monotonic() - begun
        handle.shutdown()
        result = {
            "grains": grains,
            "first_start_seconds": first_start,
            "write_seconds": seconds,
            "rss_before_bytes": before,
            "rss_after_bytes": memory_bytes(poold.pid),
            "disk_bytes_used": sum(os.stat(path).st_blocks * 512 for path in disks),
        }
        # Killed right behind the last flush: the journal is as full as it gets.
        poold.kill()
        result["start_after_kill_seconds"] = seconds_to_serve(poold, "map/space")
        check_some_grains(poold, grains)
        result["rss_after_start_bytes"] = memory_bytes(poold.pid)
        poold.stop()
        result["clean_start_seconds"] = seconds_to_serve(poold, "map/space")
        check_some_grains(poold, grains)
        return result
    finally:
        poold.stop()


def shuffled(index, grains):
    """A walk over all grains, once each, in no order that suits a disk or a map."""
    stride = 611_953  # Prime: it divides no count of grains but its own multiples.
    return index * (stride if grains % stride else 1) % grains


def block_of(grain):
    return grain.to_bytes(8, "little") * 512


def touch_every_grain(handle, grains):
    """Writes one 4 KiB block, at a place of its own, into each grain."""
    buffers = {}
    for index in range(grains):
        grain = shuffled(index, grains)
        buffer = nbd.Buffer.from_bytearray(bytearray(block_of(grain)))
        buffers[handle.aio_pwrite(buffer, grain * MIB + grain % 256 * 4096)] = buffer
        while len(buffers) >= 64:
            handle.poll(-1)
            take_completed(handle, buffers)
        if index % 100_000 == 99_999:
            print(f"  {index + 1} grains written", file=sys.stderr, flush=True)
    while buffers:
        handle.poll(-1)
        take_completed(handle, buffers)


def take_completed(handle, buffers):
    while buffers:
        cookie = handle.aio_peek_command_completed()
        if cookie <= 0:
            return
        handle.aio_command_completed(cookie)
        del buffers[cookie]


def check_some_grains(poold, grains):
    handle = connect(poold.socket, "map/space")
    for index in range(0, grains, max(1, grains // 2000)):
        grain = shuffled(index, grains)
        if bytes(handle.pread(4096, grain * MIB + grain % 256 * 4096)) != block_of(grain):
            raise BenchError(f"grain {grain} came back with other bytes")
    handle.shutdown()


def print_map(result):
    grains = result["grains"]
    grown = result["rss_after_bytes"] - result["rss_before_bytes"]
    started = result["rss_after_start_bytes"] - result["rss_before_bytes"]
    print(f"\n{grains} grains mapped ({grains / MIB:.2f} TiB), one block each\n")
    print(f"  written in                 {result['write_seconds']:8.1f} s")
    print(f"  memory after               {result['rss_after_bytes'] / MIB:8.1f} MiB")
    print(f"    grown by, per grain      {grown / grains:8.1f} B")
    print(f"  memory after a start       {result['rss_after_start_bytes'] / MIB:8.1f} MiB")
    print(f"    more than empty, a grain {started / grains:8.1f} B")
    print(f"  disk space used            {result['disk_bytes_used'] / GIB:8.2f} GiB")
    print(f"  start to first read        {result['start_after_kill_seconds']:8.2f} s after kill -9")
    print(f"                             {result['clean_start_seconds']:8.2f} s after a stop")


def remove_disks(folder):
    """Makes room for the next measurement: the disks are memory, as a rule."""
    for file in os.listdir(folder):
        if file.startswith(("disk", "raw", "qemu", "idle", "map")):
            path = os.path.join(folder, file)
            if os.path.isfile(path):
                os.remove(path)


def main():
    leave_at_signals()
    measurements = (
        ("speed", speed, print_speed, MEASURE_SECONDS),
        ("allocations", allocations, print_allocations, MEASURE_SECONDS),
        ("idle", idle, print_idle, MEASURE_SECONDS),
        ("map", map_grains, print_map, MEASURE_SECONDS),
        ("blip", blip, print_blip, MEASURE_SECONDS),
        ("slow", slow, print_slow, MEASURE_SECONDS),
        ("rebuild", rebuild, print_rebuild, REBUILD_SECONDS),
        ("parity", parity, print_parity, MEASURE_SECONDS),
        ("replay", replay, print_replay, MEASURE_SECONDS),
    )
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=(*(name for name, *_ in measurements), "all"))
    parser.add_argument("--bin", required=True)
    parser.add_argument("--scratch", required=True)
    parser.add_argument("--disks", required=True)
    parser.add_argument("--json")
    parser.add_argument("--seconds", type=at_least(1))
    parser.add_argument("--repeats", type=at_least(3), default=5)
    parser.add_argument("--grains", type=at_least(1), default=1 << 20)
    parser.add_argument("--away", type=at_least(1), default=10)
    parser.add_argument("--pairs", type=at_least(1), default=7)
    parser.add_argument("--rate", type=at_least(1), default=2000)
    options = parser.parse_args()
    result = {"version": 1, "machine": machine()}
    print(f"{result['machine']['cpu']}, Linux {result['machine']['kernel']}")
    try:
        given = options.seconds
        for name, measure, show, seconds in measurements:
            # The rest needs root.
            if options.what == name or options.what == "all" and name in ALL:
                options.seconds = given or seconds
                result[name] = measure(options)
                show(result[name])
                remove_disks(options.disks)
    except (BenchError, nbd.Error, OSError, subprocess.SubprocessError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        print("hint: the daemon's log is poold.log in the scratch folder", file=sys.stderr)
        return 1
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=2)
            file.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
