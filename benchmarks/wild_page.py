"""The page of ``python -m benchmarks wild``: what it is made of, and how it is written."""

import ast
import json
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.accuracy import short
from benchmarks.report import table
from npbn.testing.report import GROUPS

CASE_SECONDS = 120  # compilers take their time on a machine with other load
FINDINGS = Path(__file__).parent / "findings"


class Target(NamedTuple):
    """What is checked, the package that it is in, the settings that it needs, and how much.

    `needs` are packages that this one does not install itself.
    """

    name: str
    package: str
    settings: str = ""
    examples: int = 5  # of a behaviour
    needs: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """How the table names it."""
        return f"{self.name} ({self.settings.partition('=')[2]})" if self.settings else self.name

    @property
    def file(self) -> str:
        """The file of its report."""
        return f"{self.name} {self.settings}".strip().replace(":", ".").replace(" ", "-") + ".json"


FEW = 3  # examples where each new shape is compiled, half a second of a processor for XLA
TARGETS = (
    *(Target(f"npbn:BatchNorm{rank}d", "npbn") for rank in (1, 2)),
    *(Target(f"torch.nn:BatchNorm{rank}d", "torch") for rank in (1, 2, 3)),
    Target("torch.nn:SyncBatchNorm", "torch"),
    Target("torch.nn.functional:batch_norm", "torch"),
    Target("flax.linen:BatchNorm", "flax", examples=FEW),
    Target("flax.nnx:BatchNorm", "flax", examples=FEW),
    Target("haiku:BatchNorm", "dm-haiku", examples=FEW, needs=("jax",)),
    Target("equinox.nn:BatchNorm", "equinox", examples=FEW),
    *(
        Target("keras.layers:BatchNormalization", "keras", f"KERAS_BACKEND={backend}", *rest)
        for backend, *rest in (("numpy", 5), ("torch", 5, ("torch",)), ("jax", FEW, ("jax",)))
    ),
    Target("tinygrad.nn:BatchNorm", "tinygrad", examples=FEW),
    *(Target(f"paddle.nn:BatchNorm{rank}D", "paddlepaddle") for rank in (1, 2)),
    Target("mygrad.nnet.layers:batchnorm", "mygrad"),
    Target("onnxruntime:InferenceSession", "onnxruntime", needs=("onnx",)),
    Target("onnx.reference:ReferenceEvaluator", "onnx"),
    Target("openvino:Core", "openvino", needs=("onnx",)),
)


HEAD = """\
# BatchNorm in the wild

What `npbn.testing` finds of the BatchNorms of other libraries, on the CPU, with what the adapters
in `npbn/testing/adapters/` set (float64 in JAX, `mode="batch"` in Equinox, one thread in ONNX
Runtime), and with {examples} examples of a behaviour, as the command says that reproduces a line.
**Correct** is right up to rounding: the tolerance is what straightforward
arithmetic in the input's dtype may lose. **Contract** is npbn's own accuracy promise, which no
other library makes; the number is that of the behaviours beyond it. The largest errors are in eps
of the result's dtype, over the behaviours that belong to "correct"; ∞ is a NaN or an infinity
where there should be a number, and beyond 1e30 every term of the exact result is 0, as in the
weight's gradient of a constant channel. What a library does not have is not checked.

Processor: {processor}. The page is made by `python -m benchmarks wild`.
"""
COLUMNS = ("target", "version", "checked", "correct", "contract", *GROUPS, "convention", "remarks")
SHOWN = 3  # behaviours in the table; the others stand below it


def page(folder: Path) -> str:
    """Return the page, made of the reports and findings in a folder."""
    found = {
        target: json.loads((folder / target.file).read_text(encoding="utf-8"))
        for target in TARGETS
        if (folder / target.file).exists()
    }
    processors = "; ".join(sorted({each["processor"] for each in found.values()}))
    numbers = sorted({each["examples"] for each in found.values()})
    parts = [HEAD.format(processor=processors, examples=" or ".join(map(str, numbers)))]
    parts += [table(COLUMNS, [row(*each) for each in found.items()])]
    parts += ["## What is not right\n", *(failures(*each) for each in found.items())]
    parts += ["## Findings\n", *findings(folder)]
    parts += ["## How to reproduce\n", "In a clone of npbn:\n"]
    parts += [reproduce(*each) for each in found.items()]
    return "\n".join(part for part in parts if part) + "\n"


