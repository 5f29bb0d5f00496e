#!/usr/bin/python3
"""The measurements behind tools/compare-peers. See its usage.

Rules: every server is pinned to the same core, and with it its client (a wake-up across cores
costs more than the work; --cross shows it beside); within a round the servers take turns, and
every round begins with another one; medians and spreads are printed, and ratios only between
figures of one run. Everything is written once before, so that what is measured are overwrites and
real reads.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import textwrap
import time

from measuring import (
    SPAN_BYTES, BenchError, Poold, Server, at_least, cpu_seconds, cpu_seconds_of_family,
    direct_file, empty_file, fio, leave_at_signals, machine, middle_and_spread, pinned,
    storage_daemon_command,
)


@dataclasses.dataclass(frozen=True)
class Job:
    title: str
    rw: str
    block: str
    depth: int

    @property
    def is_read(self):
        return self.rw in ("read", "randread")

    @property
    def is_sequential(self):
        return not self.rw.startswith("rand")


JOBS = {
    "randread-qd1": Job("4 KiB random read, depth 1", "randread", "4k", 1),
    "randread-qd32": Job("4 KiB random read, depth 32", "randread", "4k", 32),
    "randwrite-qd1": Job("4 KiB random write, depth 1", "randwrite", "4k", 1),
    "randwrite-qd32": Job("4 KiB random write, depth 32", "randwrite", "4k", 32),
    "read-128k": Job("128 KiB sequential read, depth 8", "read", "128k", 8),
    "write-128k": Job("128 KiB sequential write, depth 8", "write", "128k", 8),
}


# ---------------------------------------------------------------- who is measured
#
# A target has a name, a note on what its figures mean, and
#
#   start(), stop()   of its server, where it has one
#   opened()          just before a client comes; returns a mark
#   used(mark)        once the client has left: CPU seconds of the server since that mark
#   fio_arguments()   what a client is told
#
# `against` names the poold space that does the same: as many copies.


class PooldSpace:
    """A space of the one daemon that serves all of them."""

    against = None

    def __init__(self, poold, engine, resiliency, copies):
        self.poold = poold
        self.resiliency = resiliency
        self.copies = copies
        self.name = "poold-" + resiliency
        self.note = (
            f"{copies} cop{'y' if copies == 1 else 'ies'}, O_DIRECT over {engine}; every block is "
            "checksummed, and verified when it is read; commits are journaled; thin"
        )
        self.commands = [poold.command]

    def start(self):
        if self.poold.process is None:
            self.poold.start()
            disks = [os.path.join(self.poold.disks, f"disk{index}") for index in range(2)]
            self.poold.control("pool", "create", "peers", *disks, "--create-size", "4G")
        self.poold.control(
            "space", "create", f"peers/{self.resiliency}", "--size", str(SPAN_BYTES),
            "--resiliency", self.resiliency, "--columns", "1",
        )

    def stop(self):
        self.poold.stop()

    def fio_arguments(self):
        return ["--ioengine=nbd", "--uri=" + self.poold.uri("peers/" + self.resiliency)]

    def opened(self):
        return cpu_seconds(self.poold.pid)

    def used(self, mark):
        return cpu_seconds(self.poold.pid) - mark


class Peer(Server):
    against = "poold-simple"
    export = ""

    def __init__(self, name, options, core, command):
        super().__init__(name, options, core, socket_path(options, name), command)
        self.commands = [command]

    def fio_arguments(self):
        return ["--ioengine=nbd", "--uri=" + self.uri(self.export)]

    def opened(self):
        return cpu_seconds(self.pid)

    def used(self, mark):
        return cpu_seconds(self.pid) - mark


class StorageDaemon(Peer):
    packages = ["qemu-storage-daemon"]
    version = ["qemu-storage-daemon", "--version"]
    export = "disk"
    note = "one file, O_DIRECT over io_uring; no checksums"

    def __init__(self, options, core, name="qsd"):
        disk = direct_file("disk", disk_file(options, name))
        super().__init__(
            name, options, core,
            storage_daemon_command(socket_path(options, name), [disk], "disk"))


class Quorum(Peer):
    """qemu-storage-daemon's mirror."""

    packages = StorageDaemon.packages
    version = StorageDaemon.version
    export = "disk"
    note = (
        "two files, O_DIRECT over io_uring, reads from the first; no checksums, and after a crash "
        "nothing knows where the copies differ"
    )
    against = "poold-mirror2"
    copies = 2

    def __init__(self, options, core, name="qsd-quorum"):
        legs = [f"copy{index}" for index in range(self.copies)]
        blockdevs = [direct_file(leg, disk_file(options, f"{name}-{leg}")) for leg in legs]
        children = ",".join(f"children.{index}={leg}" for index, leg in enumerate(legs))
        blockdevs.append(
            f"driver=quorum,node-name=disk,{children},vote-threshold=1,read-pattern=fifo")
        super().__init__(
            name, options, core,
            storage_daemon_command(socket_path(options, name), blockdevs, "disk"))


