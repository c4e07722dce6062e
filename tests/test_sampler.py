"""The reverse process: with a denoiser whose answer is known, the result is known too."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sfumato import sampler
from sfumato.dct import dct, idct
from sfumato.diffusion import Blurring
from sfumato.sampler import (
    StepCoefficients,
    ancestral,
    deterministic,
    from_epsilon,
    partial_noise_start,
    times,
)

SHAPE = (2, 3, 9, 14)


def noise(*arguments, **options):
    return torch.from_numpy(sampler.noise(*arguments, **options))


def step_coefficients(*arguments, **options):
    return StepCoefficients(*(torch.from_numpy(w) for w in sampler.step_coefficients(*arguments, **options)))


def photo(shape=SHAPE, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, shape)).float()


# times and noise


def test_times():
    assert times(0.4, 1) == (0.4, 0)
    assert times(1.0, 4) == pytest.approx((1, 9 / 16, 4 / 16, 1 / 16, 0))
    assert times(0.3, 8)[0] == 0.3 and len(times(0.3, 8)) == 9
    assert all(t > s for t, s in pairwise(times(0.2, 50)))


@pytest.mark.parametrize(("t0", "steps"), [(0.0, 4), (1.5, 4), (0.3, 0)])
def test_times_refuses(t0, steps):
    with pytest.raises(ValueError, match="got"):
        times(t0, steps)


def test_noise_is_a_function_of_seed_and_step():
    first = noise(SHAPE, 7)
    assert first.shape == SHAPE and first.dtype == torch.float32
    assert torch.equal(first, noise(SHAPE, 7, 0))
    for other in (noise(SHAPE, 8), noise(SHAPE, 7, 1), noise(SHAPE, 7 + 2**32)):
        assert (first - other).abs().median() > 0.1


def test_noise_never_changes():
    """Fixed by hand from the definition: a file names its noise by the seed, for ever."""
    words = np.random.Philox(key=np.array([2**64 - 1, 3], dtype=np.uint64)).random_raw(2)
    u_1, u_2 = (words >> np.uint64(32)) / 2**32 + 2**-33, (words % np.uint64(2**32)) / 2**32 + 2**-33
    expected = [np.sqrt(-2 * np.log(u_1)) * f(2 * np.pi * u_2) for f in (np.cos, np.sin)]
    np.testing.assert_allclose(noise((2, 2), 2**64 - 1, 3), np.transpose(expected), rtol=1e-6)
    golden = [-1.4920068, 0.39776233, -0.073707215, -0.568019, -1.8806106]
    np.testing.assert_allclose(noise((5,), 1), golden, rtol=1e-6)
    assert torch.equal(noise((2, 2), 1).flatten(), noise((5,), 1)[:4])


def test_noise_can_begin_anywhere():
    whole = noise((3, 64, 64), 5, 2)
    for start in (0, 2, 6, 8, 4096, 4098, 3 * 4096 - 2):
        assert torch.equal(noise((2,), 5, 2, start), whole.flatten()[start : start + 2])
    assert torch.equal(noise((10, 64), 5, 2, start=4096 + 7 * 64), whole[1, 7:17])
    with pytest.raises(ValueError, match="start must be even, got 3"):
        noise((2,), 5, start=3)


def test_noise_is_white_and_normal():
    n = noise((400, 501), 11).double()
    assert abs(n.mean()) < 0.01 and abs(n.var() - 1) < 0.02
    assert abs((n**4).mean() - 3) < 0.1 and 4 < n.abs().max() < 7
    u = dct(n)  # any direction, not only that of single pixels
    assert abs(u.var() - 1) < 0.02 and abs((u**4).mean() - 3) < 0.1
    for a, b in (
        (n[:, 1:], n[:, :-1]),
        (n, noise((400, 501), 12).double()),
        (n, noise((400, 501), 11, 1).double()),
    ):
        assert abs((a * b).mean()) < 0.01


@pytest.mark.parametrize(("seed", "step"), [(-1, 0), (2**64, 0), (0, -1)])
def test_noise_refuses(seed, step):
    with pytest.raises(ValueError, match="must lie in"):
        noise((2,), seed, step)


# one step

steps = st.tuples(st.floats(0, 1), st.floats(0, 1)).filter(lambda p: p[0] != p[1]).map(sorted)
etas = st.floats(0, 1)
blurs = st.floats(0, 30)


@given(steps, blurs, etas)
def test_step_keeps_the_marginals(pair, sigma_b_max, eta):
    """A step with the true x leads from alpha_t u_x + sigma_t epsilon to alpha_s u_x + sigma_s epsilon'."""
    s, t = pair
    schedule = Blurring(sigma_b_max)
    keep, pull, spread = step_coefficients(schedule, t, s, 6, 9, eta)
    both = torch.tensor([t, s], dtype=torch.float64)
    alpha_t, alpha_s = schedule.alpha(both, 6, 9, torch.float64)
    sigma_t, sigma_s = schedule.sigma(both, torch.float64)
    for weights in (keep, pull, spread):
        assert weights.isfinite().all() and (weights >= -1e-12).all()
    torch.testing.assert_close((keep * alpha_t + pull)[0], alpha_s)
    variance = keep.square() * sigma_t.square() + spread.square()
    torch.testing.assert_close(variance[0], sigma_s.square().expand_as(alpha_s))


