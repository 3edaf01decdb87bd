"""The pictures of an experiment in a folder; they are drawn again when what they show is new.

Beside the pictures, NAME_pictures.json says what they were made of, and holds the checksums of
their files: one that is missing or was changed has them drawn again.
"""

import json
import zlib
from pathlib import Path

import matplotlib

from examples.lab import drawing
from examples.lab.drawing import Rendered
from examples.lab.results import Results
from npbn.io.atomic import replace


def read(folder: Path, name: str, results: Results) -> list[Rendered] | None:
    """Return the pictures of these results, or None if they have to be drawn."""
    try:
        index = json.loads(_index(folder, name).read_bytes())
        if index["made_of"] != _made_of(results):
            return None
        found = []
        for about in index["pictures"]:
            files = [path.read_bytes() for path in _paths(folder, name, about["name"])]
            if list(map(zlib.crc32, files)) != about["checksums"]:
                return None
            found.append(Rendered(about["name"], about["alt"], *files))
        return found
    except (OSError, ValueError, KeyError, TypeError):  # none, or something else altogether
        return None


def write(folder: Path, name: str, results: Results, pictures: list[Rendered]) -> None:
    """Write the pictures, and last what they were made of."""
    about = []
    for picture in pictures:
        files = (picture.light, picture.dark)
        for path, content in zip(_paths(folder, name, picture.name), files, strict=True):
            replace(str(path), lambda new, content=content: Path(new).write_bytes(content))
        checksums = list(map(zlib.crc32, files))
        about.append({"name": picture.name, "alt": picture.alt, "checksums": checksums})
    text = json.dumps({"made_of": _made_of(results), "pictures": about}, indent=1) + "\n"
    replace(str(_index(folder, name)), lambda new: Path(new).write_text(text, encoding="utf-8"))


def _index(folder: Path, name: str) -> Path:
    return folder / f"{name}_pictures.json"


def _paths(folder: Path, name: str, picture: str) -> list[Path]:
    """Return the files for a light page and for a dark one."""
    return [folder / f"{name}_{picture}{scheme}.png" for scheme in ("", "_dark")]


def _made_of(results: Results) -> str:
    """Return what tells these results, and the code that draws them, from others."""
    shown = json.dumps([results.made_with, results.records]).encode()
    code = Path(drawing.__file__).read_bytes()
    return f"{zlib.crc32(shown):08x} {zlib.crc32(code):08x} matplotlib {matplotlib.__version__}"
