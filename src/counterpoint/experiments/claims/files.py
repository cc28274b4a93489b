"""Where claims are: files ``claims/*.py`` of the checkout, each defining ``CLAIM``."""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import replace
from pathlib import Path

from counterpoint import papers
from counterpoint.experiments.claims.define import Claim, nearest


def claims_folder() -> Path:
    """The folder ``claims/`` of the checkout.

    Raises:
        FileNotFoundError: this is an installed package, which has none.
    """
    checkout = Path(__file__).resolve().parents[4]
    if (checkout / "pyproject.toml").is_file() and (checkout / "claims").is_dir():
        return checkout / "claims"
    raise FileNotFoundError(
        "claim: the installed package carries no claims to measure. Clone the repository and run it from there, or "
        "give the path of a file that defines CLAIM = Claim(...)."
    )


def claims(folder: str | os.PathLike[str] | None = None) -> list[Claim]:
    """All claims of a folder, default :func:`claims_folder`, by file name."""
    return [load_claim(file) for file in _files(Path(folder) if folder else claims_folder())]


def find(key: int | str | os.PathLike[str], folder: str | os.PathLike[str] | None = None) -> Claim:
    """One claim: by its name, by the number, key or short name of its paper, or by the path of its file.

    Raises:
        ValueError: no such claim, with the nearest name; a paper with several; a file without one.
        FileNotFoundError: there are no claims here.
    """
    word = os.fspath(key) if isinstance(key, os.PathLike) else str(key).strip()
    if word.endswith(".py"):
        if not Path(word).is_file():
            raise FileNotFoundError(f"claim: there is no file {word}")
        return load_claim(Path(word))
    place = Path(folder) if folder else claims_folder()
    for file in _files(place):
        if _slug(file) == word.lower().replace("_", "-"):
            return load_claim(file)
    known = claims(place)
    try:
        paper = papers.get(word)
    except ValueError:
        names = [claim.name for claim in known]
        raise ValueError(f"claim: no claim {word!r}{nearest(word.lower(), names)}") from None
    found = [claim for claim in known if claim.paper == paper.key]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"claim: {paper.short} has several; name one: {', '.join(claim.name for claim in found)}")
    there = ", ".join(f"{claim.name} ({claim.paper})" for claim in known) or "none yet"
    raise ValueError(f"claim: none is written for {paper.short} ({paper.key}) yet; there are: {there}")


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.py") if not file.stem.startswith("_"))


def _slug(file: Path) -> str:
    return file.stem.replace("_", "-")


def load_claim(file: Path) -> Claim:
    """Run a claim's file and take the claim that it defines.

    Its module can be imported again by name, which is how a run finds a class defined in it.

    Raises:
        ValueError: the file defines none, or calls it otherwise than itself.
    """
    name = f"counterpoint_claim_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    claim = getattr(module, "CLAIM", None)
    if not isinstance(claim, Claim):
        raise ValueError(f"claim: {file} defines no CLAIM = Claim(...)")
    if claim.name != _slug(file):
        raise ValueError(f"claim: {file} calls its claim {claim.name!r}; give both one name")
    return replace(claim, file=file.resolve())