@given(st.integers(0, 499), st.floats(0, 20))
def test_variances_are_not_negative(k, sigma_b_max):
    """sigma2_ts and with it sigma2_den, without the clamp, over a chain of 500 steps."""
    schedule = Blurring(sigma_b_max)
    both = torch.tensor([(k + 1) / 500, k / 500], dtype=torch.float64)
    alpha, sigma = schedule.alpha(both, 6, 9, torch.float64), schedule.sigma(both, torch.float64)
    sigma2_ts = sigma[0].square() - (alpha[0] / alpha[1]).square() * sigma[1].square()
    assert (sigma2_ts > 0).all()


@pytest.mark.parametrize("sigma_b_max", [0.0, 1.0, 10.0])
@pytest.mark.parametrize(("t", "s"), [(1.0, 0.9), (0.5, 0.1), (0.2, 0.19), (0.01, 0.0025)])
def test_step_is_the_posterior_of_the_paper(t, s, sigma_b_max):
    """Against the form in which the paper gives it, with its divisions."""
    schedule = Blurring(sigma_b_max)
    both = torch.tensor([t, s], dtype=torch.float64)
    alpha_t, alpha_s = schedule.alpha(both, 6, 9, torch.float64)
    sigma_t, sigma_s = schedule.sigma(both, torch.float64)
    alpha_ts = alpha_t / alpha_s
    sigma2_ts = sigma_t**2 - alpha_ts**2 * sigma_s**2
    sigma2_den = 1 / (1 / sigma_s**2 + alpha_ts**2 / sigma2_ts)
    keep, pull, spread = step_coefficients(schedule, t, s, 6, 9, eta=1.0)
    torch.testing.assert_close(keep[0], alpha_ts * sigma2_den / sigma2_ts)
    torch.testing.assert_close(pull[0], alpha_s * sigma2_den / sigma_s**2)
    torch.testing.assert_close(spread[0], sigma2_den.sqrt())


# the starts


def test_late_start_by_hand():
    schedule, x, n = Blurring(6.0), photo(), noise(SHAPE, 3)
    t = torch.tensor([0.3, 0.3])
    expected = idct(schedule.alpha(t, 9, 14) * dct(x)) + schedule.sigma(t) * n
    torch.testing.assert_close(partial_noise_start(x, 0.3, n, schedule), expected)
    blurred = partial_noise_start(x, 0.3, torch.zeros(SHAPE), schedule)
    assert blurred.square().sum() < x.square().sum()


# the sampling loop


