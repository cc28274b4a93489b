"""The plugin, end to end: pytest runs marked tests in a process of its own and the file says what happened."""

import json
import os
import subprocess
import sys

import pytest

from counterpoint import papers
from counterpoint.papers.status import status

TESTS = """
import pytest

@pytest.mark.paper(12, "parity")
@pytest.mark.parametrize("case", [1, 2])
def test_figures(case):
    assert case in (1, 2)

@pytest.mark.paper("simclr", "trains")
def test_training():
    assert True

@pytest.mark.paper(12, "trains")
def test_not_here():
    pytest.skip("no data")

def test_unmarked():
    pass
"""


class Project:
    def __init__(self, folder):
        self.folder, self.evidence = folder, folder / "evidence.json"

    def write(self, source, name="test_a.py"):
        (self.folder / name).write_text(source)

    def run(self, *arguments, record=True):
        command = [sys.executable, "-m", "pytest", "-q", "-p", "counterpoint.papers.evidence", "-p", "no:cacheprovider"]
        command += ["--rootdir=.", f"--evidence-file={self.evidence}", *(["--record-evidence"] if record else [])]
        alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        alone |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}
        command += arguments
        return subprocess.run(command, cwd=self.folder, env=alone, capture_output=True, text=True, timeout=60)

    def tests(self, key, kind):
        return json.loads(self.evidence.read_text()).get(key, {}).get(kind, {}).get("tests", {})

    def status(self, key):
        return status(papers.get(key), self.evidence, self.folder / "none")


@pytest.fixture
def project(tmp_path):
    made = Project(tmp_path)
    made.write("[pytest]\n", "pytest.ini")
    made.write(TESTS)
    return made


def test_nothing_is_written_unasked(project):
    assert project.run(record=False).returncode == 0
    assert not project.evidence.exists()


def test_outcomes_become_status(project):
    assert project.run().returncode == 0
    assert project.tests("12", "parity") == {f"test_a.py::test_figures[{case}]": "passed" for case in (1, 2)}
    assert project.tests("12", "trains") == {}  # a skipped test shows nothing
    assert project.status("12").stage == "parity"
    assert project.status("simclr").stage == "trains"
    entry = json.loads(project.evidence.read_text())["B1"]["trains"]
    assert entry["versions"]["python"]
    assert entry["date"]


def test_a_failure_is_recorded_and_other_papers_are_left_alone(project):
    project.run()
    project.write(TESTS.replace("case in (1, 2)", "case == 1"))
    assert project.run("-k", "figures").returncode == 1
    assert project.tests("12", "parity")["test_a.py::test_figures[2]"] == "failed"
    assert project.status("12").failing == ("parity",)
    assert project.status("simclr").stage == "trains"


def test_an_error_in_a_fixture_is_a_failure(project):
    broken = "\n@pytest.fixture(autouse=True)\ndef broken():\n    yield\n    raise RuntimeError\n"
    project.write(TESTS.replace("import pytest\n", f"import pytest\n{broken}", 1))
    project.run("test_a.py::test_training")
    assert project.tests("B1", "trains") == {"test_a.py::test_training": "failed"}


@pytest.mark.parametrize("processes", [(), ("-p", "xdist", "-n", "2")], ids=["one process", "two"])
def test_removed_tests_are_forgotten_but_unselected_ones_are_not(project, processes):
    project.run(*processes)
    project.write(TESTS.replace("[1, 2]", "[1]"))
    project.run(*processes, "test_a.py::test_figures[1]")
    assert len(project.tests("12", "parity")) == 2
    project.run(*processes, "-k", "training")
    assert list(project.tests("12", "parity")) == ["test_a.py::test_figures[1]"]
    (project.folder / "test_a.py").unlink()
    project.write("def test_other(): pass\n", "test_b.py")
    project.run(*processes)
    assert json.loads(project.evidence.read_text()) == {}


@pytest.mark.parametrize(("mark", "said"), [('("dlc", "parity")', "'DCL'"), ('(12, "pariti")', "parity, trains, docs")])
def test_a_wrong_mark_stops_the_run(project, mark, said):
    project.write(TESTS.replace('(12, "parity")', mark))
    done = project.run(record=False)
    assert done.returncode != 0
    assert said in done.stdout + done.stderr
