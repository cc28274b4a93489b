"""Pseudo labels of stages: the intersection of their clusters, and what the released code makes instead."""

from pathlib import Path

import numpy as np
import pytest
import torch

from counterpoint.mining import cluster_pseudo_labels

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "14-mcl.npz")


def stages(count=3, items=200, clusters=4, seed=0):
    made = torch.Generator().manual_seed(seed)
    return [torch.randint(0, clusters, (items,), generator=made) for _ in range(count)]


def partition(labels):
    return (labels[:, None] == labels[None]).numpy()


@pytest.mark.paper(14, "parity")
def test_the_golden_labels():
    given = [torch.from_numpy(GOLDEN[f"a_stage{s}_cluster"]) for s in range(2)]
    labels = cluster_pseudo_labels(given, int(GOLDEN["a_num_clusters"]))
    assert labels.dtype == torch.int64
    assert labels.tolist() == GOLDEN["a_pseudo_label"].tolist()


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_group_is_what_all_stages_put_together(count):
    given = stages(count)
    together = np.logical_and.reduce([partition(stage) for stage in given])
    assert (partition(cluster_pseudo_labels(given, 4)) == together).all()
    assert int(cluster_pseudo_labels(given, 4).max()) < 4**count


def test_the_first_stage_is_the_leading_digit():
    given = [torch.tensor([0, 1, 2]), torch.tensor([1, 0, 4])]
    assert cluster_pseudo_labels(given, [3, 5]).tolist() == [1, 5, 14]


def test_the_released_code_looks_at_the_last_stage_alone():
    given = stages(3)
    labels = cluster_pseudo_labels(given, 4, last_stage_only=True)
    assert labels.tolist() == (given[-1] * (1 + 4 + 16)).tolist()
    assert (partition(labels) == partition(given[-1])).all()


def test_empty_clusters_and_narrow_types_do_no_harm():
    given = [torch.full((3,), 9, dtype=torch.uint8)] * 18
    assert cluster_pseudo_labels(given, 10).tolist() == [10**18 - 1] * 3


def test_what_has_no_answer():
    good = torch.tensor([0, 1])
    for wrong, message in (
        ([], "stages: expected the clusters of at least one"),
        ([good, good[:1]], r"stages: expected \(2,\) integers, got \(1,\) torch.int64 in stage 1"),
        ([good.float()], r"stages: expected \(2,\) integers, got \(2,\) torch.float32"),
        ([torch.tensor([0, -1])], "stages: expected clusters from 0 to 3, got -1 to 0 in stage 0"),
        ([torch.tensor([0, 4])], "stages: expected clusters from 0 to 3, got 0 to 4"),
        ([good] * 32, "clusters: 18446744073709551616 groups are more than int64"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            cluster_pseudo_labels(wrong, 4)
    for clusters in (0, [4, 4]):
        with pytest.raises(ValueError, match=r"^clusters: expected a number from 1 for each of 1 stages"):
            cluster_pseudo_labels([good], clusters)