class NbdkitFile(Peer):
    packages = ["nbdkit"]
    version = ["nbdkit", "--version"]
    note = "one file through the page cache (it has no O_DIRECT); no checksums"

    def __init__(self, options, core, name="nbdkit-file"):
        command = ["nbdkit", "--foreground", "--unix", socket_path(options, name)]
        super().__init__(name, options, core, [*command, *self.plugin(options, name)])

    def plugin(self, options, name):
        return ["file", disk_file(options, name)]


class NbdkitMemory(NbdkitFile):
    note = "memory of the process: nothing is kept, there is no disk below it"

    def __init__(self, options, core, name="nbdkit-memory"):
        super().__init__(options, core, name)

    def plugin(self, options, name):
        return ["memory", str(SPAN_BYTES)]


class NbdServer(Peer):
    """nbd-server. It leaves the foreground, since it serves but one client there, and gives each
    client a process of its own."""

    packages = ["nbd-server"]
    version = ["nbd-server", "-V"]
    export = "disk"
    note = "one file through the page cache (it has no O_DIRECT); no checksums"

    def __init__(self, options, core, name="nbd-server"):
        path = os.path.join(options.scratch, name + ".conf")
        with open(path, "w", encoding="utf-8") as file:
            file.write(
                f"[generic]\n    unixsock = {socket_path(options, name)}\n"
                f"    listenaddr = 127.0.0.1\n"
                f"[disk]\n    exportname = {disk_file(options, name)}\n")
        # A process that is nobody's child: known by its file.
        self.pid_file = os.path.join(options.scratch, name + ".pid")
        super().__init__(name, options, core, ["nbd-server", "-C", path, "-p", self.pid_file])

    def start(self):
        done = subprocess.run(
            pinned(self.core, self.command), stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=20)
        deadline = time.monotonic() + 20
        while not is_listening(self.socket) or self.pid is None:
            if done.returncode != 0 or time.monotonic() > deadline:
                raise BenchError("nbd-server did not come up: " + done.stderr.strip())
            time.sleep(0.02)

    @property
    def pid(self):
        try:
            with open(self.pid_file, encoding="ascii") as file:
                return int(file.read())
        except (FileNotFoundError, ValueError):
            return None

    def stop(self):
        pid = self.pid
        if pid is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                if not os.path.exists(f"/proc/{pid}"):
                    return
                time.sleep(0.02)
        raise BenchError(f"nbd-server does not end: {pid}")

    def opened(self):
        return cpu_seconds_of_family(self.pid)

    def used(self, mark):
        return cpu_seconds_of_family(self.pid) - mark


class RawFile:
    """The disk without a server: what its CPU does is the client's."""

    name = "raw"
    note = (
        "no server: fio itself on a file, O_DIRECT over io_uring; its CPU is the disk's and fio's")
    packages = []
    version = ["fio", "--version"]
    against = "poold-simple"

    def __init__(self, options, core):
        self.path = disk_file(options, "raw")
        self.commands = [["fio", *self.fio_arguments()]]

    def start(self):
        pass

    def stop(self):
        pass

    def fio_arguments(self):
        return ["--ioengine=io_uring", "--direct=1", f"--filename={self.path}"]

    # All of fio's threads: what it reports itself leaves out the kernel's I/O workers, which the
    # servers' figures contain.
    def opened(self):
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    def used(self, mark):
        return self.opened() - mark