@pytest.mark.parametrize("sigma_b_max", [0.0, 1.0, 10.0])
@pytest.mark.parametrize("steps", [1, 2, 8])
@pytest.mark.parametrize("start", ["late", "full"])
def test_oracle(steps, sigma_b_max, start):
    """A denoiser that knows x leads both samplers to x, over the true z_s where the path is deterministic."""
    schedule, x, n = Blurring(sigma_b_max), photo(), noise(SHAPE, 3)
    t0 = 0.3 if start == "late" else 1.0
    ts = times(t0, steps)
    z = partial_noise_start(x, t0, n, schedule) if start == "late" else n
    seen = []

    def f(z_t, t):
        assert t.shape == (2,) and t.dtype == torch.float32
        seen.append((t[0].item(), z_t))
        return x

    torch.testing.assert_close(deterministic(f, z, ts, schedule), x)
    assert [t for t, _ in seen] == pytest.approx(ts[:-1])
    epsilon = schedule.epsilon_from_x(z, torch.full((2,), t0), x)
    for t, z_t in seen:
        expected = schedule.forward(x, torch.full((2,), t), epsilon)
        torch.testing.assert_close(z_t, expected, atol=2e-5, rtol=0)
    seen.clear()
    torch.testing.assert_close(ancestral(f, z, ts, schedule, seed=5), x)
    assert len(seen) == steps


class Gaussian:
    """A Gaussian image of independent frequencies, and its exact denoiser (a Wiener filter)."""

    def __init__(self, schedule):
        rng = np.random.default_rng(0)
        self.m = torch.from_numpy(rng.normal(size=(4, 6)))
        self.v = torch.from_numpy(np.exp(rng.uniform(np.log(0.02), np.log(2), (4, 6))))
        self.schedule = schedule

    def weights(self, t):
        alpha = self.schedule.alpha(t, 4, 6, torch.float64)
        sigma = self.schedule.sigma(t, torch.float64)
        return alpha, alpha * self.v / (alpha.square() * self.v + sigma.square())

    def denoise(self, z, t):
        alpha, gain = self.weights(t[:1])
        return idct(self.m + gain * (dct(z) - alpha * self.m))

    def variance_after(self, ts, eta):
        """Of x_hat, from white noise: every step is linear, so it can be followed exactly."""
        variance = torch.ones(1, 1, 4, 6, dtype=torch.float64)
        for t, s in pairwise(ts[:-1]):
            keep, pull, spread = step_coefficients(self.schedule, t, s, 4, 6, eta)
            _, gain = self.weights(torch.tensor([t], dtype=torch.float64))
            variance = (keep + pull * gain).square() * variance + spread.square()
        _, gain = self.weights(torch.tensor([ts[-2]], dtype=torch.float64))
        return (gain.square() * variance)[0, 0]


gaussians = pytest.mark.parametrize("sigma_b_max", [0.0, 5.0])


@gaussians
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_many_steps_give_the_true_variance(eta, sigma_b_max):
    """The error is of first order in the step: halved by twice as many, and gone in the limit."""
    toy = Gaussian(Blurring(sigma_b_max))
    coarse, fine = (toy.variance_after(times(1.0, steps), eta) / toy.v - 1 for steps in (300, 600))
    assert fine.abs().max() < 0.035
    assert (2 * fine - coarse).abs().max() < 0.006


@gaussians
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_samples_of_a_gaussian_image(eta, sigma_b_max):
    """What the samplers really draw has the moments that the steps imply."""
    schedule, ts, draws = Blurring(sigma_b_max), times(1.0, 60), 6000
    toy = Gaussian(schedule)
    z = noise((draws, 1, 4, 6), 1).double()
    if eta == 0:
        x = deterministic(toy.denoise, z, ts, schedule)
    else:
        x = ancestral(toy.denoise, z, ts, schedule, seed=1, eta=eta)
    u = dct(x)[:, 0]
    variance = toy.variance_after(ts, eta)
    assert ((u.mean(0) - toy.m) / variance.sqrt()).abs().max() < 5 / draws**0.5
    assert (u.var(0) / variance - 1).abs().max() < 5 * (2 / draws) ** 0.5
    assert (torch.corrcoef(u.flatten(1).T) - torch.eye(24)).abs().max() < 0.07


