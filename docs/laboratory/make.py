"""Write the laboratory's verdicts and pictures into this folder, from the results of a run.

``python -m examples.lab && python -m docs.laboratory.make runs/lab/default``
"""

import io
import json
import sys
from pathlib import Path

import matplotlib
from matplotlib import pyplot as plt
from PIL import Image

from examples.lab import EXPERIMENTS, drawing
from examples.lab.experiment import Picture, experiment

HERE = Path(__file__).parent
DPI = 120  # of pictures 4.8 inches wide
COLOURS = 64  # of a picture's palette: a third of the bytes


def main(folder: Path) -> None:
    """Read the results of all experiments; write results.md and the pictures."""
    text = "".join(section(name, folder / f"{name}.json") for name in EXPERIMENTS)
    (HERE / "results.md").write_text(text, encoding="utf-8")


def made_with(saved: dict) -> str:
    """Return what the results of an experiment depend on, as text."""
    about = saved["made_with"]
    flag = "" if about["budget"] == "default" else f" --{about['budget']}"
    trials = len(saved["results"])
    data = about["data"].partition(" (")[0]
    return f"{flag}`: {trials} trials, {data}, npbn {about['npbn']}, engine {about['engine']}."


def section(name: str, path: Path) -> str:
    """Draw the pictures of an experiment; return its part of the page."""
    about, saved = experiment(name), json.loads(path.read_bytes())
    records = [{**entry["trial"], **entry["result"]} for entry in saved["results"]]
    verdict = about.verdict(records)
    with matplotlib.rc_context({**drawing.STYLE, **drawing.SCHEMES["light"], "figure.dpi": DPI}):
        pictures = [save(name, picture) for picture in about.pictures(records)]
        plt.close("all")
    parts = "".join(
        f"- {part}: **{'seen' if held else 'not seen'}**\n" for part, held in verdict.parts.items()
    )
    return f"""\
## {about.TITLE}

{about.QUESTION}

**Claim.** {sentence(about.CLAIM)} ({about.SOURCE})

**Verdict: {verdict.outcome}.** {sentence(verdict.seen)}

{parts}
::::{{container}} pictures
{"".join(pictures)}::::

<details><summary>The idea</summary>

{about.IDEA.strip()}

</details>

`python -m examples.lab {name}{made_with(saved)}

"""


def save(name: str, picture: Picture) -> str:
    """Write a picture; return the lines that show it."""
    drawn = io.BytesIO()
    picture.figure.savefig(drawn, format="png", metadata={"Software": None})
    file = f"{name}_{picture.name}.png"
    image = Image.open(drawn).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    image.save(HERE / file, optimize=True)
    return f"```{{image}} laboratory/{file}\n:alt: {picture.alt}\n```\n\n"


def sentence(clause: str) -> str:
    """Return a clause as a sentence."""
    return clause[0].upper() + clause[1:] + "."


if __name__ == "__main__":
    main(Path(sys.argv[1]))
