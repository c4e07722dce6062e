"""The two denoising networks: their contract, their starting point, their size and cost."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sfumato.diffusion import Blurring
from sfumato.sampler import deterministic, noise, partial_noise_start, times
from training.networks.denoiser import LightDenoiser, LinearAttention, UNet

TWO_SCALES = {"widths": (16, 24, 0), "depths": (2, 1, 0), "features": (12, 8)}
THREE_SCALES = {"widths": (16, 24, 32), "depths": (3, 2, 2), "features": (12, 8)}
SMALL_UNET = {"dim": 8, "contexts": (12, 8, 6, 3)}


def light(sizes, height=32, width=48, batch=2):
    torch.manual_seed(0)
    net = LightDenoiser(**sizes)
    return net, inputs([(c, s) for c, s in zip(sizes["features"], (8, 4), strict=True)], height, width, batch)


def unet(height=32, width=64, batch=2, **sizes):
    torch.manual_seed(0)
    sizes = SMALL_UNET | sizes
    return UNet(**sizes), inputs(
        list(zip(sizes["contexts"], (8, 4, 2, 1), strict=False)), height, width, batch
    )


def inputs(maps, height, width, batch):
    g = torch.Generator().manual_seed(1)
    z, x_base = (torch.randn(batch, 3, height, width, generator=g) for _ in range(2))
    t, q = torch.rand(2, batch, generator=g)
    features = tuple(torch.randn(batch, c, height // s, width // s, generator=g) for c, s in maps)
    return z, t, q, x_base, features


def perturb(net):
    """Off the starting point, where zeros hide most parameters from the gradient."""
    with torch.no_grad():
        for p in net.parameters():
            p += 0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(2))
    return net


@pytest.mark.parametrize("sizes", [TWO_SCALES, THREE_SCALES])
@pytest.mark.parametrize("autocast", [False, True])
def test_untrained_light_denoiser_returns_x_base(sizes, autocast):
    net, args = light(sizes)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        assert torch.equal(net(*args), args[3])


def test_untrained_light_denoiser_samples_x_base():
    net, (_, _, q, x_base, features) = light(TWO_SCALES)
    schedule = Blurring(6.0)
    z = partial_noise_start(x_base, 0.3, noise(x_base.shape, 1), schedule)
    with torch.no_grad():
        x_hat = deterministic(lambda z, t: net(z, t, q, x_base, features), z, times(0.3, 4), schedule)
    assert torch.equal(x_hat, x_base)


@pytest.mark.parametrize("make", [lambda: light(TWO_SCALES), lambda: light(THREE_SCALES), unet])
def test_gradients_reach_every_parameter(make):
    net, args = make()
    perturb(net)(*args).square().mean().backward()
    for name, p in net.named_parameters():
        # of the curve only the knots next to the two q can be reached
        assert p.grad is not None and p.grad.isfinite().all() and (p.grad != 0).any(), name


@pytest.mark.parametrize("make", [lambda: light(TWO_SCALES), lambda: light(THREE_SCALES), unet])
def test_every_input_counts_and_no_other_image(make):
    net, args = make()
    perturb(net)
    with torch.no_grad():
        expected = net(*args)
        assert expected.shape == args[0].shape
        z, t, q, x_base, features = args
        alone = net(z[:1], t[:1], q[:1], x_base[:1], tuple(f[:1] for f in features))
        torch.testing.assert_close(alone, expected[:1], atol=1e-4, rtol=1e-4)
        changed = [net(z + 0.5, *args[1:]), net(z, t / 2, *args[2:])]
        changed += [
            net(z, t, q, x_base, (*features[:i], f + 0.5, *features[i + 1 :])) for i, f in enumerate(features)
        ]
        steering = [net(z, t, 1 - q, x_base, features), net(z, t, q, x_base.flip(-1), features)]
    for other in changed:
        assert not torch.allclose(other, expected, atol=1e-4)
    for other in steering:  # the paper's network does not know them
        assert torch.equal(other, expected) == isinstance(net, UNet)


@pytest.mark.parametrize("sizes", [TWO_SCALES, THREE_SCALES])
def test_the_correction_sees_x_base(sizes):
    """x_base is an input of the network too, besides what the correction is added to."""
    net, (z, t, q, x_base, features) = light(sizes)
    perturb(net)
    with torch.no_grad():
        corrections = [net(z, t, q, base, features) - base for base in (x_base, x_base.flip(-1))]
    assert not torch.allclose(*corrections, atol=1e-3)


@pytest.mark.parametrize("sizes", [TWO_SCALES, THREE_SCALES])
def test_fine_scale_has_a_way_around_the_coarse_ones(sizes):
    net, (z, t, q, x_base, features) = light(sizes)
    perturb(net)
    with torch.no_grad():
        for conv in net.shrink:
            conv.weight.zero_()
        assert not torch.allclose(net(z, t, q, x_base, features), net(-z, t, q, x_base, features), atol=1e-3)


@pytest.mark.parametrize("make", [lambda: light(TWO_SCALES), lambda: light(THREE_SCALES), unet])
def test_bfloat16_autocast(make):
    net, args = make()
    perturb(net)
    with torch.no_grad():
        full = net(*args)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = net(*args).float()
    assert half.isfinite().all()
    assert (half - full).norm() < 0.05 * full.norm()


@pytest.mark.parametrize("t", [0.0, 1e-4, 1.0])
def test_ends_of_time(t):
    for net, args in (light(TWO_SCALES), unet()):
        out = perturb(net)(args[0], torch.full((2,), t), *args[2:])
        assert out.isfinite().all()


@pytest.mark.parametrize(
    ("make", "multiple"),
    [(lambda **k: light(TWO_SCALES, **k), 8), (lambda **k: light(THREE_SCALES, **k), 16), (unet, 32)],
)
def test_sizes(make, multiple):
    net, args = make(height=multiple, width=3 * multiple)
    assert net.multiple == multiple
    assert net(*args).shape == (2, 3, multiple, 3 * multiple)
    net, args = make(height=multiple, width=3 * multiple + multiple // 2)
    with pytest.raises(ValueError, match=f"multiples of {multiple}"):
        net(*args)


def test_refuses_wrong_features_and_widths():
    net, args = light(TWO_SCALES)
    with pytest.raises(ValueError, match="2 feature maps"):
        net(*args[:4], args[4][:1])
    with pytest.raises(ValueError, match="only the width at 1/16"):
        LightDenoiser((16, 0, 32), (1, 1, 1), (4, 4))
    with pytest.raises(ValueError, match="fewer contexts"):
        UNet(8, (1, 2), (4, 3))


def test_what_they_predict():
    assert LightDenoiser.predicts == "x" and UNet.predicts == "epsilon"


def test_linear_attention_by_hand():
    layer = LinearAttention(6).double()
    x = torch.randn(2, 6, 3, 4, dtype=torch.float64)
    q, k, v = layer.to_qkv(layer.norm(x)).flatten(2).chunk(3, 1)
    out = torch.zeros_like(q)
    for b in range(2):
        for position in range(12):
            for channel in range(6):
                weight = torch.exp(k[b, channel] - k[b, channel].logsumexp(0))  # over positions
                out[b, :, position] += q[b, channel, position] / 6**0.5 * (v[b] * weight).sum(1)
    torch.testing.assert_close(layer(x), x + layer.to_out(out.reshape(2, 6, 3, 4)))


def cost(net, maps):
    """Millions of parameters and thousands of multiply-accumulates a pixel, of a network on "meta"."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        z, q = torch.zeros(1, 3, 256, 256), torch.zeros(1)
        net(z, q, q, z, [torch.zeros(1, c, 256 // s, 256 // s) for c, s in maps])
    return sum(p.numel() for p in net.parameters()) / 1e6, counter.get_total_flops() / 2 / 256**2 / 1e3


def test_unet_has_the_size_of_the_published_one():
    with torch.device("meta"):
        net = UNet()
    millions, kmacs = cost(net, [(192, 8), (128, 4), (64, 2), (3, 1)])
    assert millions == pytest.approx(39.9, abs=0.05)
    assert kmacs == pytest.approx(789, abs=1)


def test_light_denoiser_costs_a_twentieth():
    with torch.device("meta"):
        net = LightDenoiser((96, 192, 256), (4, 4, 2), (256, 96))
    millions, kmacs = cost(net, [(256, 8), (96, 4)])
    assert millions < 4.5 and kmacs < 40
