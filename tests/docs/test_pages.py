"""What the pages say of the package is so: links lead somewhere, Python examples call what exists by its arguments."""

import ast
import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest

import counterpoint

ROOT = Path(__file__).parents[2]
PAGES = {
    str(page.relative_to(ROOT)): page.read_text(encoding="utf-8")
    for page in [ROOT / "README.md", ROOT / "benchmarks/README.md", *sorted(ROOT.glob("docs/*.md"))]
}
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)(?:#[^)]*)?\)")
CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)
GENERATED = "papers/"  # by docs/gen_papers.py, while MkDocs builds


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page):
    links = [link for link in LINK.findall(PAGES[page]) if not link.startswith((GENERATED, "counterpoint."))]
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


def calls():
    """Each call of a public function that an example makes: page, its dotted name, and the call."""
    for page, text in PAGES.items():
        for block in CODE.findall(text):
            tree, names = ast.parse(block), {}
            for node in ast.walk(tree):
                if isinstance(node, ast.Import):
                    names |= {a.asname or a.name: a.name for a in node.names if a.name == "counterpoint"}
                if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("counterpoint"):
                    names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
            for node in ast.walk(tree):
                if isinstance(node, ast.Call):
                    first, *rest = ast.unparse(node.func).split(".")
                    if first in names:
                        yield page, ".".join([names[first], *rest]), node


def test_there_are_calls_to_check():
    assert {"counterpoint.fit", "counterpoint.compare", "counterpoint.load"} <= {name for _, name, _ in calls()}


@pytest.mark.parametrize(("page", "name", "call"), [pytest.param(*c, id=f"{c[0]}-{c[1]}") for c in calls()])
def test_examples_call_what_exists(page, name, call):
    module, _, function = name.rpartition(".")
    target = getattr(counterpoint if module == "counterpoint" else import_module(module), function)
    inspect.signature(target).bind(*call.args, **{k.arg: k.value for k in call.keywords})


def test_the_readme_is_short():
    assert len(PAGES["README.md"].splitlines()) < 150


def test_the_readme_names_every_method():
    from counterpoint import methods

    said = set(re.findall(r"`(\w+)`", PAGES["README.md"].partition("## Methods")[2].partition("\n## ")[0]))
    trainable = {name for name in methods.names() if name not in said}
    assert trainable <= {"untrained"}, f"methods that the README does not name: {trainable}"


def test_the_readme_lists_what_a_run_leaves(tmp_path):
    """Every file and folder of a finished run is in the table, but for the log of its page's pictures."""
    run = counterpoint.fit(
        "digits", "simclr", out=str(tmp_path / "run"), epochs=1, limit=300, threads=1, report=False, progress=False
    )
    table = PAGES["README.md"].partition("## What a run leaves")[2].partition("\n## ")[0]
    left = {path.name + "/" * path.is_dir() for path in run.folder.iterdir() if not path.name.startswith(".")}
    assert "encoder/" in left
    assert [name for name in left if f"`{name}`" not in table] == []


@pytest.mark.paper(64, "docs")
def test_generated_data_are_explained():
    page = PAGES["docs/generated.md"]
    for word in ("--generated gmm", "--real_repeats", "adainf_asymmetric", "closer_than_held_out"):
        assert word in page


def test_every_method_has_its_place_in_the_reference():
    from counterpoint.methods import names

    listed = re.findall(
        r"^::: (counterpoint\.methods\.\w+\.\w+)$", (ROOT / "docs/reference/methods.md").read_text(), re.M
    )
    assert sorted(listed) == sorted(names().values())
