"""Disks of a pool that leave, come back and are replaced while it is crashed: shared by the loops.

A trouble-maker uses the verbs of poolctl as somebody would who does not know what goes on: it may
ask for anything, and the daemon has to refuse what would lose data. It knows what was promised: a
command that was done is done after any crash.
"""

import json
import threading
import time

from checker import Violation
from meddling import Meddler, Refused

PHASES = ("whole", "degraded", "resyncing", "rebuilding")
PATIENCE_SECONDS = 120


class Troublemaker(Meddler):
    """Brings a pool into a phase in which it is to crash, and says when."""

    def __init__(self, daemon, pool, spares, dice):
        super().__init__(daemon)
        self.pool = pool
        # Paths of disks that may take another's place, whenever they are not the pool's.
        self.spares = set(spares)
        self.dice = dice
        # name -> whether it has to be in use, of the last command that was done about it.
        self.promised = {}
        # Paths that have to be the pool's.
        self.joined = set()
        self.crashes = dict.fromkeys(PHASES, 0)
        # Starts without a disk that the pool had.
        self.absences = 0
        self.disks_seen = []
        self.now = threading.Event()

    # ---------------------------------------------------------------- what a round does

    def start(self):
        self.now.clear()
        super().start()

    def run(self):
        super().run()
        self.now.set()

    def meddle(self):
        """Until it is time to crash."""
        self.approach(self.dice.choice(PHASES))
        self.leaving.wait(self.dice.uniform(0, 0.25))
        self.crashes[self.phase()] += 1

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
        """Returns whether that was done; it may be refused."""
        try:
            self.must_set_use(name, is_used)
        except Refused:
            return False
        return True

    def must_set_use(self, name, is_used):
        self.promised.pop(name, None)
        self.command("disk", "online" if is_used else "offline", self.pool, name)
        self.promised[name] = is_used

    def replace(self, disks):
        if any(disk["state"] == "retired" for disk in disks):
            return
        spares = self.spares - {disk["path"] for disk in disks}
        if not spares:
            return
        old, new = self.dice.choice(disks), self.dice.choice(sorted(spares))
        self.promised.pop(old["name"], None)
        had_joined = old["path"] in self.joined
        self.joined.discard(old["path"])
        # Should the answer get lost, it may go all the same, and is a spare whenever it has gone.
        self.spares.add(old["path"])
        try:
            self.command("disk", "replace", self.pool, old["name"], new, "--force")
            self.joined.add(new)
        except Refused:
            if had_joined:
                self.joined.add(old["path"])

    # ---------------------------------------------------------------- what is there

    def disks(self):
        self.disks_seen = self.look("disk", "ls")["disks"]
        return self.disks_seen

    def is_whole(self):
        """Every disk counts, and everything has all its copies."""
        status = self.look("pool", "status")
        self.disks_seen = status["disks"]
        return status["health"] == "healthy" and self.are_online()

    def look(self, *verb):
        try:
            return self.ask(*verb, self.pool)
        except Refused as refusal:
            raise Violation(str(refusal)) from refusal

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
            # One that is being emptied stays so, in use or not.
            if is_used is False and disk["state"] not in ("offline", "retired"):
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
        refusal = None
        while True:
            for disk in self.disks():
                if disk["state"] in ("online", "rebuilding", "retired"):
                    continue
                try:
                    self.must_set_use(disk["name"], True)
                    refusal = None
                except Refused as problem:
                    # What it was asked before it left may not be over yet.
                    refusal = problem
            if self.is_whole():
                return
            if time.monotonic() > deadline:
                text = self.daemon.control("pool", "status", self.pool).stdout
                text += f"\n{refusal}" if refusal is not None else ""
                raise Violation(f"not whole after {PATIENCE_SECONDS} s:\n{text}")
            time.sleep(0.1)

    def pull_each(self, clients, at_once):
        """Each disk is away once or more, and everything is there all the same."""
        self.make_whole()
        names = [disk["name"] for disk in self.disks()]
        for index in range(len(names)):
            pulled = [names[(index + step) % len(names)] for step in range(at_once)]
            try:
                for name in pulled:
                    self.must_set_use(name, False)
                for client in clients:
                    client.check_now()
                for name in pulled:
                    self.must_set_use(name, True)
            except Refused as refusal:
                raise Violation(f"of a pool that was whole: {refusal}") from refusal
            self.make_whole()

    def scrub(self):
        """Every copy of everything is read and compared: all are right, and no disk had errors."""
        self.make_whole()
        done = self.daemon.control(
            "pool", "scrub", self.pool, "--wait", "--json", timeout=PATIENCE_SECONDS)
        if done.returncode != 0:
            raise Violation(f"poolctl pool scrub: {done.stderr.strip()}")
        job = json.loads(done.stdout)["job"]
        if job["state"] != "done" or job["done_bytes"] == 0:
            raise Violation(f"the scrub did not read everything: {job}")
        if job["repaired_blocks"] > 0 or job["lost_blocks"] > 0:
            raise Violation(f"the scrub found what was wrong: {job}")
        for disk in self.disks():
            if any(disk["errors"].values()):
                raise Violation(f"{disk['name']} had errors: {disk['errors']} {disk['reason']}")