def test_epsilon_and_x_give_the_same_image():
    schedule, ts = Blurring(3.0), times(0.3, 6)
    z = partial_noise_start(photo(), 0.3, noise(SHAPE, 3), schedule).double()

    def f(z_t, t):
        return torch.tanh(z_t.roll(1, -1) + t[:, None, None, None])

    def g(z_t, t):
        return schedule.epsilon_from_x(z_t, t, f(z_t, t))

    for sample, extra in ((deterministic, {}), (ancestral, {"seed": 4})):
        expected = sample(f, z, ts, schedule, **extra)
        torch.testing.assert_close(sample(from_epsilon(g, schedule), z, ts, schedule, **extra), expected)


def test_eta_zero_is_deterministic():
    schedule, ts, z = Blurring(6.0), times(0.4, 5), photo()

    def f(z_t, t):
        return 0.5 * z_t

    expected = deterministic(f, z, ts, schedule)
    assert torch.equal(ancestral(f, z, ts, schedule, seed=1, eta=0.0), expected)
    first, again, other = (ancestral(f, z, ts, schedule, seed=seed) for seed in (1, 1, 2))
    assert (
        torch.equal(first, again) and not torch.allclose(first, other) and not torch.allclose(first, expected)
    )


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_numpy_and_torch_give_the_same(eta, local):
    """The same code on both: to the rounding of float32."""
    schedule, ts, x = Blurring(6.0, local=local and eta == 0), times(0.3, 4), photo((1, 3, 60, 70))
    n = sampler.noise(x.shape, 5)

    def f(z_t, t):
        return 0.9 * z_t + 0.1 * t[:, None, None, None]

    by_torch = ancestral(f, partial_noise_start(x, 0.3, n, schedule), ts, schedule, 3, eta)
    by_numpy = ancestral(f, partial_noise_start(x.numpy(), 0.3, n, schedule), ts, schedule, 3, eta)
    assert by_numpy.dtype == np.float32
    np.testing.assert_allclose(by_numpy, by_torch, atol=3e-6, rtol=0)


def test_progress_and_times_of_ones_own():
    calls = []
    schedule, z = Blurring(6.0), photo()
    result = deterministic(
        lambda z_t, t: z_t / 2, z, (0.5, 0.2, 0.0), schedule, lambda k, x: calls.append((k, x))
    )
    assert [k for k, _ in calls] == [1, 2]
    assert torch.equal(calls[0][1], z / 2) and torch.equal(calls[1][1], result)


def test_gradients_pass_through_the_steps():
    schedule, weight = Blurring(6.0), torch.tensor(0.5, requires_grad=True)
    deterministic(lambda z_t, t: weight * z_t, photo(), times(0.3, 3), schedule).square().mean().backward()
    assert weight.grad.isfinite() and weight.grad != 0


def test_half_precision_denoiser():
    """The state stays float32 whatever the network answers in."""
    schedule, ts, z = Blurring(6.0), times(0.3, 4), photo()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = deterministic(lambda z_t, t: (0.9 * z_t).bfloat16(), z, ts, schedule)
    full = deterministic(lambda z_t, t: 0.9 * z_t, z, ts, schedule)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, atol=0.02, rtol=0)


@pytest.mark.parametrize("ts", [(), (0.3,), (0.3, 0.1), (0.1, 0.3, 0.0), (1.2, 0.0), (0.3, 0.3, 0.0)])
def test_refuses_bad_times(ts):
    with pytest.raises(ValueError, match="times must fall"):
        deterministic(lambda z, t: z, photo(), ts, Blurring(1.0))


@pytest.mark.parametrize("eta", [-0.1, 1.1])
def test_refuses_bad_eta(eta):
    with pytest.raises(ValueError, match="eta"):
        ancestral(lambda z, t: z, photo(), times(0.3, 2), Blurring(1.0), seed=0, eta=eta)
