import io
import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from counterpoint.data import load, sources, split

FLOWERS = pd.DataFrame(
    {
        "id": [101, 102, 103, 104],
        "height": [1.5, 2.0, 3.25, 4.0],
        "petals": [5, 6, 7, 8],
        "note": ["x", "y", "", "z"],
        "label": ["rose", "iris", "", "rose"],
    }
)


def write(frame, path):
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in frame.to_dict("records")))
    else:
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


def png(value, size=(8, 8)):
    file = io.BytesIO()
    Image.new("L", size, value).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("in_memory", [True, False])
def test_numeric_columns_make_vectors(tmp_path, monkeypatch, ending, in_memory):
    if not in_memory:
        monkeypatch.setattr(sources, "_IN_MEMORY", 0)
    path = write(FLOWERS, tmp_path / f"flowers.{ending}")
    for _ in range(2):
        dataset = load(path, cache=tmp_path / "cache")
        assert (dataset.name, dataset.modality, dataset.shape) == ("flowers", "vector", (2,)), "an id is no feature"
        assert dataset[:]["vector"].tolist() == [[1.5, 5], [2, 6], [3.25, 7], [4, 8]]
        assert dataset.classes == ["iris", "rose"]
        assert dataset.labels.tolist() == [1, 0, -1, 1]
    assert (tmp_path / "cache").exists() is not in_memory
    chosen = load(path, features=["petals"], labels="note", cache=tmp_path / "cache")
    assert chosen[[3]]["vector"].tolist() == [[8.0]]
    assert chosen.classes == ["x", "y", "z"]
    assert load(path, labels="none", cache=tmp_path / "cache").labels is None


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_integer_labels_keep_their_order_and_names(tmp_path, ending):
    frame = pd.DataFrame({"a": np.arange(12.0), "target": [10, 9, 2, -1] * 3})
    dataset = load(write(frame, tmp_path / f"t.{ending}"))
    assert dataset.classes == ["2", "9", "10"], "in numeric order, which is not that of the text"
    assert dataset.labels[:4].tolist() == [2, 1, 0, -1]


def test_integer_labels_with_gaps_are_still_integers(tmp_path):
    (tmp_path / "t.csv").write_text("a,label\n1,3.0\n2,\n3,4.0\n")
    assert load(tmp_path / "t.csv").classes == ["3", "4"]


def test_labels_that_pandas_would_take_for_missing(tmp_path):
    (tmp_path / "t.csv").write_text("a,label\n1,NA\n2,None\n3,DE\n")
    assert load(tmp_path / "t.csv").classes == ["DE", "NA", "None"]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_column_of_paths(tmp_path, ending):
    for i in range(4):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        (tmp_path / "pictures" / f"{i}.png").write_bytes(png(i * 50))
    frame = pd.DataFrame(
        {"n": [3, 2, 1, 0], "photo": [f"pictures/{i}.png" for i in (3, 2, 1, 0)], "class": list("abab")}
    )
    dataset = load(write(frame, tmp_path / f"t.{ending}"), cache=tmp_path / "cache")
    assert (dataset.modality, dataset.shape) == ("image", (1, 8, 8))
    assert dataset[:]["image"][:, 0, 0, 0].tolist() == [150, 100, 50, 0]
    assert dataset.labels.tolist() == [0, 1, 0, 1]
    assert dataset.ids[0] == "pictures/3.png"
    assert dataset.path(0) == tmp_path / "pictures" / "3.png"
    (tmp_path / "pictures" / "3.png").write_bytes(png(7, (9, 9)))
    assert load(tmp_path / f"t.{ending}", cache=tmp_path / "cache").shape == (1, 64, 64), "a changed picture is seen"
    (tmp_path / "pictures" / "3.png").unlink()
    dataset = load(tmp_path / f"t.{ending}", cache=tmp_path / "cache", max_corrupt=0.5)
    assert [name for name, _ in dataset.skipped] == ["pictures/3.png"]


@pytest.mark.parametrize("struct", [True, False])
def test_a_column_of_bytes(tmp_path, struct):
    cells = [{"bytes": png(i % 256), "path": None} if struct else png(i % 256) for i in range(300)]
    frame = pd.DataFrame({"label": np.arange(300) % 3, "picture": cells})
    frame.to_parquet(tmp_path / "t.parquet", row_group_size=100)
    dataset = load(tmp_path / "t.parquet", cache=tmp_path / "cache")
    assert dataset[:]["image"][:256, 0, 0, 0].tolist() == list(range(256)), "in order over the blocks"
    some = load(tmp_path / "t.parquet", cache=tmp_path / "cache", limit=20)
    assert some[:]["image"][:, 0, 0, 0].tolist() == [int(name) % 256 for name in some.ids]
    assert some.labels.tolist() == [int(name) % 3 for name in some.ids]


