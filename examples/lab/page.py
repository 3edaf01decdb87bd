"""One page of all experiments, which needs nothing but itself."""

import base64
from html import escape
from pathlib import Path

from examples.lab.drawing import Rendered
from examples.lab.experiment import experiment
from examples.lab.results import Results
from npbn.io.atomic import replace

TEMPLATE = Path(__file__).with_name("page.html")
CLASS = {"supported": "yes", "not supported": "no", "mixed": "mixed"}


def write(path: Path, found: dict[str, tuple[Results, list[Rendered]]], flags: str) -> None:
    """Write the page of these experiments, given with their results and pictures.

    `flags` is what stood on the command line besides the names of experiments.
    """
    contents, sections = "", ""
    for name, (results, pictures) in found.items():
        about = experiment(name)
        verdict = about.verdict(results.records)
        badge = f'<span class="{CLASS[verdict.outcome]}">{verdict.outcome}</span>'
        contents += f'<li><a href="#{name}">{escape(about.TITLE)}</a>: {badge}</li>'
        sections += _section(name, results, pictures, badge, flags)
    page = TEMPLATE.read_text(encoding="utf-8")
    page = page.replace("<!--CONTENTS-->", contents).replace("<!--SECTIONS-->", sections)
    replace(str(path), lambda temporary: Path(temporary).write_text(page, encoding="utf-8"))


def _section(name: str, results: Results, pictures: list[Rendered], badge: str, flags: str) -> str:
    about, records = experiment(name), results.records
    verdict = about.verdict(records)
    parts = "".join(
        f'<li class="{"yes" if held else "no"}">{escape(part)}: {"seen" if held else "not seen"}'
        for part, held in verdict.parts.items()
    )
    idea = about.IDEA.strip().split("\n\n")
    command = " ".join(["python -m examples.lab", name, flags]).strip()
    made_with = ", ".join(f"{key} {value}" for key, value in results.made_with.items())
    return f"""
<section id="{name}">
<h2>{escape(about.TITLE)}</h2>
<p class="question">{escape(about.QUESTION)}</p>
<p><b>Claim.</b> {escape(_sentence(about.CLAIM))} <cite>{escape(about.SOURCE)}.</cite></p>
<div class="pictures">{"".join(map(_picture, pictures))}</div>
<div class="verdict">{badge} {escape(_sentence(verdict.seen))}
<ul>{parts}</ul></div>
<details><summary>The idea</summary>{"".join(f"<p>{escape(part)}</p>" for part in idea)}</details>
<details><summary>The numbers</summary><div class="scroll">{_table(about.table(records))}</div>
</details>
<pre><code>{escape(command)}</code></pre>
<p class="quiet">{len(records)} trials; {escape(made_with)}</p>
</section>"""


def _sentence(clause: str) -> str:
    return clause[0].upper() + clause[1:] + "."


def _picture(picture: Rendered) -> str:
    light, dark = (
        "data:image/png;base64," + base64.b64encode(data).decode()
        for data in (picture.light, picture.dark)
    )
    return (
        f'<picture><source srcset="{dark}" media="(prefers-color-scheme: dark)">'
        f'<img src="{light}" alt="{escape(picture.alt)}"></picture>'
    )


def _table(rows: list[list[str]]) -> str:
    def row(cells: list[str], kind: str) -> str:
        return "<tr>" + "".join(f"<{kind}>{escape(c)}</{kind}>" for c in cells) + "</tr>"

    head, *body = rows
    return f"<table>{row(head, 'th')}{''.join(row(cells, 'td') for cells in body)}</table>"
