"""The map that every method of several modalities shows."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from counterpoint.evaluation import modality_gap
from counterpoint.methods.multimodal._map import modality_map


def rows(items=40, dim=6, seed=0, shift=0.0):
    made = torch.Generator().manual_seed(seed)
    return torch.randn(items, dim, generator=made) + shift * torch.eye(dim)[0]


def test_a_gap_is_a_shift_on_the_map_and_an_axis_of_its_own():
    x, y = rows(shift=3.0), rows(seed=1, shift=-3.0)
    plane, shares = modality_map({"image": x, "text": y})
    image, text = plane.groups["image"], plane.groups["text"]
    assert image[:, 0].min() > text[:, 0].max() or image[:, 0].max() < text[:, 0].min()
    assert np.abs(image.mean(0) - text.mean(0))[0] == pytest.approx(modality_gap(x, y).centroid_distance, rel=0.02)
    assert plane.joined == 40
    assert shares.series["all together"][0] > 0.6 > 0.5 > shares.series["image"][0]
    for name, z in (("image", x), ("text", y)):
        np.testing.assert_allclose(shares.series[name], modality_gap(x, y, names=("image", "text")).explained[name][:6])
        assert shares.series[name].sum() == pytest.approx(1)
        assert len(z) == len(plane.groups[name])


def test_the_plane_keeps_the_distances_of_two_dimensions():
    x, y = rows(dim=2), rows(dim=2, seed=1)
    groups = modality_map({"a": x, "b": y})[0].groups
    flat = torch.from_numpy(np.concatenate([groups["a"], groups["b"]]))
    unit = normalize(torch.cat([x, y]).double())
    torch.testing.assert_close(flat @ flat.T, (unit - unit.mean(0)) @ (unit - unit.mean(0)).T)


def test_rows_that_are_missing_somewhere_are_left_out():
    x, y = rows(), rows(seed=1)
    y[::2] = torch.nan
    whole = modality_map({"a": x, "b": y})[0]
    assert [len(points) for points in whole.groups.values()] == [20, 20]
    assert all(np.isfinite(points).all() for points in whole.groups.values())


def test_nothing_where_there_is_nothing_to_compare():
    assert modality_map({"a": rows()}) == []
    assert modality_map({"a": rows(2), "b": rows(2)}) == []
    for z in (torch.ones(5, 3), torch.zeros(5, 3), torch.ones(5, 1)):
        plane, shares = modality_map({"a": z, "b": z})
        assert all((points == 0).all() for points in plane.groups.values())
        assert all((values == 0).all() for values in shares.series.values())
