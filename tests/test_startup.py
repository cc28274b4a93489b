"""What an import costs is what it imports: the libraries that take seconds are loaded where they are used.

Each statement runs in an interpreter of its own. Nothing is timed here; ``benchmarks/startup.py`` does that.
"""

import json
import subprocess
import sys

import pytest

HEAVY = {
    "datasets", "diffusers", "faiss", "lightning", "matplotlib", "onnx", "onnxruntime", "pandas", "pyarrow",
    "pytorch_lightning", "ray", "scipy", "sklearn", "timm", "torchvision", "umap",
}  # fmt: skip
NOTHING = HEAVY | {"torch", "numpy", "PIL", "jsonargparse", "rich", "yaml"}


def imported(statement: str) -> set[str]:
    """Top-level names in ``sys.modules`` after the statement, in a fresh interpreter."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps([name for name in sys.modules if '.' not in name]))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(ran.stdout.splitlines()[-1]))


def test_the_names_are_those_that_python_uses():
    """A misspelt name would never be found in ``sys.modules``, and the tests below could not fail."""
    from importlib.util import find_spec

    extras = {"datasets", "diffusers", "onnx", "onnxruntime", "pytorch_lightning", "ray", "timm"}
    assert [name for name in NOTHING - extras if find_spec(name) is None] == []


@pytest.mark.parametrize(
    "statement",
    [
        "import counterpoint",
        "import counterpoint.cli",
        "from counterpoint.cli import main; main(['--help'])",
        "from counterpoint.cli import main; main(['--version'])",
        "import counterpoint; dir(counterpoint); counterpoint.methods.names()",
        "import counterpoint.experiments",
    ],
)
def test_imports_nothing_but_itself(statement):
    found = imported(statement)
    assert "counterpoint" in found
    assert found & NOTHING == set()


def test_papers_reads_the_catalogue_without_torch():
    found = imported("from counterpoint.cli import main; main(['papers'])")
    assert found & (HEAVY | {"torch"}) == set()


def test_floors_need_torch_and_nothing_heavier():
    floors = ("pairwise", "objectives", "views", "mining", "encoders", "data", "evaluation", "generators", "search")
    found = imported("import counterpoint\n" + "\n".join(f"import counterpoint.{floor}" for floor in floors))
    assert "torch" in found
    assert found & HEAVY == set()


def test_what_is_loaded_when_it_is_used_is_found():
    """The lazy names of the package lead somewhere."""
    import counterpoint

    assert all(getattr(counterpoint, name) is not None for name in counterpoint.__all__)
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        _ = counterpoint.fitt
