import copy

import pytest
import torch
from torch import nn

from counterpoint.encoders import EMA, build, mlp_head
from counterpoint.pairwise import synchronize_batchnorm


def network():
    torch.manual_seed(0)
    return nn.Sequential(build("convnet", (1, 8, 8)), mlp_head(128, 16, 8, last_norm=True))


def test_alone_nothing_changes():
    plain, x = network(), torch.rand(6, 1, 8, 8)
    ours = synchronize_batchnorm(copy.deepcopy(plain))
    for training in (True, False):
        assert torch.equal(ours.train(training)(x), plain.train(training)(x))
    assert torch.equal(copy.deepcopy(ours)(x), plain(x))


def test_layers_parameters_and_keys_stay_what_they_were():
    module = network()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    layers, parameters, keys = list(module.modules()), list(module.parameters()), list(module.state_dict())
    assert synchronize_batchnorm(synchronize_batchnorm(module)) is module
    assert all(a is b for a, b in zip(module.modules(), layers, strict=True))
    assert all(a is b for a, b in zip(module.parameters(), parameters, strict=True))
    assert list(module.state_dict()) == keys
    assert optimizer.param_groups[0]["params"][0] is parameters[0]
    network().load_state_dict(module.state_dict())


def test_every_layer_is_changed_also_a_teachers():
    module = synchronize_batchnorm(nn.ModuleList([network(), EMA(network())]))
    layers = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert len(layers) == 10
    assert not {nn.BatchNorm1d, nn.BatchNorm2d} & {type(layer) for layer in layers}
    alone = nn.BatchNorm1d(4)
    assert synchronize_batchnorm(alone) is alone
    assert type(alone) is not nn.BatchNorm1d


def test_layers_that_cannot_be_synchronised_are_refused():
    class Activated(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x).relu()

    with pytest.raises(ValueError, match=r"module: 0\.1 is a Activated"):
        synchronize_batchnorm(nn.Sequential(nn.Sequential(nn.ReLU(), Activated(3))))
    with pytest.raises(ValueError, match="module: it is a BatchNorm3d"):
        synchronize_batchnorm(nn.BatchNorm3d(3))
    synchronize_batchnorm(nn.Sequential(nn.SyncBatchNorm(3), nn.LayerNorm(3), nn.InstanceNorm2d(3)))
