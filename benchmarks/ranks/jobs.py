"""Ranks that live as long as a contest, and sleep while others have their turn.

A job is the processes of one contender. Each rank has a connection to this process and waits in
it for the next message, so that it takes nothing from whoever is being timed: ranks that waited
inside MPI would spin.
"""

import contextlib
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Any

from benchmarks.harness import ROOT, environment

# Contender to its module, and whether MPI starts its ranks.
CONTENDERS = {
    "npbn": ("benchmarks.contenders.npbn_ranks", True),
    "torch": ("benchmarks.contenders.torch_ddp", False),
}
PATIENCE = 120.0  # seconds in which ranks start, or answer
LEAVE = 10.0  # seconds in which they end

Answer = dict[str, Any]


def mpiexec() -> str | None:
    """Return MPI's launcher: that of this Python's environment, or else of the system."""
    here = shutil.which("mpiexec", path=str(Path(sys.executable).parent))
    return here or shutil.which("mpiexec")


class Job:
    """The ranks of a contender; `refused` says why they take no part, if so.

    Parameters
    ----------
    contender : {'npbn', 'torch'}
    ranks : int

    Attributes
    ----------
    about : str
        The library that exchanges.
    """

    def __init__(self, contender: str, ranks: int):
        self.contender, self.ranks = contender, ranks
        self.refused: Answer = {}
        self.about = ""
        self.connections: dict[int, socket.socket] = {}
        self.files: dict[int, tuple[Any, Any]] = {}
        self.folder = tempfile.TemporaryDirectory()
        self.errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        module, by_mpi = CONTENDERS[contender]
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(0.5)
            worker = [sys.executable, "-m", "benchmarks.ranks.worker", module]
            worker.append(str(server.getsockname()[1]))
            if by_mpi:
                tail = ["-1", str(ranks), self.folder.name]
                commands = [[str(mpiexec()), "-n", str(ranks), *worker, *tail]]
            else:
                places = ([str(rank), str(ranks), self.folder.name] for rank in range(ranks))
                commands = [[*worker, *place] for place in places]
            self.processes = [self.start(command) for command in commands]
            try:
                self.meet(server)
            except BaseException:
                self.close()
                raise

    def start(self, command: Sequence[str]) -> subprocess.Popen:
        """Start a process; whatever it prints goes where its errors go."""
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(1),
            stdin=subprocess.DEVNULL,
            stdout=self.errors,
            stderr=self.errors,
        )

    def meet(self, server: socket.socket) -> None:
        """Wait for all ranks."""
        end = monotonic() + PATIENCE
        while len(self.connections) < self.ranks and not self.refused:
            try:
                connection, _ = server.accept()
            except TimeoutError:
                if monotonic() > end or any(p.poll() is not None for p in self.processes):
                    self.failed()
                continue
            connection.settimeout(PATIENCE)
            files = tuple(connection.makefile(mode, encoding="utf-8") for mode in "rw")
            answer = self.receive(files[0])
            if "refused" in answer:
                self.refused = answer
            self.about = answer.get("about", self.about)
            rank = answer.get("rank", len(self.connections))
            self.connections[rank], self.files[rank] = connection, files

    def ask(self, together: bool = True, **message: Any) -> list[Answer]:
        """Send a message to all ranks, or to rank 0 alone; return their answers, in order.

        If one refuses, they are [that answer].
        """
        message["together"] = together
        ranks = range(self.ranks if together else 1)
        with contextlib.suppress(OSError):  # receive() finds that it has ended
            for rank in ranks:
                print(json.dumps(message), file=self.files[rank][1], flush=True)
        answers = []
        for rank in ranks:
            if self.refused:  # it has failed: the others will not answer either
                break
            answers.append(self.receive(self.files[rank][0]))
        refused = [answer for answer in answers if "refused" in answer]
        return refused[:1] or answers

    def receive(self, file: Any) -> Answer:
        """Return a rank's next answer; one that has ended, or does not answer, has failed."""
        with contextlib.suppress(OSError):
            line = file.readline()
            if line:
                return json.loads(line)
        return self.failed()

    def failed(self) -> Answer:
        """End all ranks; return their first error, which may be why others followed."""
        self.stop()
        self.errors.seek(0)
        said = [line for line in self.errors.read().splitlines() if line.strip()]
        errors = [line for line in said if re.match(r"(\[rank\d+\]: )?[\w.]+Error\b", line)]
        first = (errors[:1] or said[-1:] or ["without a word"])[0]
        self.refused = {"refused": f"its ranks ended: {first.strip()}", "kind": "failed"}
        return self.refused

    def stop(self) -> None:
        """Let the processes end, or end them."""
        for connection, files in zip(self.connections.values(), self.files.values(), strict=True):
            for file in files:
                with contextlib.suppress(OSError):
                    file.close()
            connection.close()
        for process in self.processes:
            try:
                process.wait(LEAVE)
            except subprocess.TimeoutExpired:
                process.terminate()  # mpiexec ends its ranks then
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(LEAVE)
                process.kill()
                process.wait()

    def close(self) -> None:
        """End the ranks."""
        self.stop()
        self.errors.close()
        self.folder.cleanup()
