import json
import os
import subprocess
import sys

import numpy as np
import pytest

from counterpoint.files import FolderInUse, atomic, claim_folder, write_json


def test_a_file_appears_whole(tmp_path):
    with atomic(tmp_path / "a.txt", "w") as file:
        file.write("new")
        assert not (tmp_path / "a.txt").exists()
    assert (tmp_path / "a.txt").read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_failure_leaves_the_old_file_and_no_rest(tmp_path):
    (tmp_path / "a.txt").write_text("old")

    def write_half():
        with atomic(tmp_path / "a.txt", "w") as file:
            file.write("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_half()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_json_holds_no_nan(tmp_path):
    write_json(tmp_path / "a.json", {"x": [float("nan"), np.float32(1.5), float("inf")], 3: np.arange(2)})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [None, 1.5, None], "3": [0, 1]}


HOLD = """
import sys, time
from counterpoint.files import claim_folder
with claim_folder(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_two_processes_cannot_hold_one_folder(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(FolderInUse, match="another run"), claim_folder(tmp_path / "run"):
            pass
        holder.kill()  # the lock dies with its process
    with claim_folder(tmp_path / "run") as folder:
        assert folder.is_dir()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="out: cannot write into"), claim_folder(tmp_path / "file" / "run"):
        pass
