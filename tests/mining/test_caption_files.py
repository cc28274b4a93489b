"""Rewrites of captions from files: both forms, and what is refused with its line."""

import json

import pytest

from counterpoint.mining import read_negatives


def test_files(tmp_path):
    lines = [{"caption": "a cat", "negatives": ["a dog", "a cow"]}, {"caption": "ein Hund, groß", "negatives": []}]
    path = tmp_path / "negatives.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n", encoding="utf-8")
    assert read_negatives(path) == {"a cat": ["a dog", "a cow"], "ein Hund, groß": []}
    path = tmp_path / "negatives.CSV"
    path.write_text('caption,negative\na cat,a dog\n"a cat, big","a dog, big"\na cat,a cow\n', encoding="utf-8-sig")
    assert read_negatives(path) == {"a cat": ["a dog", "a cow"], "a cat, big": ["a dog, big"]}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "", "expected a file ending in .jsonl or .csv, got a.txt"),
        ("a.jsonl", '{"caption": "a", "negatives": ["b"]}\n{"caption": "a"}', "line 2: expected"),
        ("a.jsonl", "[1]", "line 1: expected"),
        ("a.jsonl", "cat", "line 1: expected"),
        ("a.jsonl", '{"caption": "a", "negatives": "b"}', "line 1: expected"),
        ("a.csv", "caption,text\na,b\n", "there is no negative"),
        ("a.csv", "", "there is no caption"),
        ("a.csv", "caption,negative\na,\n", "line 2: expected a caption and a negative"),
    ],
)
def test_bad_files(tmp_path, name, text, message):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=f"^path: .*{message}"):
        read_negatives(tmp_path / name)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_negatives(tmp_path / "a.jsonl")