def test_a_cell_without_an_image_is_skipped(tmp_path):
    frame = pd.DataFrame({"image": [png(1), None, png(3)]})
    frame.to_parquet(tmp_path / "t.parquet")
    dataset = load(tmp_path / "t.parquet", cache=tmp_path / "cache", max_corrupt=0.5)
    assert dataset.skipped[0][0] == "1"
    assert list(dataset.ids) == ["0", "2"]


def test_hugging_face_class_names_in_parquet(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    features = {"x": {"dtype": "float32", "_type": "Value"}, "kind": {"names": ["no", "yes"], "_type": "ClassLabel"}}
    table = pa.table({"x": [1.0, 2.0, 3.0], "kind": [1, -1, 1]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, tmp_path / "t.parquet")
    dataset = load(tmp_path / "t.parquet")
    assert dataset.classes == ["no", "yes"]
    assert dataset.labels.tolist() == [1, -1, 1], "numbers are kept, also where a class does not occur"


def test_a_column_of_lists(tmp_path):
    frame = pd.DataFrame({"id": ["a", "b"], "vector": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]})
    frame.to_parquet(tmp_path / "t.parquet")
    assert load(tmp_path / "t.parquet")[:]["vector"].tolist() == [[1, 2, 3], [4, 5, 6]]
    frame = pd.DataFrame({"vector": [[1.0, 2.0, 3.0], [4.0, 5.0]]})
    frame.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"'vector' differ in length: \[2, 3\]"):
        load(tmp_path / "t.parquet")


def test_splits_by_file_and_by_column(tmp_path):
    (tmp_path / "d").mkdir()
    for part, count in (("train", 6), ("valid", 2), ("test-00000-of-00001", 3)):
        write(pd.DataFrame({"a": np.arange(count), "label": [part[:2]] * count}), tmp_path / "d" / f"{part}.csv")
    dataset = load(tmp_path / "d")
    assert dataset.classes == ["te", "tr", "va"], "labels are numbered over all files"
    assert [len(part) for part in vars(split(dataset)).values()] == [6, 2, 3]
    frame = pd.DataFrame({"a": np.arange(6), "split": ["train", "train", "validation", "train", "test", "train"]})
    dataset = load(write(frame, tmp_path / "t.csv"))
    assert dataset.given.tolist() == ["train", "train", "val", "train", "test", "train"]
    assert dataset.shape == (1,)


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("a,species\n1,x\n", {"labels": "specie"}, "labels: there is no column 'specie'. Did you mean 'species'"),
        ("a,b\n1,x\n", {"features": ["c"]}, "features: there is no column 'c'.* a, b"),
        ("a,b\n1,x\n", {"image": "picture"}, "image: there is no column 'picture'"),
        ("a,b\n1,x\n", {"image": "b", "features": ["a"]}, "image, features: give one"),
        ("a,a\n1,2\n", {}, "more than one column named 'a'"),
        ("a,b\n", {}, "no rows"),
        ("", {}, "empty"),
        ("1,2\n3,4\n", {}, "first line must name the columns"),
        ("a,b\nx,y\n", {}, "no column of images and no numeric one"),
        ("a\n1\nnan\n3\n", {"features": ["a"]}, "1 of 3 rows .* first is row 1"),
        ("a\n1\n\n\ninf\n", {"features": ["a"]}, "first is row 1"),
        ("a,b\n1,2\nx,3\n", {"features": ["a"]}, "column 'a' holds 'x' in row 1, which is not a number"),
        ("a,label\n1,0.5\n2,0.7\n", {}, "labels .*'label'.* for a continuous quantity give target="),
        ("a,b\n1,2\n3,4,5\n6,7\n", {"features": ["a"]}, "Expected 2 fields in line 3, saw 3"),
        ("a,b\n1,2,9\n3,4,5\n", {"features": ["a"]}, "more fields than the header's 2"),
        ('a,b\n1,"unclosed\n', {"features": ["a"]}, "cannot be read as a table"),
    ],
)
def test_what_is_refused(tmp_path, text, options, said):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=said):
        load(tmp_path / "t.csv", **options)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1}\n{"a": \n', "line 2"),
        ('{"a": 1, "a": 2}\n', "more than one column named 'a'"),
        ("[1, 2]\n", "line 1: expected an object"),
        ("\n", "empty"),
        ('{"a": 1, "label": "x"}\n{"a": 2, "label": 3}\n', "labels .* one kind of label"),
    ],
)
def test_what_is_refused_in_json_lines(tmp_path, text, said):
    (tmp_path / "t.jsonl").write_text(text)
    with pytest.raises(ValueError, match=said):
        load(tmp_path / "t.jsonl")


def test_damaged_parquet(tmp_path):
    write(FLOWERS, tmp_path / "t.parquet")
    data = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "t.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"source: .*t\.parquet cannot be read as a table"):
        load(tmp_path / "t.parquet")


def test_tables_that_differ(tmp_path):
    (tmp_path / "train.csv").write_text("a,b\n1,2\n")
    (tmp_path / "test.csv").write_text("a,c\n1,2\n")
    with pytest.raises(ValueError, match="differ in their columns"):
        load(tmp_path)
