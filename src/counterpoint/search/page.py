"""The answers as one HTML page that needs no network: the query, and its neighbours by similarity."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from counterpoint.files import atomic
from counterpoint.search.answers import Hit, Query

if TYPE_CHECKING:
    from counterpoint.data import Dataset
    from counterpoint.search.store import Item

_SIDE = 160  # pixels of a thumbnail's longer side
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5c6670; --line: #d9dee3; --paper: #fff; --bar: #3b6fb6; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8ebee; --soft: #9aa5b0; --line: #353c44; --paper: #14171a; --bar: #7fa9e0; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 1.5rem 1rem; font: 15px/1.45 system-ui, sans-serif;
  color: var(--ink); background: var(--paper); }
h1 { font-size: 1.3rem; margin: 0 0 .2rem; }
p { margin: 0 0 1rem; color: var(--soft); }
.query { display: flex; gap: 1rem; align-items: center; padding-bottom: 1.2rem; margin-bottom: 1.2rem;
  border-bottom: 1px solid var(--line); }
.query img { flex: none; width: min(10rem, 30vw); }
.query p { margin: 0; }
ol { list-style: none; margin: 0; padding: 0; display: grid; gap: 1.1rem .9rem;
  grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); }
li { min-width: 0; break-inside: avoid; }
img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; border-radius: 4px;
  background: color-mix(in srgb, var(--line) 45%, transparent); }
img.small { image-rendering: pixelated; }
.bar { height: 4px; margin: .45rem 0 .35rem; border-radius: 2px; background: var(--line); }
.bar i { display: block; height: 100%; border-radius: 2px; background: var(--bar); print-color-adjust: exact; }
.line { display: flex; justify-content: space-between; gap: .5rem; font-variant-numeric: tabular-nums; }
.name { color: var(--soft); font-size: .82rem; overflow-wrap: anywhere; }
.label { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.other { font-style: italic; }
"""


def write_page(
    out: str | os.PathLike[str], query: Query, hits: Sequence[Hit], dataset: Dataset | None, run: str
) -> Path:
    """Write the page, atomically.

    Args:
        out: the file; its folder is made if missing.
        query, hits: as :func:`~counterpoint.search.search` found them.
        dataset: where pictures come from that are no files of their own.
        run: named on the page.
    """
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic(out, "w") as file:
        file.write(page(query, hits, dataset, run))
    return out


def page(query: Query, hits: Sequence[Hit], dataset: Dataset | None, run: str) -> str:
    """The page as a string of HTML. Where the query's class is known, hits of another class are marked."""
    asked = _image(query.picture, f"query {query.name}")
    known = "" if query.label is None else f" ({query.label})"
    name = query.name if query.row is None else f"item {query.name}"
    same = ""
    if query.label is not None and hits:
        right = sum(hit.label == query.label for hit in hits)
        same = f" {right} of {len(hits)} have the label of the query."
    answers = "\n".join(_answer(hit, picture_of(hit, dataset), query.label) for hit in hits)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>Most like {escape(query.name)}</title>
<style>{_STYLE}</style>
</head>
<body>
<header class="query">{asked}<div><h1>Most like {escape(name + known)}</h1>
<p>By cosine similarity of the features of {escape(run)}.{escape(same)}</p></div></header>
<ol>
{answers}
</ol>
</body>
</html>
"""


def _answer(hit: Hit, picture: np.ndarray | None, label: str | None) -> str:
    other = label is not None and hit.label != label
    shown = "" if hit.label is None else escape(("≠ " if other else "") + hit.label)
    kind = "label other" if other else "label"
    width = 100 * min(max(hit.score, 0.0), 1.0)
    return (
        f"<li>{_image(picture, hit.id)}"
        f'<div class="bar"><i style="width:{width:.1f}%"></i></div>'
        f'<div class="line"><span>{hit.rank}</span><span>{hit.score:.3f}</span></div>'
        f'<div class="{kind}">{shown}</div>'
        f'<div class="name">{escape(hit.id)}</div></li>'
    )


def picture_of(hit: Hit | Item, dataset: Dataset | None) -> np.ndarray | None:
    """The picture (H, W, 3) of an item: its file at its own resolution or, where there is none, what the data hold."""
    picture = None if hit.path is None else picture_file(hit.path)
    if picture is None and dataset is not None and dataset.modality == "image":
        return dataset.thumbnail(hit.row)
    return picture


def picture_file(path: str) -> np.ndarray | None:
    """An image file as uint8 (H, W, 3), shrunk to a thumbnail; None where it cannot be read any more."""
    from counterpoint.data.images import decode, look

    try:
        height, width, _ = look(path)
        scale = min(1.0, 2 * _SIDE / max(height, width))
        size = max(1, round(height * scale)), max(1, round(width * scale))
        return decode(path, size, 3).transpose(1, 2, 0)
    except Exception:  # moved, or broken since it was embedded: the page does without
        return None


def _image(picture: np.ndarray | None, text: str) -> str:
    """A picture as an ``img`` with its content inside; pixels of a tiny one stay sharp."""
    if picture is None:
        return ""
    from PIL import Image

    shown = Image.fromarray(np.ascontiguousarray(picture))
    small = max(shown.size) <= _SIDE // 2
    file = io.BytesIO()
    if small:
        shown.save(file, "PNG", optimize=True)
    else:
        shown.thumbnail((2 * _SIDE, 2 * _SIDE))
        shown.save(file, "WEBP", quality=82)
    content = base64.b64encode(file.getvalue()).decode()
    kind = 'class="small" src="data:image/png' if small else 'src="data:image/webp'
    return f'<img {kind};base64,{content}" alt="{escape(text, quote=True)}">'