PEERS = {
    "raw": RawFile,
    "qsd": StorageDaemon,
    "qsd-quorum": Quorum,
    "nbdkit-file": NbdkitFile,
    "nbdkit-memory": NbdkitMemory,
    "nbd-server": NbdServer,
}
# A resiliency that gets its counterpart among the peers gets its line here.
SPACES = (("simple", 1), ("mirror2", 2))


def disk_file(options, name):
    return empty_file(os.path.join(options.disks, name))


def socket_path(options, name):
    return os.path.join(options.scratch, name + ".sock")


def is_listening(path):
    with open("/proc/net/unix", encoding="utf-8", errors="replace") as file:
        for line in file:
            fields = line.split()
            # Flags 0x10000: it accepts connections.
            if fields[-1] == path and int(fields[3], 16) & 0x10000:
                return True
    return False


# ---------------------------------------------------------------- measuring


def measure(target, job, core, seconds):
    mark = target.opened()
    report = fio(
        core,
        [*target.fio_arguments(), f"--rw={job.rw}", f"--bs={job.block}", f"--iodepth={job.depth}"],
        seconds,
    )
    used = target.used(mark)
    side = report["read" if job.is_read else "write"]
    count = max(1, side["total_ios"])
    client = (report["usr_cpu"] + report["sys_cpu"]) / 100 * report["job_runtime"] * 1000 / count
    return {
        "iops": side["iops"],
        "bytes_per_second": side["bw_bytes"],
        "cpu_us": used * 1e6 / count,
        "client_cpu_us": client,
        "latency_p99_us": side["clat_ns"].get("percentile", {}).get("99.000000", 0) / 1000,
    }


def fill(target, core):
    mark = target.opened()
    fio(core, [*target.fio_arguments(), "--rw=write", "--bs=1m", "--iodepth=4"])
    target.used(mark)


def rounds(options, targets, core, cross):
    runs = []
    for number in range(options.repeats):
        first = number % len(targets)
        turns = targets[first:] + targets[:first]
        for job_name in options.jobs:
            for target in turns:
                for cores, client in (("one", core), ("two", cross)):
                    if client is None:
                        continue
                    figures = measure(target, JOBS[job_name], client, options.seconds)
                    runs.append({
                        "round": number, "job": job_name, "target": target.name, "cores": cores,
                        **figures,
                    })
            progress(f"round {number + 1} of {options.repeats}: {job_name} done")
    return runs


def progress(text):
    print("  " + text, file=sys.stderr, flush=True)


def summarise(runs, targets):
    """Medians, spreads and ratios of each job, target and placement."""
    gathered = {}
    for run in runs:
        key = (run["job"], run["target"], run["cores"])
        gathered.setdefault(key, []).append(run)
    summary = []
    for (job, target, cores), group in gathered.items():
        entry = {"job": job, "target": target, "cores": cores}
        for figure in ("iops", "bytes_per_second", "cpu_us", "client_cpu_us", "latency_p99_us"):
            entry[figure], entry[figure + "_spread"] = middle_and_spread(
                [run[figure] for run in group])
        summary.append(entry)
    # Round by round, since a noisy minute hits neighbours alike; then the median of the ratios.
    against = {target.name: target.against for target in targets}
    for entry in summary:
        job, target, cores = entry["job"], entry["target"], entry["cores"]
        ours = gathered.get((job, against[target], cores))
        if ours is None:
            continue
        entry["against"] = against[target]
        pairs = list(zip(ours, gathered[job, target, cores]))
        for figure, name in (("iops", "iops_ratio"), ("cpu_us", "cpu_ratio")):
            ratios = [mine[figure] / theirs[figure] for mine, theirs in pairs if theirs[figure]]
            if ratios:
                entry[name], entry[name + "_spread"] = middle_and_spread(ratios)
    return summary


# ---------------------------------------------------------------- what is printed


