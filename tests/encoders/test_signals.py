import math

import pytest
import torch

from counterpoint.encoders import LogMelNet, SignalNet, build, load
from counterpoint.encoders.signals import mel_filters


def test_filters_cover_the_spectrum_and_overlap_by_half():
    filters = mel_filters(20, 257, 16000)
    assert filters.shape == (20, 257)
    assert (filters >= 0).all()
    assert (filters.amax(1) > 0.5).all()
    inner = filters.sum(0)[filters.argmax(1)[0] + 1 : filters.argmax(1)[-1]]
    torch.testing.assert_close(inner, torch.ones_like(inner))  # neighbours add up to one between the outer peaks
    peaks = filters.argmax(1).diff()
    assert peaks[-1] > 3 * peaks[0]  # and grow wider


def test_a_tone_lights_the_band_that_holds_it():
    net = LogMelNet(1, 8000, rate=8000).eval()
    time = torch.arange(8000) / 8000
    for hertz in (300.0, 1200.0, 3000.0):
        found = net.spectrogram(torch.sin(2 * math.pi * hertz * time)[None, None])[0, 0].mean(1)
        band = int(found.argmax())
        wanted = mel_filters(40, net.size // 2 + 1, 8000)[:, round(hertz / 4000 * (net.size // 2))].argmax()
        assert abs(band - int(wanted)) <= 1


def test_silence_and_loudness():
    net = LogMelNet(1, 4000, rate=8000).eval()
    assert torch.isfinite(net(torch.zeros(2, 1, 4000))).all()
    x = torch.randn(1, 1, 4000) * 0.1
    torch.testing.assert_close(net.spectrogram(x), net.spectrogram(2 * x), atol=1e-3, rtol=0)


def test_signals_and_tokens(tmp_path):
    torch.manual_seed(0)
    encoder = build("signalnet", (3, 50), mean=torch.ones(3), std=torch.full((3,), 2.0)).eval()
    x = torch.randn(4, 3, 50)
    torch.testing.assert_close(encoder(x), encoder.backbone((x - 1) / 2))
    torch.testing.assert_close(encoder.tokens(x).mean(1), encoder(x))
    encoder.save(tmp_path)
    torch.testing.assert_close(load(tmp_path)(x), encoder(x))
    assert SignalNet(1, 3)(torch.randn(2, 1, 3)).shape == (2, 128)
    heard = build("logmel", (1, 2000), rate=8000, mels=16).eval()
    assert heard.tokens(torch.randn(2, 1, 2000)).mean(1).allclose(heard(torch.randn(2, 1, 2000))) is False
    with pytest.raises(ValueError, match="takes no signals"):
        build("convnet", (1, 50))


def test_tokens_of_images_average_to_the_features():
    torch.manual_seed(0)
    encoder, x = build("convnet", (3, 16, 16)).eval(), torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(encoder.tokens(x).mean(1), encoder(x))
    vit = build("vit_tiny_patch16_224", (3, 16, 16), patch_size=4, embed_dim=24, depth=1, num_heads=2).eval()
    assert vit.tokens(x).shape == (2, 17, 24)
    net = build("resnet18", (3, 32, 32)).eval()
    y = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(net.tokens(y).mean(1), net(y))
