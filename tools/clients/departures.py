"""Disks of a pool that leave, come back and are replaced while it is crashed: shared by the loops.

A trouble-maker uses the verbs of poolctl as somebody would who does not know what goes on: it may
ask for anything, and the daemon has to refuse what would lose data. It knows what was promised: a
command that was done is done after any crash.
"""

import json
import threading
import time

from checker import Violation

PHASES = ("whole", "degraded", "resyncing", "rebuilding")
PATIENCE_SECONDS = 120


class Troublemaker:
    """Brings a pool into a phase in which it is to crash, and says when."""

    def __init__(self, daemon, pool, spares, dice):
        self.daemon = daemon
        self.pool = pool
        # Disks that are nobody's; one that was replaced becomes one.
        self.spares = list(spares)
        self.dice = dice
        # name -> whether it has to be in use, of the last command that was done about it.
        self.promised = {}
        # Paths that have to be the pool's.
        self.joined = set()
        self.crashes = dict.fromkeys(PHASES, 0)
        self.commands = 0
        # Starts without a disk that the pool had.
        self.absences = 0
        self.disks_seen = []
        self.thread = None
        self.now = threading.Event()
        self.leaving = threading.Event()

    # ---------------------------------------------------------------- what a round does

    def start(self):
        self.now.clear()
        self.leaving.clear()
        self.thread = threading.Thread(target=self.work)
        self.thread.start()

    def work(self):
        """Until it is time to crash, or a command fails because it happened."""
        try:
            self.approach(self.dice.choice(PHASES))
            self.leaving.wait(self.dice.uniform(0, 0.25))
            self.crashes[self.phase()] += 1
        except Gone:
            pass
        self.now.set()

    def finish(self):
        self.leaving.set()
        if self.thread is not None:
            self.thread.join()
        self.thread = None

    def approach(self, phase):
        disks = self.disks()
        names = [disk["name"] for disk in disks]
        away = [disk["name"] for disk in disks if disk["state"] in ("offline", "missing", "failed")]
        self.leaving.wait(self.dice.uniform(0.05, 0.5))
        if phase == "degraded" and not away:
            self.set_use(self.dice.choice(names), False)
        elif phase == "resyncing":
            if not away:
                away = [self.dice.choice(names)]
                if self.set_use(away[0], False):
                    self.leaving.wait(self.dice.uniform(0.1, 0.6))
            for name in away:
                self.set_use(name, True)
        elif phase == "rebuilding":
            for name in away:
                self.set_use(name, True)
            self.replace(disks)
        elif phase == "whole":
            for name in away:
                self.set_use(name, True)

    def set_use(self, name, is_used):
        """Returns whether that was done."""
        self.promised.pop(name, None)
        verb = "online" if is_used else "offline"
        if self.command("disk", verb, self.pool, name) is None:
            return False
        self.promised[name] = is_used
        return True

    def replace(self, disks):
        if any(disk["state"] == "retired" for disk in disks):
            return
        used = {disk["path"] for disk in disks}
        self.spares = [path for path in self.spares if path not in used]
        if not self.spares:
            return
        old, new = self.dice.choice(disks), self.dice.choice(self.spares)
        self.promised.pop(old["name"], None)
        done = self.command("disk", "replace", self.pool, old["name"], new, "--force")
        if done is not None:
            self.joined.add(new)
            self.joined.discard(old["path"])
            self.spares.append(old["path"])

    def command(self, *arguments):
        """Its answer; None where it was refused."""
        done = self.daemon.control(*arguments, "--json")
        if done.returncode == 0:
            self.commands += 1
            return json.loads(done.stdout)
        kind = refusal(done)
        if kind in ("refused", "not_found"):
            return None
        raise Gone(done.stderr)

    # ---------------------------------------------------------------- what is there

    def disks(self):
        done = self.daemon.control("disk", "ls", self.pool, "--json")
        if done.returncode != 0:
            raise Gone(done.stderr)
        self.disks_seen = json.loads(done.stdout)["disks"]
        return self.disks_seen

    def is_whole(self):
        """Every disk counts, and everything has all its copies."""
        done = self.daemon.control("pool", "status", self.pool, "--json")
        if done.returncode != 0:
            raise Gone(done.stderr)
        status = json.loads(done.stdout)
        self.disks_seen = status["disks"]
        return status["health"] == "healthy" and self.are_online()

    def are_online(self):
        return all(disk["state"] == "online" for disk in self.disks_seen)

    def phase(self):
        states = {disk["state"] for disk in self.disks()}
        if "retired" in states:
            return "rebuilding"
        if "rebuilding" in states:
            return "resyncing"
        return "whole" if states == {"online"} else "degraded"

    def verify(self):
        """After a crash: what was done is done."""
        disks = self.disks()
        for disk in disks:
            is_used = self.promised.get(disk["name"])
            if is_used is True and disk["state"] == "offline":
                raise Violation(f"{disk['name']} was brought online and is offline")
            if is_used is False and disk["state"] != "offline":
                raise Violation(f"{disk['name']} was put offline and is {disk['state']}")
        names = {disk["name"] for disk in disks}
        self.promised = {name: use for name, use in self.promised.items() if name in names}
        paths = {disk["path"] for disk in disks}
        if not self.joined <= paths:
            raise Violation(f"{self.joined - paths} joined the pool, and it has {paths}")

    # ---------------------------------------------------------------- at the end

    def make_whole(self):
        """Every disk is brought back, and everything has all its copies."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            disks = self.disks()
            for disk in disks:
                if disk["state"] not in ("online", "rebuilding", "retired"):
                    self.set_use(disk["name"], True)
            if self.is_whole():
                return
            if time.monotonic() > deadline:
                text = self.daemon.control("pool", "status", self.pool).stdout
                raise Violation(f"not whole after {PATIENCE_SECONDS} s:\n{text}")
            time.sleep(0.1)

    def pull_each(self, clients, at_once):
        """Each disk is away once or more, and everything is there all the same."""
        self.make_whole()
        names = [disk["name"] for disk in self.disks()]
        for index in range(len(names)):
            pulled = [names[(index + step) % len(names)] for step in range(at_once)]
            for name in pulled:
                done = self.daemon.control("disk", "offline", self.pool, name)
                if done.returncode != 0:
                    raise Violation(f"{name} of a whole pool may not go: {done.stderr.strip()}")
            for client in clients:
                client.check_now()
            for name in pulled:
                self.set_use(name, True)
            self.make_whole()


class Gone(Exception):
    """The daemon is, and took the answer with it."""


def refusal(done):
    try:
        return json.loads(done.stdout)["error"]["kind"]
    except (ValueError, KeyError, TypeError):
        return "unknown"