def row(target: Target, found: dict[str, Any]) -> list[str]:
    """Return a target's line of the table."""
    head = [target.title, f"{target.package} {found['version']}"]
    if "report" not in found:
        return [*head, *["-"] * (len(COLUMNS) - 3), cut(found["problem"])]
    report = found["report"]
    wrong = [each["name"] for each in failed(report, "correct")]
    more = [f"and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else []
    beyond = len(failed(report, "contract"))
    return [
        *head,
        f"{report['checked']} of {report['of']}",
        {0: "yes", 1: "**no**", 2: "undecided"}[report["status"]],
        f"no ({beyond})" if beyond else "yes",
        *(worst(report, group) for group in GROUPS),
        report["convention"],
        "; ".join([*wrong[:SHOWN], *more]),
    ]


def worst(report: dict[str, Any], group: str) -> str:
    """Return the largest error of y, gradients or statistics; JSON has null for infinity."""
    errors = [
        each["errors"][name]
        for each in report["behaviours"]
        for name in GROUPS[group]
        if each["correct"] != "not part" and name in each["errors"]
    ]
    if not errors:
        return "-"
    return "∞" if None in errors else short(max(errors))


def failed(report: dict[str, Any], measure: str) -> list[dict[str, Any]]:
    """Return the behaviours that failed by a measure."""
    return [each for each in report["behaviours"] if each[measure] == "failed"]


def failures(target: Target, found: dict[str, Any]) -> str:
    """Return what is not correct in a target, and its remarks, as a list."""
    if "report" not in found:
        return ""
    report = found["report"]
    lines = [f"- {each['name']}: {cut(each['problem'])}" for each in failed(report, "correct")]
    lines += [f"- remark: {text}" for text in sorted({*remarks(report)})]
    if report["explanation"]:
        lines.append(f"- convention: {report['explanation']}")
    return f"### {target.title}\n\n" + "\n".join(lines) + "\n" if lines else ""


def remarks(report: dict[str, Any]) -> list[str]:
    """Return what the report remarks."""
    return [each["remark"] for each in report["behaviours"] if each["remark"]]


def cut(text: str) -> str:
    """Return a problem in at most 200 characters, as Markdown shows them."""
    line = " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
    return line if len(line) <= 200 else line[:197] + "..."


def findings(folder: Path) -> list[str]:
    """Return a table of the verdicts, and each finding's title, program and output."""
    verdicts, parts = [], []
    for kept in sorted((folder / "findings").glob("*.json")):
        program = FINDINGS / f"{kept.stem}.py"
        text = program.read_text(encoding="utf-8")
        found = json.loads(kept.read_text(encoding="utf-8"))
        title = ast.get_docstring(ast.parse(text)).splitlines()[0]
        code = text.partition('"""\n\n')[2].strip()
        versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
        said = dict.fromkeys(found["output"].splitlines())
        verdict = [line for line in said if line in ("confirmed", "refuted")]
        verdicts.append([title, ", ".join(verdict) or "failed", versions])
        parts.append(
            f"### {title}\n\n`benchmarks/findings/{program.name}`, with {versions}:\n\n"
            f"```python\n{code}\n```\n\n```\n{found['output']}\n```\n"
        )
    return [table(("finding", "verdict", "with"), verdicts), *parts] if parts else []


def reproduce(target: Target, found: dict[str, Any]) -> str:
    """Return the commands that make a target's line."""
    versions = {target.package: found["version"], **found.get("needs", {})}
    versions.pop("npbn", None)  # the clone
    packages = "".join(f" '{name}=={version}'" for name, version in versions.items())
    settings = f"{target.settings} " if target.settings else ""
    command = f"{settings}python -m npbn.testing {target.name} --examples {found['examples']}"
    command += f" --seconds {CASE_SECONDS}"
    return f"- `pip install '.[testing]'{packages} && {command}` (Python {found['python']})"
