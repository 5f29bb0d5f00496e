#!/usr/bin/python3
"""The measurements behind tools/bench. See its usage.

Rules: client and server share one core, because a wake-up across cores costs more than the work;
the servers take turns within each round, so that a noisy minute hits all of them; medians and
spreads are printed, and ratios only between figures of the same run.
"""

import argparse
import json
import os
import platform
import resource
import signal
import statistics
import subprocess
import sys
import time

import nbd

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
GIB = 1 << 30
MIB = 1 << 20
TICKS = os.sysconf("SC_CLK_TCK")
SPAN_BYTES = GIB // 2


class BenchError(Exception):
    pass


def cpu_seconds(pid):
    """CPU a process has used, all its threads and the kernel's work for it."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def cpu_seconds_fine(pid):
    """Likewise in nanosecond steps, for the threads that are there now."""
    total = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/schedstat", encoding="ascii") as file:
            total += int(file.read().split()[0])
    return total / 1e9


def memory_bytes(pid, field="VmRSS"):
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        for line in file:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    raise BenchError(f"no {field} of process {pid}")


def pinned(core, command):
    return ["taskset", "-c", str(core), *command]


class Poold:
    def __init__(self, options, name, core=None):
        self.bin = options.bin
        self.directory = os.path.join(options.scratch, name)
        self.id_file = os.path.join(options.scratch, "poold.pid")
        self.core = core
        self.log = open(os.path.join(options.scratch, "poold.log"), "ab")
        self.environment = dict(os.environ)
        self.process = None

    @property
    def socket(self):
        return os.path.join(self.directory, "nbd.sock")

    @property
    def pid(self):
        return self.process.pid

    def uri(self, export):
        return f"nbd+unix:///{export}?socket={self.socket}"

    def control(self, *arguments):
        command = [os.path.join(self.bin, "poolctl"), *arguments, "--dir", self.directory]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if done.returncode != 0:
            raise BenchError(f"poolctl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def launch(self):
        command = [os.path.join(self.bin, "poold"), "--dir", self.directory]
        if self.core is not None:
            # taskset becomes poold: the id is the daemon's.
            command = pinned(self.core, command)
        self.process = subprocess.Popen(
            command, stderr=self.log, stdin=subprocess.DEVNULL, env=self.environment
        )
        # Should this script be killed itself, whoever cleans the scratch folder finds the id here.
        with open(self.id_file, "w", encoding="ascii") as file:
            file.write(str(self.process.pid))

    def start(self):
        """Starts it. Returns the seconds until it answered."""
        begun = time.monotonic()
        self.launch()
        while time.monotonic() < begun + 300:
            if self.process.poll() is not None:
                raise BenchError(f"poold ended with status {self.process.returncode}")
            try:
                self.control("pool", "ls")
                return time.monotonic() - begun
            except BenchError:
                time.sleep(0.01)
        raise BenchError("poold did not answer within 300 s")

    def seconds_to_serve(self, export):
        """Starts it. Returns the seconds until a client has read a block of `export`."""
        begun = time.monotonic()
        self.launch()
        while time.monotonic() < begun + 300:
            if self.process.poll() is not None:
                raise BenchError(f"poold ended with status {self.process.returncode}")
            try:
                handle = connect(self.socket, export)
                handle.pread(4096, 0)
                seconds = time.monotonic() - begun
                handle.shutdown()
                return seconds
            except nbd.Error:
                time.sleep(0.005)
        raise BenchError("poold did not serve within 300 s")

    def stop(self):
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def kill(self):
        self.process.kill()
        self.process.wait()


class StorageDaemon:
    """qemu-storage-daemon with one file, at its best: io_uring, no page cache."""

    def __init__(self, options, core, path):
        self.socket = os.path.join(options.scratch, "qemu.sock")
        self.process = None
        self.command = pinned(core, [
            "qemu-storage-daemon",
            "--blockdev",
            f"driver=file,node-name=disk,filename={path},aio=io_uring,cache.direct=on",
            "--nbd-server",
            f"addr.type=unix,addr.path={self.socket}",
            "--export",
            "type=nbd,id=export,node-name=disk,name=disk,writable=on",
        ])

    def start(self):
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL)
        for _ in range(200):
            if os.path.exists(self.socket):
                return
            time.sleep(0.05)
        raise BenchError("qemu-storage-daemon did not come up")

    @property
    def pid(self):
        return self.process.pid

    def uri(self):
        return f"nbd+unix:///disk?socket={self.socket}"

    def stop(self):
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def connect(path, export):
    handle = nbd.NBD()
    handle.set_export_name(export)
    handle.connect_unix(path)
    return handle


def fio(core, arguments, seconds=None):
    command = ["fio", "--name=bench", "--output-format=json", f"--size={SPAN_BYTES}", *arguments]
    if seconds is not None:
        command += ["--time_based", f"--runtime={seconds}", "--norandommap", "--randrepeat=0"]
    done = subprocess.run(pinned(core, command), capture_output=True, text=True, timeout=3600)
    if done.returncode != 0:
        raise BenchError(f"fio {' '.join(arguments)}: {done.stderr.strip() or done.stdout[-500:]}")
    # libnbd may print a line of its own before the report.
    return json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]


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
    qemu = StorageDaemon(options, core, empty_file(os.path.join(options.disks, "qemu")))
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
            "qemu-storage-daemon": (qemu.uri(), qemu.pid),
        }
        runs = interleaved(options, core, targets, raw)
        return {"core": core, "runs": runs, **summarise(runs)}
    finally:
        qemu.stop()
        poold.stop()


def empty_file(path):
    with open(path, "wb") as file:
        file.truncate(SPAN_BYTES)
    return path


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
            middle = statistics.median(values)
            entry[figure] = middle
            spread = (max(values) - min(values)) / middle if middle else 0
            entry[figure + "_spread"] = spread
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
        result["start_after_kill_seconds"] = poold.seconds_to_serve("map/space")
        check_some_grains(poold, grains)
        result["rss_after_start_bytes"] = memory_bytes(poold.pid)
        poold.stop()
        result["clean_start_seconds"] = poold.seconds_to_serve("map/space")
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


def machine():
    model = "unknown"
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return {"cpu": model, "cores": os.cpu_count(), "kernel": platform.release()}


def at_least(minimum):
    def parse(text):
        value = int(text)
        if value < minimum:
            raise argparse.ArgumentTypeError(f"at least {minimum}")
        return value

    return parse


def main():
    # Ended by a signal, the daemons still are: sys.exit runs every `finally`.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("speed", "allocations", "idle", "map", "all"))
    parser.add_argument("--bin", required=True)
    parser.add_argument("--scratch", required=True)
    parser.add_argument("--disks", required=True)
    parser.add_argument("--json")
    parser.add_argument("--seconds", type=at_least(1), default=10)
    parser.add_argument("--repeats", type=at_least(3), default=5)
    parser.add_argument("--grains", type=at_least(1), default=1 << 20)
    options = parser.parse_args()
    result = {"version": 1, "machine": machine()}
    print(f"{result['machine']['cpu']}, Linux {result['machine']['kernel']}")
    try:
        for name, measure, show in (
            ("speed", speed, print_speed),
            ("allocations", allocations, print_allocations),
            ("idle", idle, print_idle),
            ("map", map_grains, print_map),
        ):
            if options.what in (name, "all"):
                result[name] = measure(options)
                show(result[name])
                remove_disks(options.disks)
    except (BenchError, nbd.Error, subprocess.TimeoutExpired) as problem:
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
