"""A trained encoder as something to hand on: a folder that opens again, or one ONNX file for any other runtime.

What leaves the house is checked on its way out. The folder is the encoder's own (``config.json``,
``model.safetensors``) with a model card beside it, and :func:`counterpoint.load` opens it. The ONNX file takes a batch
of any size, of pixels in [0, 1] or of vectors as they come: the standardisation is inside it. It is run once by ONNX
Runtime and compared with torch before it appears under its name.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from counterpoint.encoders.encoder import Encoder, load
from counterpoint.encoders.multimodal import MultimodalEncoder
from counterpoint.files import atomic

if TYPE_CHECKING:
    import onnx

FORMATS = ("safetensors", "onnx")
TOLERANCE = 1e-4  # largest difference of a feature between torch and ONNX Runtime; float32 sums in another order
_TRIED = (1, 5)  # batch sizes: the smallest, and one that is none of the sizes the graph was traced with


def export(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    format: str = "safetensors",
    opset: int | None = None,
    check: bool = True,
    overwrite: bool = False,
) -> Path:
    """Write the encoder of a run where others can use it.

    Args:
        run: folder of a run or of an encoder.
        out: what to write: a folder (safetensors) or a file ending in .onnx.
        format: safetensors, a folder with config and model card that ``counterpoint.load`` opens; or onnx, one file.
        opset: of ONNX; default what torch writes.
        check: run the ONNX file and compare it with torch.
        overwrite: replace what is at ``out``.

    Returns:
        ``out``.

    Raises:
        FileNotFoundError: no encoder in ``run``.
        FileExistsError: there is something at ``out`` and ``overwrite`` is False.
        ValueError: unknown format, an encoder that cannot be opened, or one that ONNX cannot express.
        ArithmeticError: ONNX Runtime's features differ from torch's by more than 1e-4; nothing is written.
        ImportError: onnx is asked for without the packages it needs.
    """
    out = Path(out)
    if format not in FORMATS:
        raise ValueError(f"format: expected one of {', '.join(FORMATS)}, got {format!r}")
    encoder = load(run)
    if format == "onnx" and out.suffix != ".onnx":
        raise ValueError(f"out: expected a file ending in .onnx, got {os.fspath(out)!r}")
    if format == "safetensors" and out.is_file():
        raise ValueError(f"out: expected a folder for format='safetensors', and {out} is a file")
    if not overwrite and out.exists() and (out.is_file() or any(out.iterdir())):
        raise FileExistsError(f"out: {out} exists already; replace it with overwrite, or name another")
    if format == "onnx" and encoder.modality == "multimodal":
        raise ValueError(f"format: ONNX holds one encoder, and {run} has a tower for each modality; take safetensors")
    if format == "onnx":
        _write_onnx(encoder, out, opset, check)
    else:
        encoder.save(out, **encoder.config.get("extra", {}))
        with atomic(out / "README.md", "w") as file:
            file.write(model_card(encoder, _scores(Path(run))))
    return out


def _scores(run: Path) -> dict[str, float]:
    """What the run scored; nothing where it was not evaluated or only the encoder's folder is there."""
    try:
        told = json.loads((run / "evaluation.json").read_text("utf-8"))["scores"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {name: float(value) for name, value in told.items() if isinstance(value, int | float)}


def model_card(encoder: Encoder | MultimodalEncoder, scores: dict[str, float]) -> str:
    """What an encoder is and how to open it, as Markdown with the front matter that model hubs read.

    Args:
        encoder: with what :meth:`Encoder.save` kept in ``config["extra"]``.
        scores: by name, on the test part of its data; may be empty.
    """
    config, extra = encoder.config, encoder.config.get("extra", {})
    name, method, data = config["name"], extra.get("method"), extra.get("data")
    size = " x ".join(map(str, encoder.shape))
    weights = sum(parameter.numel() for parameter in encoder.parameters())
    towers = encoder.towers if isinstance(encoder, MultimodalEncoder) else {}
    what = {
        "image": f"images ({size}) with pixels in [0, 1], or as uint8; it standardises them itself",
        "multimodal": ", ".join(f"{key} ({tower.kind})" for key, tower in towers.items()),
    }.get(encoder.modality, f"vectors of {size} numbers; it standardises them itself")
    count = encoder.dim if isinstance(encoder, MultimodalEncoder) else encoder.features
    use = [f"features = encoder.embed(torch.rand(4, {', '.join(map(str, encoder.shape))}))  # (4, {count})"]
    if towers:
        use = [f'vectors = encoder.embed("{key}", items)  # (N, {count}), of length 1' for key in towers]
    trained = "".join(f" {word} {value}" for word, value in (("by", method), ("on", data)) if value)
    facts = {
        "Encoder": f"`{name}`, {weights:,} weights",
        "Input": what,
        "Output": f"{count} {'dimensions in one space' if towers else 'features'}; compare them by cosine similarity",
        "Method": method,
        "Data": data,
        "Seed": extra.get("seed"),
        "Trained": extra.get("trained"),
    }
    lines = [
        "---",
        "library_name: counterpoint",
        "tags: [feature-extraction, contrastive-learning]",
        "---",
        f"# {name}{', trained' + trained if trained else ''}",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {key} | {_cell(value)} |" for key, value in facts.items() if value is not None),
        "",
        "```python",
        "import torch",
        "from counterpoint import Encoder",
        "",
        'encoder = Encoder.from_pretrained("path/to/this/folder")',
        *use,
        "```",
    ]
    if scores:
        lines += [
            "",
            "Measured on the test part of its data, with the encoder frozen:",
            "",
            "| score | |",
            "| --- | --: |",
        ]
        lines += [f"| {_cell(score)} | {value:.4f} |" for score, value in scores.items()]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    """A value that cannot break out of its cell of a table."""
    return " ".join(str(value).replace("|", "\\|").split())


def _write_onnx(encoder: Encoder, out: Path, opset: int | None, check: bool) -> None:
    model = to_onnx(encoder, opset)
    content = model.SerializeToString()
    if check:
        difference = onnx_difference(content, encoder)
        if not difference <= TOLERANCE:  # NaN fails too
            raise ArithmeticError(
                f"format: the features of the ONNX file differ from torch's by {difference:.2g}, more than "
                f"{TOLERANCE:g}. Try another opset; nothing was written."
            )
        tried = " and ".join(map(str, _TRIED))
        print(f"{out}: differs from torch by at most {difference:.1e}, at batches of {tried}", file=sys.stderr)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic(out) as file:
        file.write(content)


def to_onnx(encoder: Encoder, opset: int | None = None) -> onnx.ModelProto:
    """The encoder as an ONNX graph from ``pixels`` (B, C, H, W) or ``vectors`` (B, F) to ``features`` (B, D).

    B is free; the rest is the encoder's shape.

    Raises:
        ImportError: onnx or onnxscript is missing.
        ValueError: the encoder, or the opset, is beyond torch's exporter.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch's exporter is built on it
    except ImportError as error:
        raise ImportError(f"format: onnx needs {error.name}: pip install 'counterpoint[onnx]'") from error
    name = "pixels" if encoder.modality == "image" else "vectors"
    example = torch.rand(2, *encoder.shape, device=encoder.mean.device)  # 0 and 1 rows would be taken for constants
    training = encoder.training
    try:
        with _quiet():
            program = torch.onnx.export(
                encoder.eval(),
                (example,),
                input_names=[name],
                output_names=["features"],
                opset_version=opset,
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # the exporter raises its own kinds, and those of every stage below it
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"format: {encoder.config['name']!r} cannot be written as ONNX: {reason}") from error
    finally:
        encoder.train(training)
    assert program is not None
    model = program.model_proto
    extra = encoder.config.get("extra", {})
    facts = {"encoder": encoder.config["name"], **{key: extra[key] for key in ("method", "data") if key in extra}}
    onnx.helper.set_model_props(model, {f"counterpoint.{key}": str(value) for key, value in facts.items()})
    onnx.checker.check_model(model)
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress and its remarks on its own internals from the user."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def onnx_difference(content: bytes, encoder: Encoder) -> float:
    """The largest difference of a feature between ONNX Runtime and torch, on random input at two batch sizes.

    Args:
        content: of the ONNX file.
        encoder: what it was made from.

    Returns:
        the difference, infinite where the shapes differ.

    Raises:
        ImportError: onnxruntime is missing.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            "check: comparing with torch needs onnxruntime: pip install 'counterpoint[onnx]' (or check=False)"
        ) from error
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    for batch in _TRIED:
        x = torch.rand(batch, *encoder.shape, generator=generator)
        ours: Tensor = encoder.embed(x.to(encoder.mean.device)).cpu()
        theirs = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
        if theirs.shape != ours.shape:
            return float("inf")
        largest = max(largest, float((ours - theirs).abs().max()))
    return largest
