"""What tools/bench and tools/compare-peers share: servers that are started pinned and ended for
certain, CPU accounts from /proc, fio, and statistics.
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import time

GIB = 1 << 30
MIB = 1 << 20
SPAN_BYTES = GIB // 2
TICKS = os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    pass


# ---------------------------------------------------------------- what a process costs


def stat_fields(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        return file.read().rsplit(")", 1)[1].split()


def cpu_seconds(pid):
    """CPU a process has used, all its threads and the kernel's work for it."""
    fields = stat_fields(pid)
    return (int(fields[11]) + int(fields[12])) / TICKS


def cpu_seconds_of_family(pid):
    """Likewise, with the children it has and those it has waited for."""
    fields = stat_fields(pid)
    total = sum(int(field) for field in fields[11:15]) / TICKS
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
            for child in file.read().split():
                try:
                    total += cpu_seconds_of_family(int(child))
                except FileNotFoundError:
                    continue
    return total


def cpu_seconds_fine(pid):
    """CPU in nanosecond steps, for the threads that are there now."""
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


# ---------------------------------------------------------------- processes

ENDING = {signal.SIGTERM, signal.SIGINT}


def leave_at_signals():
    """Ended by a signal, what was started still is: sys.exit runs every `finally`, once."""
    def leave(number, frame):
        for each in ENDING:
            signal.signal(each, signal.SIG_IGN)
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    # A shell that has put this into the background has it ignored, and sends the other.
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, leave)


@contextlib.contextmanager
def signals_held():
    """What ends this script waits, so that a process that was started is known by then."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


def started(command, **how):
    """A process, to whom they are not held."""
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL,
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING), **how)


def run(command, seconds):
    """Runs a command, and ends it when this ends. Returns its status, its output and its errors."""
    process = None
    try:
        with signals_held():
            process = started(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        output, errors = process.communicate(timeout=seconds)
        return process.returncode, output, errors
    except BaseException:
        if process is not None:
            process.kill()
            process.wait()
        raise


# ---------------------------------------------------------------- servers


def pinned(core, command):
    return ["taskset", "-c", str(core), *command]


def end(process, seconds):
    """Asks a process to end, waits that long, then insists."""
    if process is None or process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Poold:
    def __init__(self, options, name, core=None, arguments=()):
        self.bin = options.bin
        self.arguments = list(arguments)
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

    @property
    def command(self):
        return [os.path.join(self.bin, "poold"), "--dir", self.directory, *self.arguments]

    def uri(self, export):
        return f"nbd+unix:///{export}?socket={self.socket}"

    def control(self, *arguments):
        command = [os.path.join(self.bin, "poolctl"), *arguments, "--dir", self.directory]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if done.returncode != 0:
            raise BenchError(f"poolctl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def launch(self):
        # taskset becomes poold: the id is the daemon's.
        command = self.command if self.core is None else pinned(self.core, self.command)
        with signals_held():
            self.process = started(command, stderr=self.log, env=self.environment)
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

    def stop(self):
        end(self.process, 30)

    def kill(self):
        self.process.kill()
        self.process.wait()


class Server:
    """Another NBD server on a Unix socket. It ends with whoever started it, even by kill -9."""

    def __init__(self, name, options, core, socket_path, command):
        self.name = name
        self.socket = socket_path
        self.command = command
        self.core = core
        self.log_path = os.path.join(options.scratch, name + ".log")
        self.process = None

    def start(self):
        command = ["setpriv", "--pdeathsig", "TERM", *pinned(self.core, self.command)]
        with open(self.log_path, "ab") as log, signals_held():
            self.process = started(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise BenchError(f"{self.name} ended with status {self.process.returncode}: "
                                 + self.last_words())
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(self.socket)
                    return
                except OSError:
                    time.sleep(0.05)
        raise BenchError(f"{self.name} did not come up: {self.last_words()}")

    def last_words(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as file:
            return file.read()[-500:].strip()

    @property
    def pid(self):
        return self.process.pid

    def uri(self, export=""):
        return f"nbd+unix:///{export}?socket={self.socket}"

    def stop(self):
        end(self.process, 10)


def storage_daemon_command(socket_path, blockdevs, node):
    """qemu-storage-daemon with one export, `disk`, of the block node `node`."""
    command = ["qemu-storage-daemon"]
    for blockdev in blockdevs:
        command += ["--blockdev", blockdev]
    return [
        *command,
        "--nbd-server", f"addr.type=unix,addr.path={socket_path}",
        "--export", f"type=nbd,id=export,node-name={node},name=disk,writable=on",
    ]


def direct_file(node, path):
    """A file as qemu serves it best: io_uring, no page cache."""
    return f"driver=file,node-name={node},filename={path},aio=io_uring,cache.direct=on"


# ---------------------------------------------------------------- the client


def fio_command(core, arguments, seconds=None):
    # A thread: its job's process would be in a session of its own, and go on when fio is killed.
    command = ["fio", "--name=bench", "--thread", "--output-format=json",
               f"--size={SPAN_BYTES}", *arguments]
    if seconds is not None:
        command += ["--time_based", f"--runtime={seconds}", "--norandommap", "--randrepeat=0"]
    return pinned(core, command)


def fio(core, arguments, seconds=None):
    """Runs one job. Returns fio's report of it."""
    limit = 3600 if seconds is None else seconds + 120
    status, output, errors = run(fio_command(core, arguments, seconds), limit)
    if status != 0:
        raise BenchError(f"fio {' '.join(arguments)}: {errors.strip() or output[-500:]}")
    # libnbd may print a line of its own before the report.
    return json.loads(output[output.index("{") :])["jobs"][0]


def empty_file(path, size=SPAN_BYTES):
    with open(path, "wb") as file:
        file.truncate(size)
    return path


# ---------------------------------------------------------------- what is reported


def middle_and_spread(values):
    """The median, and how far the extremes are apart as a share of it."""
    middle = statistics.median(values)
    return middle, (max(values) - min(values)) / middle if middle else 0


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
