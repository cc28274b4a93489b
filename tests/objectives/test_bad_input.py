"""What has no right answer is refused, and the message begins with the argument."""

import pytest
import torch

from counterpoint.objectives import (
    AlignmentLoss,
    ArbitraryPairs,
    BarlowTwins,
    CLIPUniformAlignLoss,
    ContrastiveMIMTerm,
    CrossModalBarlow,
    CrossModalPrediction,
    CrossUniformityLoss,
    CWCLLoss,
    GroupInfoNCE,
    GroupNTXent,
    HallucinatedNTXent,
    HardNegativeCLIPLoss,
    ImageGroundedContrast,
    InfoNCE,
    MultiViewCLIP,
    NegativeCosine,
    NTXent,
    SoftTargetContrastiveLoss,
    SupCon,
    TextGroundedContrast,
    UniformityLoss,
    VICReg,
)

OBJECTIVES = {
    "NTXent": (NTXent, ("z1", "z2")),
    "SupCon": (SupCon, ("z",)),
    "InfoNCE": (InfoNCE, ("queries", "keys", "negatives")),
    "ArbitraryPairs": (ArbitraryPairs, ("anchors", "keys")),
    "HallucinatedNTXent": (HallucinatedNTXent, ("x", "h", "k")),
    "GroupNTXent": (GroupNTXent, ("z1", "z2")),
    "GroupInfoNCE": (GroupInfoNCE, ("x", "y")),
    "AlignmentLoss": (AlignmentLoss, ("x", "y")),
    "UniformityLoss": (UniformityLoss, ("x",)),
    "CrossUniformityLoss": (CrossUniformityLoss, ("x", "y")),
    "CLIPUniformAlignLoss": (CLIPUniformAlignLoss, ("image", "text")),
    "CWCLLoss": (CWCLLoss, ("frozen", "trained")),
    "SoftTargetContrastiveLoss": (SoftTargetContrastiveLoss, ("x", "y")),
    "NegativeCosine": (NegativeCosine, ("predictions", "targets")),
    "BarlowTwins": (BarlowTwins, ("z1", "z2")),
    "VICReg": (VICReg, ("z1", "z2")),
    "ContrastiveMIMTerm": (ContrastiveMIMTerm, ("codes",)),
    "MultiViewCLIP": (MultiViewCLIP, ("z_image", "z_text")),
    "CrossModalPrediction": (CrossModalPrediction, ("p_image", "p_text", "v_image", "v_text")),
    "CrossModalBarlow": (CrossModalBarlow, ("image", "text")),
    "HardNegativeCLIPLoss": (HardNegativeCLIPLoss, ("image", "text")),
    "ImageGroundedContrast": (ImageGroundedContrast, ("image", "text")),
    "TextGroundedContrast": (TextGroundedContrast, ("text", "teacher_text")),
}
REWRITES = (HardNegativeCLIPLoss, ImageGroundedContrast, TextGroundedContrast)
ARGUMENTS = [(kind, name, names) for kind, names in OBJECTIVES.values() for name in names]
IDS = [f"{kind.__name__}-{name}" for kind, name, _ in ARGUMENTS]
each_argument = pytest.mark.parametrize(("kind", "name", "names"), ARGUMENTS, ids=IDS)


def inputs(names):
    labels = {"labels": torch.tensor([0, 1, 1, 0])} if names == ("z",) else {}
    return {**{name: torch.randn(4, 3) for name in names}, **labels}


def poke(value):
    def change(z):
        z[1, 2] = value
        return z

    return change


CHANGES = {
    "NaN": (poke(float("nan")), "NaN or infinite"),
    "infinite": (poke(float("inf")), "NaN or infinite"),
    "integers": (lambda z: z.long(), "floating-point"),
    "complex": (lambda z: z.to(torch.complex64), "floating-point"),
    "no tensor": (lambda z: z.tolist(), "floating-point"),
    "one dimension": (lambda z: z[0], "expected"),
    "four dimensions": (lambda z: z[None, None], "expected"),
    "no rows": (lambda z: z[:0], "expected"),
    "no columns": (lambda z: z[:, :0], "expected"),
}


@each_argument
@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_embeddings(kind, name, names, change, message):
    given = inputs(names)
    kind()(**given)
    given[name] = change(given[name])
    with pytest.raises(ValueError, match=f"^{name}: .*{message}"):
        kind()(**given)


