"""BatchNorm in the wild: npbn.testing on the BatchNorm of every library that is installed.

Each target is checked in a process of its own, and its report is kept in ``DIR/wild/``. The page
is made of all reports there: run this in several environments where the libraries do not fit
into one, with the same ``--out``.
"""

from pathlib import Path
from typing import NamedTuple

FINDINGS = Path(__file__).parent / "findings"
SECONDS = 3600  # for a target


class Target(NamedTuple):
    """What is checked, the package that it is in, and the settings that it needs."""

    name: str
    package: str
    settings: str = ""

    @property
    def title(self) -> str:
        """How the table names it."""
        return f"{self.name} ({self.settings.partition('=')[2]})" if self.settings else self.name

    @property
    def file(self) -> str:
        """The file of its report."""
        return f"{self.name} {self.settings}".strip().replace(":", ".").replace(" ", "-") + ".json"


TARGETS = (
    *(Target(f"npbn:BatchNorm{rank}d", "npbn") for rank in (1, 2)),
    *(Target(f"torch.nn:BatchNorm{rank}d", "torch") for rank in (1, 2, 3)),
    Target("torch.nn:SyncBatchNorm", "torch"),
    Target("torch.nn.functional:batch_norm", "torch"),
    Target("flax.linen:BatchNorm", "flax"),
    Target("flax.nnx:BatchNorm", "flax"),
    Target("haiku:BatchNorm", "dm-haiku"),
    Target("equinox.nn:BatchNorm", "equinox"),
    *(
        Target("keras.layers:BatchNormalization", "keras", f"KERAS_BACKEND={backend}")
        for backend in ("numpy", "torch", "jax")
    ),
    Target("tinygrad.nn:BatchNorm", "tinygrad"),
    *(Target(f"paddle.nn:BatchNorm{rank}D", "paddlepaddle") for rank in (1, 2)),
    Target("mygrad.nnet.layers:batchnorm", "mygrad"),
    Target("onnxruntime:InferenceSession", "onnxruntime"),
    Target("onnx.reference:ReferenceEvaluator", "onnx"),
    Target("openvino:Core", "openvino"),
)


# -- measuring ----------------------------------------------------------------------------------


def check(target: Target, examples: int) -> dict[str, Any]:
    """Return the report on a target, made in a process of its own, with what it was made with."""
    command = [sys.executable, "-m", "npbn.testing", target.name]
    command += ["--examples", str(examples), "--json"]
    settings = dict([target.settings.split("=")]) if target.settings else {}
    about = {"version": version(target.package), "python": platform.python_version()}
    about |= {"examples": examples, "processor": processor()}
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
        done = subprocess.run(
            [sys.executable, str(program)],
            env=os.environ | settings,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        last = done.stderr.strip().splitlines()[-1:] if done.returncode else []
        outputs += [done.stdout.strip(), *last]
    versions = {name: version(PACKAGES.get(name, name)) for name in sorted(needed - {"numpy"})}
    return {"output": "\n".join(outputs), "versions": versions}


PACKAGES = {"haiku": "dm-haiku", "paddle": "paddlepaddle"}  # where the name is another


def imported(program: Path) -> set[str]:
    """Return the modules that a program imports, beside the standard library's."""
    names = set()
    for node in ast.walk(ast.parse(program.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return {name for name in names if name.partition(".")[0] not in sys.stdlib_module_names}


def version(package: str) -> str:
    """Return the version of an installed package, or "" if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


# -- the page -----------------------------------------------------------------------------------

HEAD = """\
# BatchNorm in the wild

What `npbn.testing` finds of the BatchNorms of other libraries, on the CPU. **Correct** is right up
to rounding, by the measure of straightforward arithmetic; **contract** is npbn's accuracy promise,
which no other library makes. The worst errors are in eps of the result's dtype, among all behaviours
that were checked; infinite is NaN, or a shape or dtype that is not the right one. What a library
does not have is not checked. A line is reproduced by what stands below it in "How to reproduce".
"""


def page(folder: Path) -> str:
    """Return the page, made of the reports and findings in a folder."""
    reports = {
        target: json.loads((folder / target.file).read_text(encoding="utf-8"))
        for target in TARGETS
        if (folder / target.file).exists()
    }
    parts = [HEAD, table(COLUMNS, [line(*each) for each in reports.items()])]
    parts += ["\n## What is not right\n", *(failures(*each) for each in reports.items())]
    parts += ["\n## Findings\n", *findings(folder), "\n## How to reproduce\n"]
    parts += [reproduce(*each) for each in reports.items()]
    return "\n".join(part for part in parts if part)