def speed_of(entry, job):
    if job.is_sequential:
        return f"{entry['bytes_per_second'] / 1e9:8.2f}", entry["bytes_per_second_spread"]
    return f"{entry['iops'] / 1000:8.1f}", entry["iops_spread"]


def ratio_of(entry, name):
    value = entry.get(name)
    return f"{value:7.2f}" if value is not None else " " * 7


def table(job_name, summary, names, with_cross):
    job = JOBS[job_name]
    unit = "GB/s" if job.is_sequential else "k IOPS"
    lines = ["", job.title]
    if with_cross:
        lines.append(f"{'':14}{' one core '.center(41, '-')}  {' two cores '.center(20, '-')}")
    head = f"{'':14}{unit:>8}{'+-':>5}{'CPU us':>9}{'+-':>5}{'xspeed':>7}{'xCPU':>7}"
    lines.append(head + (f"{unit:>10}{'+-':>5}{'xspeed':>7}" if with_cross else ""))
    found = {(entry["target"], entry["cores"]): entry for entry in summary
             if entry["job"] == job_name}
    for name in names:
        entry = found[name, "one"]
        speed, spread = speed_of(entry, job)
        line = (
            f"{name:14}{speed}{spread:5.0%}{entry['cpu_us']:9.2f}{entry['cpu_us_spread']:5.0%}"
            f"{ratio_of(entry, 'iops_ratio')}{ratio_of(entry, 'cpu_ratio')}")
        if with_cross:
            entry = found[name, "two"]
            speed, spread = speed_of(entry, job)
            line += f"  {speed}{spread:5.0%}{ratio_of(entry, 'iops_ratio')}"
        lines.append(line.rstrip())
    return lines


def legend(result, targets):
    summary = result["summary"]
    clients = [entry["client_cpu_us"] for entry in summary
               if entry["target"] != "raw" and entry["job"].startswith("rand")]
    text = [
        f"Medians of {result['repeats']} rounds of {result['seconds']} s a measurement; +- is the "
        "distance of the extremes, as a share of the median. CPU is the server's per request. The "
        "ratios are medians too, of poold's figure over the line's in the same round: "
        "poold-simple, or poold-mirror2 for a line that keeps two copies. In poold's favour are "
        "an xspeed above 1 and an xCPU below 1.",
    ]
    if clients:
        text.append(
            f"The client is fio's NBD engine, which itself costs {min(clients):.1f} to "
            f"{max(clients):.1f} us per 4 KiB request, on the same core: the servers are further "
            "apart than the speeds say, and CPU is the better figure.")
    lines = ["", *[line for part in text for line in textwrap.wrap(part, 80)], ""]
    for target in targets:
        lines += textwrap.wrap(
            f"{target.name + ':':15}{target.note}", 80, subsequent_indent=" " * 15)
    if any(target.name != "raw" for target in targets):
        lines += ["", *textwrap.wrap(
            "Not comparable: nbdkit and nbd-server answer from the page cache, which on tmpfs is "
            "the disk itself; on a real disk they would read from memory what the others read "
            "from the disk. Only poold keeps checksums.", 80)]
    return lines


def show(result, targets):
    names = [target.name for target in targets]
    with_cross = result["cross_core"] is not None
    print(f"{result['machine']['cpu']}, {result['machine']['cores']} cores,"
          f" Linux {result['machine']['kernel']}")
    for job_name in result["jobs"]:
        print("\n".join(table(job_name, result["summary"], names, with_cross)))
    print("\n".join(legend(result, targets)))
    print("\nWhat ran:")
    for name, version in result["versions"].items():
        print(f"  {name:14}{version.split('(')[0]}"[:80].rstrip())
    commands = [shlex.join(command) for target in result["targets"]
                for command in target["commands"]]
    for command in dict.fromkeys(commands):
        text = command.replace(result["scratch"], "SCRATCH").replace(result["disks"], "DISKS")
        print("\n".join(textwrap.wrap(
            text, 80, initial_indent="  ", subsequent_indent="      ",
            break_on_hyphens=False, break_long_words=False)))


