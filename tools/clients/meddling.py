"""Somebody who gives commands while others write, until the daemon is ended under them.

What may be refused is for each kind of meddler to judge. What the daemon's end cuts off is no
failure; anything else that goes wrong is one, and is raised where the thread is waited for.
"""

import json
import threading

from checker import Violation


class Gone(Violation):
    """The daemon is, and took the answer with it."""


class Refused(Exception):
    """The daemon has declined: nothing changed."""


class Meddler:
    def __init__(self, daemon):
        self.daemon = daemon
        # Done, and declined.
        self.commands = 0
        self.refusals = 0
        self.thread = None
        self.problem = None
        self.leaving = threading.Event()

    def meddle(self):
        """What the thread does."""
        raise NotImplementedError

    def start(self):
        self.leaving.clear()
        self.problem = None
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        try:
            self.meddle()
        except Gone as problem:
            # Whether it went by itself, its exit status says.
            if not self.leaving.is_set():
                self.problem = problem
        except Exception as problem:
            self.problem = problem

    def expect_end(self):
        """From here on the daemon may be gone at any time: called before it is ended."""
        self.leaving.set()

    def join(self):
        self.leaving.set()
        if self.thread is not None:
            self.thread.join()
        self.thread = None

    def finish(self):
        """Waits for the thread.

        Raises: what went wrong before the daemon's end was expected.
        """
        self.join()
        problem, self.problem = self.problem, None
        if problem is not None:
            raise problem

    def command(self, *arguments):
        """Something is to change. Returns the answer; raises as `ask` does."""
        try:
            answer = self.ask(*arguments)
        except Refused:
            self.refusals += 1
            raise
        self.commands += 1
        return answer

    def ask(self, *arguments):
        """The answer to a command.

        Raises: Refused; Gone where there is no answer, or none of the daemon's own; Violation for
        whatever a command that can be carried out or declined must not end with.
        """
        done = self.daemon.control(*arguments, "--json")
        if done.returncode == 0:
            return json.loads(done.stdout)
        kind = kind_of(done)
        text = f"poolctl {' '.join(arguments)}: {done.stderr.strip()}"
        if kind in ("refused", "not_found"):
            raise Refused(text)
        # An answer that went missing is of the same kind as a failure.
        raise Gone(text) if kind in ("failed", "unavailable") else Violation(text)


def kind_of(done):
    try:
        return json.loads(done.stdout)["error"]["kind"]
    except (ValueError, KeyError, TypeError):
        return "unknown"
