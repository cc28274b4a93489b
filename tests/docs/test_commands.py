"""Every command that the documentation shows is one that the command line accepts."""

import re
import shlex
from pathlib import Path

import pytest

from counterpoint import cli, papers
from counterpoint.papers.show import run_lines
from counterpoint.papers.status import Status

ROOT = Path(__file__).parents[2]
SHOWN = re.compile(r"^(?:\$ | {2}| {4})(counterpoint (?!COMMAND).+)$", re.MULTILINE)
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")]
TEXTS = [page.read_text(encoding="utf-8") for page in [*PAGES, *sorted(ROOT.glob("docs/**/*.md"))]]
COMMANDS = {command for text in [*TEXTS, cli._overview()] for command in SHOWN.findall(text)}
COMMANDS |= {line for paper in papers.baselines() for line in run_lines(paper, Status(paper.key, {}, ()))}


class Accepted(Exception):
    pass


def test_there_are_commands_to_check():
    assert {shlex.split(command)[1] for command in COMMANDS} >= set(cli._COMMANDS)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_the_command_line_accepts_it(command, monkeypatch):
    parse = cli._parse

    def parse_and_stop(*arguments):
        parse(*arguments)
        raise Accepted

    monkeypatch.setattr(cli, "_parse", parse_and_stop)
    with pytest.raises(Accepted):
        cli.main(shlex.split(command, comments=True)[1:])
