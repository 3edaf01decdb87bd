"""What the machine is that a benchmark ran on."""

import importlib.metadata
import os
import platform
from pathlib import Path

import numpy as np

PACKAGES = ("numpy", "torch", "jax", "mygrad", "thinc", "onnxruntime")


def machine() -> dict[str, str]:
    """Return processor, memory, system and versions, by name."""
    facts = {
        "processor": processor(),
        "CPUs": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
    }
    for name in PACKAGES:
        try:
            facts[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            facts[name] = "not installed"
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return facts | {"BLAS": f"{blas['name']} {blas['version']}"}


def processor() -> str:
    """Return the processor's name as the system has it, and its largest cache."""
    name, cache = platform.processor() or platform.machine(), ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            elif key.strip() == "cache size":
                cache = f", {value.strip()} cache"
    return name + cache
