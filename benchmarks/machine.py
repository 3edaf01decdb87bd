"""What the machine is that a benchmark ran on."""

import importlib.metadata
import os
import platform
from pathlib import Path

import numpy as np

import npbn

PACKAGES = ("numpy", "numba", "torch", "jax", "mygrad", "thinc", "onnxruntime")


def machine() -> dict[str, str]:
    """Return processor, memory, system and versions, by name."""
    facts = {
        "processor": processor(),
        "CPUs": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        "npbn": npbn.__version__,
    }
    for name in PACKAGES:
        try:
            facts[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            facts[name] = "not installed"
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return facts | {"BLAS": f"{blas['name']} {blas['version']}"}


def processor() -> str:
    """Return the processor's name, the family and model that tell its generation, its cache."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor() or platform.machine()
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    found = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)
    }
    name = found.get("model name") or platform.processor() or platform.machine()
    details = ("cpu family", "model", "cache size")
    return ", ".join([name, *(f"{key} {found[key]}" for key in details if key in found)])
