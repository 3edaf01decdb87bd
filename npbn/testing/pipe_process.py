"""The process behind :mod:`npbn.testing.pipe`: each line sent is answered by one line."""

import json
import queue
import subprocess
import threading
import weakref
from contextlib import suppress
from typing import Any

PROTOCOL = 1
STARTING = 60.0  # seconds until the greeting is answered: some programs compile first
LONGEST = 2**28  # characters of an answer


class RefusedError(ValueError):
    """The program answered with an error."""


class PipeError(BaseException):
    """The program did not answer as the protocol says, or not in time.

    It is no Exception, like SystemExit: a check that expects a refusal must not catch it.
    """


class Program:
    """The program, started when it is first asked, and again after it failed."""

    def __init__(self, command: list[str], seconds: float):
        self.command, self.seconds = command, seconds
        self.running: _Running | None = None
        self.lock = threading.Lock()

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Send a line and return the answer.

        Raises
        ------
        RefusedError
            If the answer says "error".
        PipeError
            If the program has ended, is late, or its answer is no JSON object.
        """
        with self.lock:  # one question at a time
            if self.running is None:
                self.greet()
            return self._ask(question, self.seconds)

    def greet(self) -> dict[str, Any]:
        """Start the program and return its description of itself."""
        self.running = _Running(self.command)
        return self._ask({"request": "describe", "protocol": PROTOCOL}, STARTING)

    def _ask(self, question: dict[str, Any], seconds: float) -> dict[str, Any]:
        assert self.running is not None  # `ask` and `greet` have started it
        try:
            line = self.running.exchange(json.dumps(question, allow_nan=False), seconds)
            answer = _object(line)
        except BaseException:
            self.end()
            raise
        if "error" in answer:
            raise RefusedError(f"the program refused: {short(answer['error'])}")
        return answer

    def end(self) -> None:
        """End the program."""
        if self.running is not None:
            self.running.end()
            self.running = None


class _Running:
    """A process of the program, whose pipes a thread serves: nothing here waits for them."""

    def __init__(self, command: list[str]):
        pipe = subprocess.PIPE
        # In this process's group: who ends that ends the program too.
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, encoding="utf-8", errors="replace"
        )
        self.questions: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        served = (self.process, self.questions, self.answers)
        threading.Thread(target=_serve, args=served, daemon=True).start()
        self.end = weakref.finalize(self, _end, self.process, self.questions)

    def exchange(self, question: str, seconds: float) -> str:
        """Return the line that answers, or raise PipeError."""
        self.questions.put(question)
        try:
            line = self.answers.get(timeout=seconds)
        except queue.Empty:
            raise PipeError(f"the program did not answer within {seconds:g} seconds") from None
        if len(line) == LONGEST:
            raise PipeError(f"the program answered with a line of more than {LONGEST} characters")
        if not line.endswith("\n"):
            raise PipeError(f"the program closed its pipe instead of answering: {self._fate()}")
        return line

    def _fate(self) -> str:
        """Return how the program has ended, if it has."""
        try:
            status = self.process.wait(0.5)  # it may be about to
        except subprocess.TimeoutExpired:
            return "it is still running"
        return f"exit status {status}" if status >= 0 else f"signal {-status}"


def _serve(
    process: "subprocess.Popen[str]",
    questions: "queue.SimpleQueue[str | None]",
    answers: "queue.SimpleQueue[str]",
) -> None:
    """Write each question and read the line that answers, "" if there is none; then close."""
    to_program, from_program = process.stdin, process.stdout
    assert to_program is not None  # both are pipes
    assert from_program is not None
    while (question := questions.get()) is not None:
        try:
            to_program.write(question + "\n")
            to_program.flush()
            answers.put(from_program.readline(LONGEST))
        except OSError:  # it has closed its end
            answers.put("")
    for stream in (to_program, from_program):
        with suppress(OSError):
            stream.close()


def _end(process: "subprocess.Popen[str]", questions: "queue.SimpleQueue[str | None]") -> None:
    process.kill()
    questions.put(None)
    process.wait()


def _object(line: str) -> dict[str, Any]:
    """Return a line's JSON object, or raise PipeError."""
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise PipeError(f"expected a JSON object in one line, got {short(line)}")
    return answer


def short(value: Any) -> str:
    """Return a value in one line of at most 80 characters."""
    text = value.strip() if isinstance(value, str) else json.dumps(value)
    return repr(text if len(text) <= 80 else text[:77] + "...")
