"""The forward process: schedules against known values, marginals, the two parametrisations, the losses."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from sfumato.dct import dct, idct
from sfumato.diffusion import Blurring
from training.denoising import epsilon_loss, sample_t, x_loss

unit = st.floats(0, 1)
blurs = st.sampled_from([0.0, 1.0, 6.0, 20.0])


def at(*values):
    return torch.tensor(values, dtype=torch.float64)


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("t", "a", "sigma", "logsnr"),
    [
        (0.1, 0.987, 0.162, 3.6),
        (0.25, 0.923, 0.386, 1.74),
        (0.5, 0.707, 0.707, 0),
        (0.75, 0.386, 0.923, -1.74),
    ],
)
def test_noise_schedule(t, a, sigma, logsnr):
    schedule = Blurring(sigma_b_max=1.0)
    assert schedule.a(at(t)).item() == pytest.approx(a, abs=1e-3)
    assert schedule.sigma(at(t)).item() == pytest.approx(sigma, abs=1e-3)
    snr = (schedule.a(at(t)) / schedule.sigma(at(t))).square()
    assert math.log(snr.item()) == pytest.approx(logsnr, abs=0.02)


def test_noise_schedule_ends_at_the_given_snr():
    schedule = Blurring(sigma_b_max=1.0, logsnr_min=-8.0, logsnr_max=12.0)
    snr = (schedule.a(at(0, 1), torch.float64) / schedule.sigma(at(0, 1), torch.float64)).square()
    torch.testing.assert_close(snr.log().flatten(), at(12, -8))
    assert Blurring(1.0).sigma(at(0)).item() == pytest.approx(0.0067, abs=1e-4)


@pytest.mark.parametrize(
    ("sigma_b_max", "period", "expected"),  # d_t at t = 0.1, 0.25, 0.5 and 1
    [
        (1, 64, (1, 1, 1, 0.995)),
        (1, 4, (1, 0.97, 0.74, 0.29)),
        (1, 2, (1, 0.90, 0.29, 0.008)),
        (10, 64, (1, 0.99, 0.89, 0.62)),
        (10, 16, (1, 0.85, 0.15, 0.001)),
        (10, 4, (0.93, 0.07, 0.001, 0.001)),
        (20, 8, (0.93, 0.07, 0.001, 0.001)),
        (20, 2, (0.31, 0.001, 0.001, 0.001)),
    ],
)
def test_blur_schedule(sigma_b_max, period, expected):
    """A wave of `period` pixels is coefficient 2 N / period of N; 2 pixels lie just past the last."""
    size = 2048
    d = Blurring(float(sigma_b_max)).d(at(0.1, 0.25, 0.5, 1), 1, size)[
        :, 0, 0, min(2 * size // period, size - 1)
    ]
    torch.testing.assert_close(d.double(), at(*expected), rtol=0.03, atol=0.006)


@given(unit, unit, blurs)
def test_schedules_are_consistent(t, s, sigma_b_max):
    schedule = Blurring(sigma_b_max)
    a, sigma = schedule.a(at(t, s), torch.float64), schedule.sigma(at(t, s), torch.float64)
    torch.testing.assert_close((a.square() + sigma.square()).flatten(), at(1, 1))
    d = schedule.d(at(t, s), 5, 8, torch.float64)
    assert d.shape == (2, 1, 5, 8)
    assert (d <= 1 + 1e-12).all() and (d >= schedule.d_min).all()
    torch.testing.assert_close(schedule.alpha(at(t, s), 5, 8, torch.float64), a * d)
    order = 1 if t >= s else -1  # noise grows, blur grows, the image fades
    assert order * (sigma[0] - sigma[1]) >= 0
    assert (order * (d[0] - d[1]) <= 1e-12).all() and order * (a[0] - a[1]) <= 0


def test_schedule_is_float32_and_computed_in_float64():
    schedule, t = Blurring(6.0), torch.tensor([0.3])
    for name in ("a", "sigma", "tau"):
        value = getattr(schedule, name)(t)
        assert value.dtype == torch.float32 and value.shape == (1, 1, 1, 1)
        torch.testing.assert_close(value, getattr(schedule, name)(t, torch.float64).float(), rtol=0, atol=0)
    assert schedule.tau(t).item() == pytest.approx((6 * math.sin(math.pi * 0.15) ** 2) ** 2 / 2, rel=1e-6)
    assert schedule.alpha(t, 4, 4).dtype == torch.float32


def test_no_blur_is_ordinary_diffusion():
    schedule, x, noise = Blurring(0.0), gaussian(2, 3, 7, 5), gaussian(2, 3, 7, 5, seed=1)
    t = torch.tensor([0.2, 0.9])
    expected = schedule.a(t) * x + schedule.sigma(t) * noise
    torch.testing.assert_close(schedule.forward(x, t, noise), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sigma_b_max", [0.0, 3.0])
@pytest.mark.parametrize("t", [0.1, 0.6])
def test_marginals(t, sigma_b_max):
    """Each frequency of z_t has the mean alpha_t u_x and the variance sigma_t^2, uncorrelated."""
    schedule, draws = Blurring(sigma_b_max), 6000
    x = gaussian(1, 1, 5, 8).expand(draws, -1, -1, -1)
    z = schedule.forward(x, torch.full((draws,), t), gaussian(draws, 1, 5, 8, seed=1))
    u = dct(z)[:, 0]
    variance = schedule.sigma(at(t)).item() ** 2
    standard_error = (variance / draws) ** 0.5
    expected = (schedule.alpha(at(t), 5, 8) * dct(x[:1]))[0, 0]
    assert (u.mean(0) - expected).abs().max() < 5 * standard_error
    assert (u.var(0) / variance - 1).abs().max() < 5 * (2 / draws) ** 0.5
    assert (torch.corrcoef(u.flatten(1).T) - torch.eye(40)).abs().max() < 0.08


def test_each_image_has_its_own_time():
    schedule, x, noise = Blurring(6.0), gaussian(3, 3, 8, 12), gaussian(3, 3, 8, 12, seed=1)
    t = torch.tensor([0.0, 0.3, 1.0])
    z = schedule.forward(x, t, noise)
    for i in range(3):
        alone = schedule.forward(x[i : i + 1], t[i : i + 1], noise[i : i + 1])
        torch.testing.assert_close(z[i : i + 1], alone)


@pytest.mark.parametrize("shape", [(1, 3, 9, 14), (2, 1, 1, 5)])
@pytest.mark.parametrize("t", [0.02, 0.3])
def test_x_and_epsilon_tell_the_same(shape, t):
    schedule, x, noise = Blurring(3.0), gaussian(*shape).double(), gaussian(*shape, seed=1).double()
    times = torch.full((shape[0],), t)
    z = schedule.forward(x, times, noise)
    torch.testing.assert_close(schedule.epsilon_from_x(z, times, x), noise, atol=1e-9, rtol=0)
    torch.testing.assert_close(schedule.x_from_epsilon(z, times, noise), x, atol=1e-9, rtol=0)
    u_epsilon = schedule.u_epsilon(dct(z), times, dct(x))
    torch.testing.assert_close(idct(u_epsilon), noise, atol=1e-9, rtol=0)
    torch.testing.assert_close(schedule.u_x(dct(z), times, u_epsilon), dct(x), atol=1e-9, rtol=0)


def test_x_from_epsilon_is_finite_where_nothing_of_x_is_left():
    schedule, t = Blurring(20.0, d_min=0.0), torch.ones(1)
    z = gaussian(1, 3, 16, 16)
    assert schedule.x_from_epsilon(z, t, 0.9 * z).isfinite().all()


def test_x_loss_by_hand():
    schedule, x, x_hat = Blurring(6.0), gaussian(2, 3, 8, 6), gaussian(2, 3, 8, 6, seed=1)
    t = torch.tensor([0.05, 0.4])
    torch.testing.assert_close(x_loss(x, x_hat, t, schedule, 1.0, 1.0), (x - x_hat).square().mean((1, 2, 3)))
    snr = schedule.alpha(t, 8, 6).square() / schedule.sigma(t).square()
    error = (dct(x) - dct(x_hat)).square()
    torch.testing.assert_close(x_loss(x, x_hat, t, schedule), (snr.clamp(0.05, 5) * error).mean((1, 2, 3)))
    assert (snr[0] > 5).any() and (snr[1] < 0.05).any()  # both clips are at work here


def test_x_loss_without_clips_is_the_epsilon_loss():
    schedule, x, noise = Blurring(2.0), gaussian(2, 3, 8, 6).double(), gaussian(2, 3, 8, 6, seed=1).double()
    t, x_hat = torch.tensor([0.1, 0.7]), x + 0.1 * gaussian(2, 3, 8, 6, seed=2)
    epsilon_hat = schedule.epsilon_from_x(schedule.forward(x, t, noise), t, x_hat)
    expected = epsilon_loss(noise, epsilon_hat, power=2.0).double()
    torch.testing.assert_close(x_loss(x, x_hat, t, schedule, 0.0, math.inf), expected, rtol=1e-5, atol=0)


def test_epsilon_loss_powers():
    a, b = torch.zeros(2, 1, 2, 2), torch.full((2, 1, 2, 2), 3.0)
    assert epsilon_loss(a, b).tolist() == [3, 3]
    assert epsilon_loss(a, b, power=2.0).tolist() == [9, 9]


def test_gradients_reach_the_image_and_the_guess():
    schedule, t = Blurring(6.0), torch.tensor([0.2])
    x, x_hat = gaussian(1, 3, 8, 8).requires_grad_(), gaussian(1, 3, 8, 8, seed=1).requires_grad_()
    z = schedule.forward(x, t, gaussian(1, 3, 8, 8, seed=2))
    (z.square().mean() + x_loss(x, x_hat, t, schedule).mean()).backward()
    assert x.grad.abs().min() > 0 and x_hat.grad.abs().min() > 0


def test_sample_t_favours_small_times():
    t = sample_t(20000, 0.4, torch.Generator().manual_seed(0))
    assert t.shape == (20000,) and t.min() >= 0 and t.max() < 0.4
    torch.testing.assert_close(
        t.quantile(torch.tensor([0.25, 0.5, 0.75])) / 0.4, torch.tensor([1, 4, 9]) / 16, rtol=0.06, atol=0
    )
    assert torch.equal(t, sample_t(20000, 0.4, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("t0", [0.0, -0.1, 1.1])
def test_sample_t_refuses(t0):
    with pytest.raises(ValueError, match="t0"):
        sample_t(3, t0)


@pytest.mark.parametrize(
    "bad",
    [
        {"sigma_b_max": -1.0},
        {"d_min": 2.0},
        {"blur_power": 0},
        {"logsnr_min": 3.0, "logsnr_max": 2.0},
        {"sigma_b_max": math.nan},
    ],
)
def test_refuses_bad_schedules(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Blurring(**({"sigma_b_max": 1.0} | bad))


def test_refuses_times_that_are_no_batch():
    with pytest.raises((ValueError, TypeCheckError), match=r"times \[B\]|Type-check"):
        Blurring(1.0).a(torch.tensor(0.3))


# heat that stays near


@pytest.mark.parametrize("sigma_b_max", [0.0, 1.0, 20.0])
@pytest.mark.parametrize("t", [0.0, 0.02, 0.075, 0.17, 0.3])
def test_local_dissipation_is_that_of_the_whole_image(sigma_b_max, t):
    """Sides that are not multiples of a block, borders included, in images and in noise."""
    exact = Blurring(sigma_b_max)
    local = replace(exact, local=True)
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.uniform(-1, 1, (2, 3, 70, 301))).float()
    smooth = torch.nn.functional.avg_pool2d(x, 3, 1, 1)
    assert (local.blur(x, t) - exact.blur(x, t)).abs().max() < 3e-3
    assert (local.blur(smooth, t) - exact.blur(smooth, t)).abs().max() < 1e-3
    expected = idct(exact.d(torch.tensor([t, t]), 70, 301) * dct(x))
    torch.testing.assert_close(exact.blur(x, t), expected, atol=1e-6, rtol=1e-5)
    assert torch.allclose(local.blur(x + 1, t), local.blur(x, t) + 1, atol=1e-5), "heat is kept"


def test_local_dissipation_sees_no_further_than_its_reach():
    schedule = Blurring(20.0, local=True)
    reach = schedule.reach(0.3)
    x = torch.zeros(1, 1, 101, 140)
    x[0, 0, 50, 70] = 1
    schedule = replace(schedule, d_min=0.0)
    touched = schedule.blur(x, 0.3)[0, 0].nonzero()
    edges = [touched.amin(0).tolist(), touched.amax(0).tolist()]
    assert edges == [[50 - reach, 70 - reach], [50 + reach, 70 + reach]]
    x.requires_grad_(True)
    schedule.blur(x, 0.3).sum().backward()
    assert torch.allclose(x.grad, torch.ones_like(x), atol=1e-4)
    assert schedule.reach(1.0) is None, "20 pixels of blur"
    with pytest.raises(ValueError, match="no local dissipation to t = 1"):
        schedule.blur(x, 1.0)
    with pytest.raises(ValueError, match="in 140x8 pixels"):
        schedule.blur(x[:, :, :8], 0.3)
