"""The page of ``python -m benchmarks wild``: what it is made of, and how it is written."""

import ast
import json
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.accuracy import short
from benchmarks.report import table

FINDINGS = Path(__file__).parent / "findings"


class Target(NamedTuple):
    """What is checked, the package that it is in, the settings that it needs, and how much."""

    name: str
    package: str
    settings: str = ""
    examples: int = 20  # of a behaviour

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
    Target("haiku:BatchNorm", "dm-haiku", examples=FEW),
    Target("equinox.nn:BatchNorm", "equinox", examples=FEW),
    *(
        Target("keras.layers:BatchNormalization", "keras", f"KERAS_BACKEND={backend}", examples)
        for backend, examples in (("numpy", 20), ("torch", 20), ("jax", FEW))
    ),
    Target("tinygrad.nn:BatchNorm", "tinygrad", examples=FEW),
    *(Target(f"paddle.nn:BatchNorm{rank}D", "paddlepaddle") for rank in (1, 2)),
    Target("mygrad.nnet.layers:batchnorm", "mygrad"),
    Target("onnxruntime:InferenceSession", "onnxruntime"),
    Target("onnx.reference:ReferenceEvaluator", "onnx"),
    Target("openvino:Core", "openvino"),
)


HEAD = """\
# BatchNorm in the wild

What `npbn.testing` finds of the BatchNorms of other libraries, on the CPU. **Correct** is right up
to rounding, by the measure of straightforward arithmetic; **contract** is npbn's accuracy promise,
which no other library makes. The worst errors are in eps of the result's dtype, over all behaviours
that were checked; ∞ is a NaN or an infinity where there is none. What a library does not have
is not checked.
"""
COLUMNS = ("target", "version", "checked", "correct", "contract", "y", "gradients", "statistics")
COLUMNS += ("convention", "fails")


def page(folder: Path) -> str:
    """Return the page, made of the reports and findings in a folder."""
    found = {
        target: json.loads((folder / target.file).read_text(encoding="utf-8"))
        for target in TARGETS
        if (folder / target.file).exists()
    }
    parts = [HEAD, table(COLUMNS, [row(*each) for each in found.items()])]
    parts += ["## What is not right\n", *(failures(*each) for each in found.items())]
    parts += ["## Findings\n", *findings(folder)]
    parts += ["## How to reproduce\n", *(reproduce(*each) for each in found.items())]
    return "\n".join(part for part in parts if part)


def row(target: Target, found: dict[str, Any]) -> list[str]:
    """Return a target's line of the table."""
    head = [target.title, f"{target.package} {found['version']}"]
    if "report" not in found:
        return [*head, *["-"] * (len(COLUMNS) - 3), cut(found["problem"])]
    report = found["report"]
    wrong = failed(report, "correct")
    return [
        *head,
        f"{report['checked']} of {report['of']}",
        "yes" if report["correct"] else "**no**",
        "yes" if report["accuracy_contract"] else "no",
        *(error(report["worst"], group) for group in ("y", "gradients", "statistics")),
        report["convention"],
        f"{len(wrong)}, contract {len(failed(report, 'contract'))}",
    ]


def error(worst: dict[str, float | None], group: str) -> str:
    """Return the largest error of a group; JSON has null for infinity."""
    if group not in worst:
        return "-"
    return "∞" if worst[group] is None else short(worst[group])


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
    """Return each finding's title, program and output."""
    parts = []
    for kept in sorted((folder / "findings").glob("*.json")):
        program = FINDINGS / f"{kept.stem}.py"
        text = program.read_text(encoding="utf-8")
        found = json.loads(kept.read_text(encoding="utf-8"))
        title = ast.get_docstring(ast.parse(text)).splitlines()[0]
        code = text.partition('"""\n\n')[2].strip()
        versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
        parts.append(
            f"### {title}\n\n`benchmarks/findings/{program.name}`, with {versions}:\n\n"
            f"```python\n{code}\n```\n\n```\n{found['output']}\n```\n"
        )
    return parts


def reproduce(target: Target, found: dict[str, Any]) -> str:
    """Return the commands that make a target's line."""
    install = "." if target.package == "npbn" else f"'{target.package}=={found['version']}'"
    settings = f"{target.settings} " if target.settings else ""
    command = f"{settings}python -m npbn.testing {target.name} --examples {found['examples']}"
    return f"- `pip install 'npbn[testing]' {install} && {command}` (Python {found['python']})"