def version_of(command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    text = (done.stdout or done.stderr).strip()
    return text.splitlines()[0] if text else "unknown"


# ---------------------------------------------------------------- the command


def one_of(known):
    def parse(text):
        names = [name.strip() for name in text.split(",") if name.strip()]
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(
                    f"there is no '{name}'; there are {', '.join(known)}")
        if not names:
            raise argparse.ArgumentTypeError(f"name some of {', '.join(known)}")
        return list(dict.fromkeys(names))

    return parse


class Arguments(argparse.ArgumentParser):
    def error(self, message):
        print(f"error: {message}\nhint: see tools/compare-peers --help", file=sys.stderr)
        sys.exit(64)


def arguments():
    parser = Arguments()
    parser.add_argument("--packages", action="store_true")
    parser.add_argument("--bin")
    parser.add_argument("--scratch")
    parser.add_argument("--disks")
    parser.add_argument("--peers", type=one_of(PEERS), default=list(PEERS))
    parser.add_argument("--jobs", type=one_of(JOBS), default=list(JOBS))
    parser.add_argument("--repeats", type=at_least(3), default=3)
    parser.add_argument("--seconds", type=at_least(1), default=5)
    parser.add_argument("--cross", action="store_true")
    parser.add_argument("--engine", choices=("io_uring", "libaio"))
    parser.add_argument("--json")
    options = parser.parse_args()
    if options.seconds > 600:
        parser.error("--seconds is at most 600")
    if options.cross and len(os.sched_getaffinity(0)) < 2:
        parser.error("--cross needs two cores")
    if not options.packages and None in (options.bin, options.scratch, options.disks):
        parser.error("--bin, --scratch and --disks belong together")
    return options


def packages(options):
    names = ["fio"]
    for peer in options.peers:
        names += PEERS[peer].packages
    return list(dict.fromkeys(names))


def make_targets(options, core):
    poold = Poold(options, "poold", core, ["--engine", options.engine] if options.engine else ())
    poold.disks = options.disks
    targets = [PooldSpace(poold, options.engine or "io_uring", *space) for space in SPACES]
    return targets + [PEERS[name](options, core) for name in options.peers]


def load():
    return os.getloadavg()[0]


def compare(options):
    cores = sorted(os.sched_getaffinity(0))
    core = cores[-1]
    cross = cores[0] if options.cross else None
    result = {
        "version": 1, "machine": machine(), "core": core, "cross_core": cross,
        "repeats": options.repeats, "seconds": options.seconds, "span_bytes": SPAN_BYTES,
        "scratch": options.scratch, "disks": options.disks,
        "jobs": {name: dataclasses.asdict(JOBS[name]) for name in options.jobs},
        "load_before": load(), "unix_time": int(time.time()),
    }
    if result["load_before"] > 0.5:
        print(f"warning: the machine is busy (load {result['load_before']:.2f}): "
              "these figures will say little", file=sys.stderr)
    targets = make_targets(options, core)
    result["versions"] = {
        "poold": version_of([os.path.join(options.bin, "poold"), "--version"]),
        "fio": version_of(["fio", "--version"]),
        **{name: version_of(PEERS[name].version) for name in options.peers if name != "raw"},
    }
    result["targets"] = [
        {"name": target.name, "note": target.note, "against": target.against,
         "commands": [pinned(core, command) for command in target.commands],
         "fio": ["fio", *target.fio_arguments()]}
        for target in targets
    ]
    # One that cannot be stopped keeps the others from nothing.
    with contextlib.ExitStack() as left:
        for target in targets:
            left.callback(target.stop)
            target.start()
            fill(target, core)
        progress(f"{len(targets)} targets are up and written to")
        runs = rounds(options, targets, core, cross)
    result["runs"] = runs
    result["summary"] = summarise(runs, targets)
    return result, targets


def main():
    leave_at_signals()
    options = arguments()
    if options.packages:
        print("\n".join(packages(options)))
        return 0
    try:
        result, targets = compare(options)
    except (BenchError, OSError, subprocess.SubprocessError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        print("hint: the servers' logs are in the scratch folder", file=sys.stderr)
        return 1
    show(result, targets)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=2)
            file.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
