"""BatchNorm in the wild: npbn.testing on the BatchNorm of every library that is installed.

Each target is checked in a process of its own, and its report is kept in ``DIR/wild/``. The page
is made of all reports there: run this in several environments where the libraries do not fit
into one, with the same ``--out``.
"""

import ast
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import npbn
from benchmarks.machine import processor
from benchmarks.wild_page import CASE_SECONDS, FINDINGS, TARGETS, Target, page

SECONDS = 3600  # for a target
PACKAGES = {"haiku": "dm-haiku", "paddle": "paddlepaddle"}  # of modules of another name


def run(out: Path, quick: bool, threads: list[int]) -> None:
    """Check what is installed, keep the reports, and make the page of all that are there."""
    folder = out / "wild"
    (folder / "findings").mkdir(parents=True, exist_ok=True)
    for target in TARGETS:
        if installed(target):
            print(f"{target.title} ...", flush=True)
            write(
                folder / target.file, check(target, 1 if quick else target.examples, folder / "jax")
            )
    for program in sorted(FINDINGS.glob("*.py")):
        if (found := try_finding(program)) is not None:
            print(f"{program.stem}: {found['output'].splitlines()[-1:]}", flush=True)
            write(folder / "findings" / f"{program.stem}.json", found)
    (out / "wild.md").write_text(page(folder), encoding="utf-8")
    print(f"written to {out}: wild.md, wild/")


def check(target: Target, examples: int, cache: Path) -> dict[str, Any]:
    """Return the report on a target, made in a process of its own, with what it was made with.

    What JAX compiles is kept in `cache` for the next time.
    """
    command = [sys.executable, "-m", "npbn.testing", target.name, "--examples", str(examples)]
    command += ["--seconds", str(CASE_SECONDS), "--limit", str(SECONDS - 300), "--json"]
    settings = dict([target.settings.split("=")]) if target.settings else {}
    settings |= {"JAX_COMPILATION_CACHE_DIR": str(cache.resolve())}
    settings |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    about = {"version": version(target.package), "python": platform.python_version()}
    about |= {"examples": examples, "processor": processor()}
    about |= {"needs": {name: version(name) for name in target.needs}}
    try:
        done = subprocess.run(
            command, env=os.environ | settings, capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return about | {"problem": f"not done after {SECONDS} s"}
    try:
        return about | {"report": json.loads(done.stdout)}
    except ValueError:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return about | {"problem": lines[-1]}


def try_finding(program: Path) -> dict[str, Any] | None:
    """Run a finding's program; return what it printed, or None if it needs what is not here."""
    needed = {name.partition(".")[0] for name in imported(program)}
    if any(importlib.util.find_spec(name) is None for name in needed):
        return None
    outputs = []
    for backend in ("numpy", "torch", "jax") if "keras" in needed else ("",):
        settings = {"KERAS_BACKEND": backend} if backend else {}
        outputs += output(program, settings)
    versions = {name: version(PACKAGES.get(name, name)) for name in sorted(needed - {"numpy"})}
    return {"output": "\n".join(outputs), "versions": versions}


def output(program: Path, settings: dict[str, str], seconds: float = SECONDS) -> list[str]:
    """Return what a program prints, and the last line of its error if it fails."""
    try:
        done = subprocess.run(
            [sys.executable, str(program)],
            env=os.environ | settings,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return [f"not done after {seconds:g} s"]
    last = done.stderr.strip().splitlines()[-1:] if done.returncode else []
    return [done.stdout.strip(), *last]


def imported(program: Path) -> set[str]:
    """Return the modules that a program imports, beside the standard library's."""
    names = set()
    for node in ast.walk(ast.parse(program.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return {name for name in names if name.partition(".")[0] not in sys.stdlib_module_names}


def installed(target: Target) -> bool:
    """Tell whether a target's package, and those that it needs, are installed."""
    return all(version(package) for package in (target.package, *target.needs))


def version(package: str) -> str:
    """Return the version of an installed package, or "" if it is not installed."""
    if package == "npbn":  # this one, installed or not
        return npbn.__version__
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def write(path: Path, content: object) -> None:
    """Write JSON."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