@each_argument
def test_three_dimensions_are_for_supcon_alone(kind, name, names):
    given = inputs(names) | {name: torch.randn(2, 4, 3)}
    if kind is SupCon:
        kind()(**given)
    elif kind in (CrossModalBarlow, CrossModalPrediction):  # views, of which the others have as many
        with pytest.raises(ValueError, match=r"^\w+: expected [12] views as in"):
            kind()(**given)
    else:
        with pytest.raises(ValueError, match=f"^{name}: expected \\(rows, D\\), got \\(2, 4, 3\\)"):
            kind()(**given)


@pytest.mark.parametrize(("kind", "name", "names"), [a for a in ARGUMENTS if a[1] != a[2][0]])
@pytest.mark.parametrize("shape", [(4, 2), (5, 3)])
def test_shapes_that_differ(kind, name, names, shape):
    given = inputs(names) | {name: torch.randn(shape)}
    if name == "negatives" and shape[1] == 3:
        kind()(**given)  # a bank has a length of its own
    else:
        with pytest.raises(ValueError, match=f"^{name}: .*expected .*, got .*({shape[0]}|{shape[1]})"):
            kind()(**given)


@pytest.mark.parametrize(("kind", "names"), OBJECTIVES.values(), ids=OBJECTIVES)
def test_one_item(kind, names):
    given = {name: torch.randn(1, 3) for name in names}
    if kind in (
        AlignmentLoss,
        ArbitraryPairs,
        ContrastiveMIMTerm,
        CrossModalPrediction,
        CWCLLoss,
        HallucinatedNTXent,
        InfoNCE,
        NegativeCosine,
        *REWRITES,
        SoftTargetContrastiveLoss,
    ):
        kind()(**given)  # one item is all they need
    else:
        with pytest.raises(ValueError, match=f"^{names[0]}: expected at least 2 "):
            kind()(**given)


@pytest.mark.parametrize(
    "kind",
    [
        NTXent,
        SupCon,
        InfoNCE,
        HallucinatedNTXent,
        ArbitraryPairs,
        GroupNTXent,
        GroupInfoNCE,
        ContrastiveMIMTerm,
        CWCLLoss,
        CLIPUniformAlignLoss,
        HardNegativeCLIPLoss,
        ImageGroundedContrast,
        SoftTargetContrastiveLoss,
    ],
)
@pytest.mark.parametrize("temperature", [0, -0.1, float("nan"), float("inf")])
def test_temperature(kind, temperature):
    with pytest.raises(ValueError, match=r"^temperature: expected a finite number above 0, got"):
        kind(temperature=temperature)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        *((kind, "reduction", "avg") for kind in (NTXent, SupCon, InfoNCE, NegativeCosine, GroupNTXent, GroupInfoNCE)),
        *((kind, "reduction", "avg") for kind in (ArbitraryPairs, HallucinatedNTXent, ContrastiveMIMTerm)),
        *((kind, "reduction", "avg") for kind in (AlignmentLoss, CWCLLoss, *REWRITES)),
        (SupCon, "base_temperature", 0.0),
        (SupCon, "base_temperature", -1.0),
        (SupCon, "anchors", "second"),
        (SupCon, "empty", "ignore"),
        (BarlowTwins, "lambda_", -1),
        (BarlowTwins, "lambda_", float("nan")),
        *((VICReg, name, value) for name in ("sim_coeff", "std_coeff", "cov_coeff") for value in (-1, float("nan"))),
    ],
)
def test_options_are_checked_when_they_are_given(kind, name, value):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        kind(**{name: value})


@pytest.mark.parametrize(
    "labels", [torch.zeros(3).long(), torch.zeros(4), torch.zeros(4, 1).long(), torch.zeros(8).long()]
)
def test_labels(labels):
    with pytest.raises(ValueError, match=r"^labels: expected \(4,\) integers"):
        SupCon()(torch.randn(2, 4, 3), labels)


def test_labels_of_any_integer_type():
    z, labels = torch.randn(2, 4, 3), torch.tensor([0, 1, 1, 0])
    for dtype in (torch.int32, torch.uint8, torch.int16, torch.bool):
        assert SupCon()(z, labels.to(dtype)) == SupCon()(z, labels)
