"""LowRankNormal against dense matrices and torch's own class in float64."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import (
    Independent,
    Laplace,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

from sos.analysis.interpolation import slerp
from sos.distributions import low_rank_normal
from sos.distributions.low_rank_normal import LowRankNormal


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small tensors on busy machines: waiting for the other threads costs more than they save."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


PAPER = 116_412, 25, 1e-5  # pixels, rank, epsilon
# name: (shape of loc, of cov_factor, of cov_diag; None is a number), factor stored R-major
SHAPES = {
    "one image": ((6,), (6, 2), (6,), False),
    "number": ((6,), (6, 2), None, False),
    "0-d diagonal": ((6,), (6, 2), (), False),
    "batch": ((3, 6), (3, 6, 2), (3, 6), False),
    "batch, number": ((3, 6), (3, 6, 2), None, True),
    "one number per item": ((3, 6), (3, 6, 2), (3, 1), True),
    "R-major": ((3, 6), (3, 6, 2), (3, 6), True),
    "two batch axes": ((2, 3, 6), (2, 3, 6, 2), (2, 3, 6), True),
    "rank 0": ((3, 6), (3, 6, 0), (3, 6), False),
    "rank 0, number": ((6,), (6, 0), None, False),
    "rank = pixels": ((3, 4), (3, 4, 4), None, False),
    "rank > pixels": ((3, 4), (3, 4, 9), (4,), True),
    "one pixel": ((2, 1), (2, 1, 3), (2, 1), False),
    "shared factor": ((3, 6), (6, 2), None, True),
    "shared factor and diagonal": ((3, 6), (6, 2), (6,), False),
    "shared mean": ((6,), (3, 6, 2), (6,), False),
    "shared mean and factor": ((6,), (6, 2), (3, 6), False),
    "crossed": ((2, 1, 6), (3, 6, 2), (2, 1, 6), True),
    "odd ones": ((1, 6), (1, 6, 2), None, True),
}


def make(name="batch", dtype=torch.float64, seed=0):
    loc_shape, factor_shape, diag_shape, r_major = SHAPES[name]
    generator = torch.Generator().manual_seed(seed)
    loc = torch.randn(loc_shape, generator=generator, dtype=dtype)
    factor = torch.randn(factor_shape, generator=generator, dtype=dtype)
    factor = factor.mT.contiguous().mT if r_major else factor
    diag = 0.3
    if diag_shape is not None:
        diag = torch.rand(diag_shape, generator=generator, dtype=dtype) + 0.1
    return loc, factor, diag


def covariance(p: LowRankNormal):
    return p.cov_factor @ p.cov_factor.mT + torch.diag_embed(p.cov_diag)


def dense(p: LowRankNormal):
    return MultivariateNormal(p.loc, covariance(p))


def some_pixels(p: LowRankNormal):
    """Two pixels, or the only one, not in order, and values for them."""
    index = torch.tensor([2, 0])[: max(1, p.event_shape[0] - 1)] % p.event_shape[0]
    return index, torch.randn(*p.batch_shape, len(index), dtype=torch.float64)


def close(a, b, tolerance=1e-10):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", SHAPES)
def test_densities_and_moments_match_the_dense_normal(name):
    p = LowRankNormal(*make(name))
    expected = dense(p)
    assert (p.batch_shape, p.event_shape) == (expected.batch_shape, expected.event_shape)
    for sample_shape in [(), (4,), (2, 3)]:
        value = torch.randn(sample_shape + p.batch_shape + p.event_shape, dtype=torch.float64)
        close(p.log_prob(value), expected.log_prob(value))
    close(p.log_prob(value[0, 0]), expected.log_prob(value[0, 0]))
    log_prob, rank_entropy = p.log_prob_and_rank_entropy(value)
    close(log_prob, p.log_prob(value))
    close(rank_entropy, p.rank_entropy)
    close(p.entropy(), expected.entropy())
    floor = MultivariateNormal(p.loc, torch.diag_embed(p.cov_diag)).entropy()
    close(p.rank_entropy, expected.entropy() - floor)
    for attribute in ("mean", "variance", "stddev", "covariance_matrix"):
        close(getattr(p, attribute), getattr(expected, attribute))
    assert p.rsample((5,)).shape == (5,) + p.batch_shape + p.event_shape


@pytest.mark.parametrize("name", ["batch", "shared factor", "rank > pixels"])
def test_matches_torchs_low_rank_class(name):
    p = LowRankNormal(*make(name))
    expected = LowRankMultivariateNormal(p.loc, p.cov_factor, p.cov_diag)
    value = torch.randn(p.batch_shape + p.event_shape, dtype=torch.float64)
    close(p.log_prob(value), expected.log_prob(value))
    close(p.entropy(), expected.entropy())


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("sample_shape", [(), (3,)])
def test_gradients(name, sample_shape):
    loc, factor, diag = make(name)
    if not isinstance(diag, torch.Tensor):
        diag = torch.tensor(diag, dtype=torch.float64)
    p = LowRankNormal(loc, factor, diag)
    value = torch.randn(sample_shape + p.batch_shape + p.event_shape, dtype=torch.float64)
    inputs = [x.detach().clone().requires_grad_() for x in (loc, factor, diag, value)]

    def densities(loc, factor, diag, value):
        p = LowRankNormal(loc, factor, diag)
        return *p.log_prob_and_rank_entropy(value), p.entropy()

    assert torch.autograd.gradcheck(densities, inputs, fast_mode=p.batch_shape.numel() > 3)


@pytest.mark.parametrize("gain", [0.1, 1.0])
@pytest.mark.parametrize("sample_shape", [(), (5,)], ids=["one value", "more values than ranks"])
@pytest.mark.parametrize("name", [
    "number", "batch, number", "one number per item", "rank 0, number", "shared factor", "odd ones",
])  # fmt: skip
def test_a_span_gain_multiplies_gradients_by_the_dense_matrix(name, sample_shape, gain):
    """(1 - k) I + k Sigma / epsilon for loc and P; no value changes, nor D's gradient."""
    loc, factor, diag = make(name)
    diag = torch.as_tensor(diag, dtype=torch.float64).reshape(-1, 1)
    diag = diag[0] if diag.numel() == 1 else diag
    leaves = [x.requires_grad_() for x in (loc, factor, diag)]
    p = LowRankNormal(*leaves)
    value = p.sample(sample_shape) + 1

    def results(gain):
        log_prob, entropy = p.log_prob_and_rank_entropy(value, gain)
        loss = 0.7 * log_prob.sum() + 0.4 * entropy.sum()
        return loss, *torch.autograd.grad(loss, leaves)

    plain, gained = results(0.0), results(gain)
    assert torch.equal(plain[0], gained[0])
    identity = torch.eye(loc.shape[-1], dtype=torch.float64)
    matrix = identity + gain / diag[..., None] * (factor @ factor.mT)
    close(gained[1], (matrix @ plain[1][..., None])[..., 0])
    close(gained[2], matrix @ plain[2])
    close(gained[3], plain[3])


def test_only_the_gradients_asked_for_and_in_the_factors_layout():
    loc, factor, diag = make("R-major", torch.float32)
    value = torch.randn(3, 6)
    for which in range(4):
        inputs = [loc, factor, diag, value]
        inputs[which] = inputs[which].detach().requires_grad_()
        log_prob = LowRankNormal(*inputs[:3]).log_prob(inputs[3]).sum()
        (grad,) = torch.autograd.grad(log_prob, inputs[which])
        assert grad.dtype == torch.float32 and grad.stride() == inputs[which].stride()


def test_blocks_do_not_change_the_result(monkeypatch):
    loc, factor, _ = torch.randn(5, 101), torch.randn(5, 3, 101).mT, None
    value = torch.randn(5, 101)
    diag = torch.rand(5, 101) + 0.1
    results = []
    for block, width in [(2**19, 1024), (64, 7), (2000, 16), (1, 1)]:
        monkeypatch.setattr(low_rank_normal, "CPU_BUDGET", block)
        monkeypatch.setattr(low_rank_normal, "CHUNK", width)
        inputs = [x.double().requires_grad_() for x in (loc, factor, diag, value)]
        p = LowRankNormal(*inputs[:3])
        log_prob, rank_entropy = p.log_prob_and_rank_entropy(inputs[3])
        gradients = torch.autograd.grad((log_prob + rank_entropy).sum(), inputs)
        results.append([log_prob, rank_entropy, *gradients])
    for other in results[1:]:
        for a, b in zip(other, results[0], strict=True):
            close(a, b, 1e-12)


@pytest.mark.parametrize("pixels, floor", [
    (116_412, -504_939.867), (233 * 197, -199_096.698), (64 * 64, -17_766.499),
])  # fmt: skip
def test_entropy_floors_of_the_paper(pixels, floor):
    p = LowRankNormal(torch.zeros(pixels), torch.zeros(pixels, 25), 1e-5)
    assert p.entropy().item() == pytest.approx(floor, abs=1e-3)
    assert p.rank_entropy.item() == 0
    assert p.log_prob(p.mean).item() == pytest.approx(pixels / 2 - floor, abs=1e-3)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(0, 25), st.floats(1e-6, 1e2), st.integers(0, 99))
def test_density_at_the_mean_is_half_the_pixels_minus_the_entropy(pixels, rank, epsilon, seed):
    factor = torch.randn(pixels, rank, generator=torch.Generator().manual_seed(seed))
    p = LowRankNormal(torch.zeros(pixels), factor, epsilon)
    close(p.log_prob(p.mean), pixels / 2 - p.entropy(), 1e-9)


def paper_factor(spectrum: str, seed=0):
    """An R-major float32 factor (1, R, S) whose squared singular values are the spectrum."""
    pixels, rank, _ = PAPER
    eigenvalues = {
        "constrained": torch.logspace(3, 0, rank).mul(3747 / torch.logspace(3, 0, rank).sum()),
        "wide": torch.logspace(math.log10(3e4), -5, rank),
        "exploded": torch.logspace(3, 0, rank).mul(1.369e6 / torch.logspace(3, 0, rank).sum()),
        "24 zero columns": torch.cat([torch.full((1,), 150.0), torch.zeros(rank - 1)]),
    }[spectrum]
    generator = torch.Generator().manual_seed(seed)
    directions = torch.linalg.qr(torch.randn(pixels, rank, generator=generator))[0]
    rotation = torch.linalg.qr(torch.randn(rank, rank, generator=generator))[0]
    if spectrum == "24 zero columns":
        rotation = torch.eye(rank)
    return (rotation * eigenvalues.sqrt() @ directions.T)[None]


@pytest.mark.parametrize("spectrum", ["constrained", "wide", "exploded", "24 zero columns"])
def test_float32_at_the_papers_size(spectrum):
    """Within 0.05 nats of float64 (torch's class: 875 nats, or a failed Cholesky), and gradients
    whose part inside the span of P survives."""
    pixels, rank, epsilon = PAPER
    factor = paper_factor(spectrum).requires_grad_()
    loc = torch.rand(1, pixels).requires_grad_()
    p = LowRankNormal(loc, factor.mT, epsilon)
    value = p.sample(generator=torch.Generator().manual_seed(1))
    log_prob, rank_entropy = p.log_prob_and_rank_entropy(value)
    wide = factor.detach()[0].double()
    residual = value[0].double() - loc.detach()[0].double()
    # oracle: QR of [P; sqrt(eps) I], which never squares the condition number
    stacked = torch.cat([wide.T, math.sqrt(epsilon) * torch.eye(rank).double()])
    q, r = torch.linalg.qr(stacked)
    padded = torch.cat([residual, torch.zeros(rank).double()])
    distance = (padded - q @ (q.T @ padded)).square().sum() / epsilon
    half_logdet = r.diagonal().abs().log().sum() - rank / 2 * math.log(epsilon)
    constant = pixels * (math.log(2 * math.pi) + math.log(epsilon))
    assert rank_entropy.item() == pytest.approx(half_logdet.item(), abs=1e-3)
    expected = -0.5 * (constant + distance) - half_logdet
    assert log_prob.item() == pytest.approx(expected.item(), abs=0.05)
    # P^T dlog p / dmu = alpha = K^-1 P^T D^-1 r, recomputed from the oracle
    alpha = torch.linalg.solve_triangular(r, (q.T @ padded)[:, None], upper=True)[:, 0]
    (grad,) = torch.autograd.grad(log_prob.sum(), loc)
    scale = wide.norm() * grad.double().norm() * 2**-24  # of rounding the result to float32
    assert (wide @ grad[0].double() - alpha).abs().max() < 1e-6 + scale


def honest(kind: str, items: int, pixels: int, seed=0):
    """μ, R-major P and a value that is drawn, float32, with ε of the size of the residuals."""
    generator = torch.Generator().manual_seed(seed)
    at = torch.linspace(0, 1, pixels)
    factor = 0.1 * torch.randn(items, 6, pixels, generator=generator)
    if kind == "smooth":
        waves = torch.stack([torch.cos(math.pi * k * at) for k in range(6)])
        factor = 0.1 * waves.repeat(items, 1, 1)
    if kind == "equal values":
        factor = 0.1 * torch.rand(items, 6, 1, generator=generator).repeat(1, 1, pixels)
    loc = torch.rand(items, pixels, generator=generator)
    p = LowRankNormal(loc, factor.mT, 5e-3)
    return loc, factor, p.sample(generator=generator)


@pytest.mark.parametrize("kind, items, pixels, in_float32", [
    ("noise", 1, 900, True), ("noise", 10, 900, True), ("noise", 10, 12_288, True),
    ("noise", 1, 116_412, False), ("noise", 10, 116_412, True), ("smooth", 10, 900, True),
    ("smooth", 10, 12_288, False), ("equal values", 1, 900, True),
    ("equal values", 10, 116_412, False),
])  # fmt: skip
def test_float32_products_where_epsilon_allows_them(kind, items, pixels, in_float32, monkeypatch):
    """Within 0.05 nats, and the gradients' part inside the span of P within a hundredth."""
    loc, factor, value = honest(kind, items, pixels)
    wide = [x.double() for x in (loc, factor, value)]
    used = []
    single = low_rank_normal._single_gradients
    monkeypatch.setattr(
        low_rank_normal, "_single_gradients", lambda *x: (used.append(True), single(*x))
    )
    results = []
    for mean, rows, x in ((loc, factor, value), wide):
        epsilon = torch.tensor([5e-3], dtype=torch.float64)
        leaves = [leaf.clone().requires_grad_() for leaf in (mean, rows, epsilon)]
        terms = LowRankNormal(leaves[0], leaves[1].mT, leaves[2]).log_prob_and_rank_entropy(x)
        results.append((terms, torch.autograd.grad(sum(terms).sum(), leaves)))
    (found, gradients), (expected, exact) = results
    assert bool(used) == in_float32
    for a, b in zip(found, expected, strict=True):
        assert (a - b).abs().max() < 0.05
    assert (gradients[2] - exact[2]).abs() < 1e-5 * items * pixels / 5e-3  # of its largest term
    for a, b in zip(gradients[:2], exact[:2], strict=True):
        assert (a.double() - b).norm() < (1e-3 if kind == "equal values" else 1e-5) * b.norm()
    alpha, beside = (wide[1] @ g.double()[..., None] for g in (exact[0], gradients[0]))
    assert (alpha - beside).norm() < 1e-2 * alpha.norm()


def test_items_that_float32_would_spoil_are_computed_in_float64():
    """The first item looks harmless; another has equal values, a large P, or is not finite."""
    loc, factor, value = honest("noise", 10, 116_412)
    for spoiled in (torch.full((), 3.0), torch.full((), math.inf)):
        factor[7] = spoiled
        p = LowRankNormal(loc, factor.mT, 5e-3, validate_args=False)
        exact = LowRankNormal(loc[:7].double(), factor[:7].double().mT, 5e-3)
        log_prob = p.log_prob(value)
        close(log_prob[:7], exact.log_prob(value[:7].double()), 1e-9)
        assert bool(log_prob[7].isfinite()) == bool(spoiled.isfinite())


def test_a_log_density_brings_the_entropy_along(monkeypatch):
    """Gradients and values are those of separate distributions, and P is read once."""
    loc, factor, diag = make("batch", torch.float32)
    value = torch.randn(3, 6)
    calls = []
    grams = low_rank_normal._grams
    monkeypatch.setattr(low_rank_normal, "_grams", lambda *x: (calls.append(1), grams(*x))[1])

    def loss(separate: bool):
        leaves = [x.clone().requires_grad_() for x in (loc, factor, diag)]
        p = LowRankNormal(*leaves)
        log_prob = p.log_prob(value)
        entropy = LowRankNormal(*leaves).entropy() if separate else p.entropy()
        return torch.autograd.grad((log_prob + 2 * entropy).sum(), leaves)

    for one, other in zip(loss(False), loss(True), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert len(calls) == 1 + 2


def test_what_was_kept_never_outlives_its_reason():
    factor = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    epsilon = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    value = torch.randn(6, dtype=torch.float64)
    p = LowRankNormal(torch.zeros(6, dtype=torch.float64), factor, epsilon)

    def exact():
        return LowRankNormal(p.loc, factor.detach().clone(), epsilon.detach().clone()).entropy()

    with torch.no_grad():
        p.log_prob(value)
    assert p.entropy().requires_grad  # although what came with the density had no gradient
    p.log_prob(value).backward()
    p.entropy().backward()  # the first pass freed its graph
    p.log_prob(value)
    with torch.no_grad():
        factor *= 2
    close(p.entropy(), exact())
    p.log_prob(value)
    with torch.no_grad():
        epsilon *= 2
    close(p.entropy(), exact())
    p.log_prob_and_rank_entropy(value, 0.5)  # a gain is not the entropy's own gradient
    found = torch.autograd.grad(p.entropy(), factor)[0]
    close(found, torch.autograd.grad(LowRankNormal(p.loc, factor, epsilon).entropy(), factor)[0])
    torch.func.vmap(p.log_prob)(value.repeat(4, 1))
    close(p.entropy(), exact())
    p.log_prob(value)
    close(copy.deepcopy(p).entropy(), exact())
    close(p.expand((5,)).entropy(), exact().expand(5))
    with torch.inference_mode():
        q = LowRankNormal(p.loc.clone(), factor.clone(), 0.3)
        q.log_prob(value)
        q.cov_factor.mul_(2)
        close(q.entropy(), LowRankNormal(p.loc.clone(), 2 * factor, 0.3).entropy())


@pytest.mark.parametrize("factor", [
    torch.full((50, 4), 1e15), torch.full((50, 4), 1e-30), torch.full((50, 4), 3e38),
    torch.randn(50, 1, generator=torch.Generator().manual_seed(0)).expand(50, 4) * 1e12,
    torch.logspace(-30, 30, 200).reshape(50, 4), torch.zeros(50, 4),
])  # fmt: skip
@pytest.mark.parametrize("epsilon", [1e-30, 1e-5, 1e30])
def test_extreme_factors_neither_fail_nor_give_nan(factor, epsilon):
    factor = factor.clone().requires_grad_()
    p = LowRankNormal(torch.zeros(50), factor, epsilon)
    log_prob, rank_entropy = p.log_prob_and_rank_entropy(torch.zeros(50))
    assert log_prob.isfinite() and rank_entropy.isfinite() and rank_entropy >= 0
    (grad,) = torch.autograd.grad(rank_entropy, factor)
    assert not grad.isnan().any()


def test_duplicate_columns_at_a_sane_scale_are_exact():
    column = torch.randn(500, 1, dtype=torch.float64)
    doubled = LowRankNormal(torch.zeros(500).double(), column.repeat(1, 2), 1e-5)
    single = LowRankNormal(torch.zeros(500).double(), column * math.sqrt(2), 1e-5)
    close(doubled.rank_entropy, single.rank_entropy, 1e-7)


def test_values_deep_inside_the_span_keep_their_digits():
    factor = torch.randn(300, 3, dtype=torch.float64)
    value = factor @ torch.tensor([1e7, -2e7, 3e7]).double()
    p = LowRankNormal(torch.zeros(300).double(), factor, 1e-5)
    expected = p.log_prob(p.mean) - 0.5 * 14e14  # e = 0, |alpha|^2 remains
    assert abs(p.log_prob(value) / expected - 1) < 1e-6


def test_nonfinite_values_without_validation_give_nan():
    factor = torch.full((2, 6, 2), math.nan)
    factor[0] = 1.0
    p = LowRankNormal(torch.zeros(2, 6), factor, 1.0, validate_args=False)
    assert p.log_prob(torch.zeros(2, 6)).isnan().tolist() == [False, True]


@pytest.mark.parametrize("name", SHAPES)
def test_given_noise_is_used_exactly(name):
    p = LowRankNormal(*make(name))
    for lead in [p.batch_shape, (4,) + p.batch_shape, (4,) + (1,) * len(p.batch_shape)]:
        w, v = torch.randn(*lead, p.rank).double(), torch.randn(*lead, p.event_shape[0]).double()
        low_rank = (p.cov_factor @ w.unsqueeze(-1)).squeeze(-1)
        close(p.rsample_from(w, v), p.loc + low_rank + p.cov_diag.sqrt() * v)


def test_samples_have_the_right_moments_and_follow_the_generator():
    p = LowRankNormal(*make("one image"))
    samples = p.sample((200_000,), generator=torch.Generator().manual_seed(0))
    close(samples.mean(0), p.mean, 0.03)
    close(samples.T.cov(), covariance(p), 0.06)
    again = p.sample((200_000,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(samples, again)
    spread = (samples - p.mean).square().sum(-1).mean()
    assert spread.item() == pytest.approx(p.variance.sum().item(), rel=0.02)


def test_samples_are_differentiable():
    inputs = [x.requires_grad_() for x in make("batch")]
    w, v = torch.randn(4, 3, 2).double(), torch.randn(4, 3, 6).double()
    assert torch.autograd.gradcheck(lambda *x: LowRankNormal(*x).rsample_from(w, v), inputs)


def test_expand():
    p = LowRankNormal(*make("one image"))
    q = p.expand((4, 3))
    value = torch.randn(4, 3, 6).double()
    close(q.log_prob(value), p.log_prob(value))
    assert q.entropy().shape == q.batch_shape == (4, 3) and q.rsample().shape == (4, 3, 6)
    assert q.condition(torch.tensor([0]), 1.0).batch_shape == (4, 3)


def test_values_broadcast_with_the_batch_as_in_torchs_classes():
    loc, factor, diag = make("batch")
    p = LowRankNormal(loc[:, None], factor[:, None], diag[:, None])  # batch (3, 1)
    for shape in ((4, 6), (3, 4, 6), (2, 3, 4, 6), (3, 1, 6)):
        value = torch.randn(shape, dtype=torch.float64)
        close(p.log_prob(value), dense(p).log_prob(value))


@pytest.mark.parametrize("name", ["batch", "batch, number"])
def test_an_empty_batch(name):
    loc, factor, diag = (x[:0] if isinstance(x, torch.Tensor) else x for x in make(name))
    loc.requires_grad_()
    p = LowRankNormal(loc, factor, diag)
    assert p.entropy().shape == (0,)
    for value in (loc.detach(), torch.zeros(2, 0, 6)):
        log_prob = p.log_prob(value)
        assert log_prob.shape == value.shape[:-1]
        assert torch.autograd.grad(log_prob.sum(), loc)[0].shape == (0, 6)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32, torch.bfloat16])
def test_the_values_type_does_not_round_the_gradient_of_the_mean(dtype):
    loc, factor, diag = make("batch")
    loc *= 100
    value = torch.randint(0, 100, loc.shape).to(dtype)
    found, expected = (
        torch.autograd.grad(LowRankNormal(x, factor, diag).log_prob(v).sum(), x)[0]
        for x, v in ((loc.clone().requires_grad_(), v) for v in (value, value.double()))
    )
    close(found, expected)


@pytest.mark.parametrize("name", SHAPES)
def test_kl_matches_dense(name):
    p, q = LowRankNormal(*make(name, seed=1)), LowRankNormal(*make(name, seed=2))
    close(kl_divergence(p, q), kl_divergence(dense(p), dense(q)), 1e-9)
    close(kl_divergence(p, p), torch.zeros(p.batch_shape).double(), 1e-9)


@pytest.mark.parametrize("p_batch, p_rank, q_batch, q_rank", [
    ((), 3, (3,), 2), ((3,), 2, (2, 3), 2), ((), 5, (3,), 0), ((2, 1), 3, (3,), 4),
    ((3,), 2, (), 4),
])  # fmt: skip
def test_kl_of_different_batches_and_ranks(p_batch, p_rank, q_batch, q_rank):
    p, q = (
        LowRankNormal(torch.randn(*b, 6).double(), torch.randn(*b, 6, r).double(), 0.3)
        for b, r in ((p_batch, p_rank), (q_batch, q_rank))
    )
    close(kl_divergence(p, q), kl_divergence(dense(p), dense(q)))


def test_kl_from_a_factor_of_equal_columns():
    p, q = (LowRankNormal(torch.zeros(6), 1e8 * torch.ones(6, r), 1e-5) for r in (1, 3))
    assert kl_divergence(p, q).isfinite()


@pytest.mark.parametrize(
    "name", [name for name in SHAPES if dense(LowRankNormal(*make(name))).batch_shape]
)
def test_items_of_a_batch_are_the_distributions_in_it(name):
    p = LowRankNormal(*make(name))
    value = torch.randn(p.event_shape, dtype=torch.float64)
    for index in (0, -1, slice(0, 1)):
        item = p[index]
        close(item.log_prob(value), p.log_prob(value)[index])
        close(covariance(item), covariance(p)[index])
    assert (
        p.condition(torch.tensor([0]), 1.0)[0]
        .condition(torch.tensor([0]), 2.0)
        .mean[..., 0]
        .eq(2)
        .all()
    )


@pytest.mark.parametrize("name", SHAPES)
def test_covariance_rows_match_dense(name):
    p = LowRankNormal(*make(name))
    sigma = covariance(p)
    for index in (0, -1):
        close(p.covariance_row(index), sigma[..., index, :])


@pytest.mark.parametrize("name", SHAPES)
def test_principal_components_match_the_svd(name):
    p = LowRankNormal(*make(name))
    u, s, v = p.principal_components()
    kept = min(p.event_shape[0], p.rank)
    expected = torch.linalg.svdvals(p.cov_factor)
    close(s[..., :kept], expected, 1e-7)
    assert not s[..., kept:].any() and not u[..., kept:].any()
    close((u * s.unsqueeze(-2)) @ v.mT, p.cov_factor, 1e-7)
    close(v.mT @ v, torch.eye(p.rank).double().expand_as(v))
    if kept:
        products = (u.mT @ u)[..., :kept, :kept]
        close(products, torch.eye(kept).double().expand_as(products), 1e-7)
        peaks = u[..., :kept].gather(-2, u[..., :kept].abs().argmax(-2, keepdim=True))
        assert (peaks > 0).all()


def test_components_of_a_deficient_factor_are_exact_zeros():
    factor = torch.randn(40, 5)
    factor[:, 1] = 0
    factor[:, 3] = 2 * factor[:, 0]
    u, s, v = LowRankNormal(torch.zeros(40), factor, 1e-5).principal_components()
    assert (s[:3] > 0).all() and not s[3:].any() and not u[:, 3:].any()
    zeros = LowRankNormal(torch.zeros(40), torch.zeros(40, 5), 1e-5).principal_components()
    assert not zeros.scales.any() and not zeros.directions.any()


@pytest.mark.parametrize("name", SHAPES)
def test_scaling_components(name):
    p = LowRankNormal(*make(name))
    ones = torch.ones(p.rank)
    close(covariance(p.scale_components(ones)), covariance(p), 1e-12)
    assert not p.scale_components(0 * ones).cov_factor.any()
    if p.rank:
        u, s, v = p.principal_components()
        scales = torch.linspace(-2, 3, p.rank).double()
        expected = (u * s.unsqueeze(-2) * scales) @ v.mT
        close(p.scale_components(scales).cov_factor, expected, 1e-7)
        parts = sum(p.scale_components(row).cov_factor for row in torch.eye(p.rank))
        close(parts, p.cov_factor)


def conditioned(p: LowRankNormal, index, values, noise=0.0):
    """Mean and covariance given noisy values of some pixels, by dense block formulas (eq. 6-7)."""
    sigma = covariance(p)
    noise = torch.as_tensor(noise, dtype=torch.float64).expand(len(index))
    block = sigma[..., index, :][..., index] + torch.diag(noise)
    gain = torch.linalg.solve(block, sigma[..., index, :]).mT
    mean = p.loc + (gain @ (values - p.loc[..., index]).unsqueeze(-1)).squeeze(-1)
    return mean, sigma - gain @ sigma[..., index, :]


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("noise", [None, 0.5, "mixed"])
def test_conditioning_matches_dense(name, noise):
    p = LowRankNormal(*make(name))
    index, values = some_pixels(p)
    if noise == "mixed":
        noise = torch.tensor([0.2, 0.0])[: len(index)].double()
    q = p.condition(index, values, noise)
    mean, sigma = conditioned(p, index, values, 0.0 if noise is None else noise)
    close(q.mean, mean)
    close(covariance(q), sigma)
    close(q.variance, sigma.diagonal(dim1=-2, dim2=-1))
    close(q.covariance_row(1 % p.event_shape[0]), sigma[..., 1 % p.event_shape[0], :])
    if isinstance(noise, torch.Tensor):
        return
    if noise is None:
        assert torch.equal(q.mean[..., index], values) and not q.variance[..., index].any()
        assert torch.equal(q.sample((3,))[..., index], values.expand(3, *values.shape))
        with pytest.raises(ValueError, match="noise_variance"):
            q.log_prob(q.mean)
    else:
        close(q.log_prob(p.loc), MultivariateNormal(mean, sigma).log_prob(p.loc))


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_marginal_and_conditional_densities_match_dense(name, noise):
    p = LowRankNormal(*make(name))
    index, values = some_pixels(p)
    sigma = covariance(p)[..., index, :][..., index]
    known = MultivariateNormal(p.loc[..., index], sigma + noise * torch.eye(len(index)).double())
    close(p.marginal_log_prob(index, values, noise), known.log_prob(values))
    order = index.argsort()
    q = p.marginal(index)
    close(q.mean, p.loc[..., index[order]])
    close(covariance(q), sigma[..., order, :][..., order])
    y = torch.randn(3, *p.batch_shape, *p.event_shape, dtype=torch.float64)
    part = MultivariateNormal(p.loc[..., index], sigma).log_prob(y[..., index])
    close(p.conditional_log_prob(y, index), dense(p).log_prob(y) - part)
    assert not p.marginal_log_prob([], 0.0).any()


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_the_posterior_of_the_noise_is_a_ridge_regression(name, noise):
    p = LowRankNormal(*make(name))
    index, values = some_pixels(p)
    mean, spread = p.noise_posterior(index, values, noise)
    known = p.cov_factor[..., index, :]
    sigma = covariance(p)[..., index, :][..., index] + noise * torch.eye(len(index)).double()
    gain = torch.linalg.solve(sigma, known).mT
    close(mean, (gain @ (values - p.loc[..., index])[..., None])[..., 0])
    close(spread, torch.eye(p.rank) - gain @ known)
    gram, constant = p.observed_gram(index, values, noise)
    cross = gram[..., :1, 1:]  # completing the square in ω gives the density of the values
    inner = torch.linalg.inv(gram[..., 1:, 1:] + torch.eye(p.rank).double())
    square = gram[..., 0, 0] - (cross @ inner @ cross.mT)[..., 0, 0]
    density = -0.5 * (constant + square - torch.linalg.slogdet(inner)[1])
    close(density, p.marginal_log_prob(index, values, noise))
    nothing, whole = p.noise_posterior([], 0.0)
    assert not nothing.any() and nothing.shape == p.batch_shape + (p.rank,)
    close(whole, torch.eye(p.rank).double().expand(*p.batch_shape, p.rank, p.rank))


@pytest.mark.parametrize("name", SHAPES)
def test_leaving_one_out_matches_dense(name):
    p = LowRankNormal(*make(name))
    y = torch.randn(2, *p.batch_shape, *p.event_shape, dtype=torch.float64)
    mean, variance = p.leave_one_out(y)
    assert mean.shape == variance.shape == y.shape
    pixels = p.event_shape[0]
    for i in range(pixels):
        others = [j for j in range(pixels) if j != i]
        sigma = covariance(p)
        gain = torch.linalg.solve(sigma[..., others, :][..., others], sigma[..., others, i, None])
        left = y[..., others] - p.loc[..., others]
        close(mean[..., i], p.loc[..., i] + (left * gain[..., 0]).sum(-1), 1e-8)
        spread = sigma[..., i, i] - (sigma[..., others, i] * gain[..., 0]).sum(-1)
        close(variance[..., i], spread.expand(2, *p.batch_shape), 1e-8)


def test_the_density_of_some_pixels_has_gradients():
    loc, factor, _ = make("batch")
    diag = torch.full((), 0.3, dtype=torch.float64)
    parts = [x.requires_grad_() for x in (loc, factor, diag)]
    values = torch.randn(3, 2, dtype=torch.float64)

    def density(*parts):
        return LowRankNormal(*parts).marginal_log_prob([4, 1], values, torch.tensor([0.0, 0.1]))

    assert torch.autograd.gradcheck(density, parts)


def test_what_was_fixed_has_no_density_and_cannot_be_left_out():
    q = LowRankNormal(*make("one image")).condition([1], 0.5)
    with pytest.raises(ValueError, match="noise_variance"):
        q.leave_one_out(q.mean)
    with pytest.raises(ValueError, match="noise_variance"):
        q.marginal_log_prob([1, 2], 0.5)
    assert q.marginal_log_prob([1, 2], 0.5, 0.1).isfinite()
    with pytest.raises(ValueError, match="reaches from 6 to 6"):
        q.marginal(6)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 5), st.lists(st.integers(0, 11), min_size=1, max_size=12, unique=True),
    st.data(), st.booleans(), st.integers(0, 999),
)  # fmt: skip
def test_edits_in_sequence_equal_edits_at_once(rank, index, data, exact, seed):
    cut = data.draw(st.integers(0, len(index)))
    generator = torch.Generator().manual_seed(seed)
    loc, values = torch.randn(12, generator=generator), torch.randn(len(index), generator=generator)
    factor = torch.randn(12, rank, generator=generator)
    p = LowRankNormal(loc.double(), factor.double(), 0.01)
    index, noise = torch.tensor(index), None if exact else 0.3
    values = values.double()
    once = p.condition(index, values, noise)
    twice = p.condition(index[:cut], values[:cut], noise).condition(
        index[cut:], values[cut:], noise
    )
    close(once.mean, twice.mean, 1e-9)
    close(covariance(once), covariance(twice), 1e-9)
    shuffled = torch.randperm(len(index), generator=generator)
    other = p.condition(index[shuffled], values[shuffled], noise)
    close(once.mean, other.mean)


def test_ways_to_name_pixels():
    p = LowRankNormal(*make("batch"))
    mask = torch.tensor([True, False, False, True, False, False])
    values = torch.tensor([1.0, 2.0]).double()
    expected = p.condition(torch.tensor([0, 3]), values)
    for q in (
        p.condition(mask, values),
        p.condition(torch.tensor([3, 0]), values.flip(0)),
        p.condition(torch.tensor([-6, 3]), values),
        p.condition(torch.tensor([3, 0, 3]), torch.tensor([9.0, 1.0, 2.0])),  # the last wins
        p.condition([0, 3], [1.0, 2.0]),
        p.condition(np.array([3, 0]), np.array([2.0, 1.0])),
        p.condition(torch.tensor([0, 3], dtype=torch.uint8), values.float()),
        p.condition(mask.tolist(), values),
        p.condition(range(0, 4, 3), values),
        p.condition(0, 1).condition(np.int32(3), 2),
        p.condition(torch.tensor([0]), 1.0).condition(torch.tensor([3]), 2.0),
    ):
        close(q.mean, expected.mean)
        close(covariance(q), covariance(expected))
    assert p.condition(torch.zeros(6, dtype=torch.bool), 1.0) is p
    assert p.condition([], 1.0) is p
    again = expected.condition(torch.tensor([0]), 7.0)  # a fixed pixel takes its new value
    assert (again.mean[:, 0] == 7).all() and torch.equal(again.mean[:, 1:], expected.mean[:, 1:])


def test_edits_at_the_papers_size_agree_with_float64():
    factor, epsilon = paper_factor("constrained"), PAPER[2]
    loc, index = torch.rand(1, PAPER[0]), torch.randperm(PAPER[0])[:3000]
    values = torch.rand(1, 3000)
    single = LowRankNormal(loc, factor.mT, epsilon).condition(index, values)
    double = LowRankNormal(loc.double(), factor.mT.double(), epsilon)
    assert (single.mean - double.condition(index, values).mean).abs().max() < 5e-6


class TestSlerp:
    a, b = torch.randn(2, 7, generator=torch.Generator().manual_seed(0)).double()

    def test_endpoints_and_formula(self):
        a, b = self.a, self.b
        close(slerp(a, b, 0.0), a)
        close(slerp(a, b, 1.0), b)
        angle = torch.arccos(a @ b / a.norm() / b.norm())
        expected = (torch.sin(0.7 * angle) * a + torch.sin(0.3 * angle) * b) / torch.sin(angle)
        close(slerp(a, b, 0.3), expected)

    def test_unit_vectors_stay_on_the_sphere(self):
        t = torch.linspace(0, 1, 11, dtype=torch.float64)
        a, b = self.a / self.a.norm(), self.b / self.b.norm()
        path = slerp(a, b, t)
        close(path.norm(dim=-1), torch.ones(11).double())
        steps = (path[1:] - path[:-1]).norm(dim=-1)
        close(steps, steps[:1].expand(10))

    @pytest.mark.parametrize("scale", [1.0, 2.0, 1 + 1e-15, 0.0])
    def test_parallel_and_zero_vectors_are_blended_linearly(self, scale):
        close(slerp(self.a, scale * self.a, 0.25), (0.75 + 0.25 * scale) * self.a)
        close(slerp(scale * self.a, self.a, 0.25), (0.25 + 0.75 * scale) * self.a)

    def test_opposite_vectors_go_round(self):
        t = torch.linspace(0, 1, 5, dtype=torch.float64)
        path = slerp(self.a, -2 * self.a, t)
        close(path[0], self.a)
        close(path[-1], -2 * self.a)
        close(path.norm(dim=-1), (1 + t) * self.a.norm())
        assert slerp(torch.ones(1), -torch.ones(1), 0.5).item() == 0

    def test_batches_and_grids(self):
        a, b = torch.randn(2, 4, 1, 7).double()
        t = torch.linspace(0, 1, 5, dtype=torch.float64)
        grid = slerp(a, b, t)
        assert grid.shape == (4, 5, 7)
        close(grid[2, 3], slerp(a[2, 0], b[2, 0], 0.75))


ZEROS = torch.zeros(3, 6)
LOW = LowRankNormal(ZEROS, torch.ones(3, 6, 2), 1.0)


@pytest.mark.parametrize("name, build", [
    ("loc", lambda: LowRankNormal(torch.tensor(0.0), torch.ones(6, 2), 1.0)),
    ("loc", lambda: LowRankNormal(torch.zeros(6).long(), torch.ones(6, 2), 1.0)),
    ("loc", lambda: LowRankNormal(ZEROS / 0, torch.ones(6, 2), 1.0)),
    ("cov_factor", lambda: LowRankNormal(ZEROS, torch.ones(2, 6), 1.0)),
    ("cov_factor", lambda: LowRankNormal(ZEROS, torch.ones(6), 1.0)),
    ("cov_factor", lambda: LowRankNormal(ZEROS, torch.ones(6, 2) * 1j, 1.0)),
    ("cov_factor", lambda: LowRankNormal(ZEROS, torch.full((6, 2), math.inf), 1.0)),
    ("cov_diag", lambda: LowRankNormal(ZEROS, torch.ones(6, 2), torch.ones(5))),
    ("cov_diag", lambda: LowRankNormal(ZEROS, torch.ones(6, 2), 0.0)),
    ("cov_diag", lambda: LowRankNormal(ZEROS, torch.ones(6, 2), -torch.ones(6))),
    ("cov_diag", lambda: LowRankNormal(ZEROS, torch.ones(6, 2), math.nan)),
    ("batch shapes", lambda: LowRankNormal(ZEROS, torch.ones(4, 6, 2), 1.0)),
    ("value", lambda: LOW.log_prob(torch.zeros(3, 5))),
    ("value", lambda: LOW.log_prob(torch.full((3, 6), math.nan))),
    ("span_gain", lambda: LowRankNormal(ZEROS, torch.ones(6, 2), torch.ones(6))
     .log_prob_and_rank_entropy(ZEROS, 0.1)),
    ("span_gain", lambda: LOW.log_prob_and_rank_entropy(ZEROS, -0.1)),
    ("span_gain", lambda: LOW.log_prob_and_rank_entropy(ZEROS.clone().requires_grad_(), 0.1)),
    ("noise_factor", lambda: LOW.rsample_from(torch.zeros(3), torch.zeros(6))),
    ("noise_diag", lambda: LOW.rsample_from(torch.zeros(2), torch.zeros(5))),
    ("scales", lambda: LOW.scale_components(torch.ones(3))),
    ("index", lambda: LOW.condition(torch.tensor([6]), 0.0)),
    ("index", lambda: LOW.condition(torch.tensor([0.5]), 0.0)),
    ("index", lambda: LOW.condition(torch.ones(5, dtype=torch.bool), 0.0)),
    ("loc", lambda: LowRankNormal(torch.zeros(3, 0), torch.ones(0, 2), 1.0)),
    ("values", lambda: LOW.condition(torch.tensor([0, 1, 2]), torch.zeros(2))),
    ("values", lambda: LOW.condition(torch.arange(6) < 2, torch.zeros(6))),
    ("values", lambda: LOW.condition(torch.tensor([0]), math.nan)),
    ("noise_variance", lambda: LOW.condition(torch.tensor([0]), 0.0, -1.0)),
])  # fmt: skip
def test_errors_name_the_argument_and_what_to_do(name, build):
    with pytest.raises(ValueError, match=name) as error:
        build()
    assert ";" in str(error.value)  # what was expected; what to do


def test_validation_can_be_switched_off_and_large_finite_values_pass():
    LowRankNormal(ZEROS / 0, torch.ones(6, 2), 1.0, validate_args=False)
    LowRankNormal(ZEROS, torch.full((6, 2), 3e38), 1.0)  # its sum overflows


def test_double_backward_is_refused():
    loc = torch.zeros(6, requires_grad=True)
    log_prob = LowRankNormal(loc, torch.ones(6, 2), 1.0).log_prob(torch.ones(6))
    (gradient,) = torch.autograd.grad(log_prob, loc, create_graph=True)
    with pytest.raises(RuntimeError, match="only once"):
        torch.autograd.grad(gradient.sum(), loc)


def test_a_compiled_loss_has_no_graph_breaks():
    loc, factor, diag = make("batch")
    value = torch.randn(3, 6, dtype=torch.float64)

    def loss(loc, factor, value):
        p = LowRankNormal(2 * loc, factor, diag)
        return (p.log_prob(value) + p.entropy()).sum() + p.rsample_from(value[:, :2], value).sum()

    plain, compiled = (
        torch.autograd.grad(
            f(*(inputs := [x.clone().requires_grad_() for x in (loc, factor, value)])), inputs
        )
        for f in (loss, torch.compile(loss, backend="aot_eager", fullgraph=True))
    )
    for one, other in zip(plain, compiled, strict=True):
        close(one, other)


@pytest.mark.parametrize("name", ["batch", "shared factor", "rank > pixels", "odd ones"])
def test_transforms_of_torch_func_match_torchs_class(name):
    loc, factor, diag = make(name)
    if not torch.is_tensor(diag):
        diag = torch.full(loc.shape[-1:], diag, dtype=torch.float64)
    value = torch.randn_like(loc)

    def results(kind):
        def log_prob(loc, factor, diag, value):
            return kind(loc, factor, diag, validate_args=False).log_prob(value)

        def total(*arguments):
            return log_prob(*arguments).sum()

        inputs = loc, factor, diag, value
        yield from torch.func.grad(total, argnums=(0, 1, 2, 3))(*inputs)
        yield from torch.func.jacrev(log_prob, argnums=(0, 1, 2, 3))(*inputs)
        yield torch.func.vmap(log_prob, (None, None, None, 0))(*inputs[:3], value[:, None])
        one, many = value[0], torch.stack([value, 2 * value])
        scores = torch.func.grad(lambda x: total(loc, factor, diag, x))
        yield torch.func.vmap(scores)(many)
        both = torch.func.grad(total, argnums=(0, 1, 3))
        yield from torch.func.vmap(both, (0, None, None, None))(loc, factor, diag, one)
        wide = factor.expand(len(loc), *factor.shape[-2:])
        yield from torch.func.vmap(both, (None, 0, None, None))(loc[0], wide, diag, one)

    pairs = zip(results(LowRankNormal), results(LowRankMultivariateNormal), strict=True)
    for found, expected in pairs:
        close(found, expected)


def test_vmap_looks_at_no_values():
    p = LowRankNormal(ZEROS[0], torch.ones(6, 2), 1.0, validate_args=True)
    values = torch.randn(4, 6)
    close(torch.func.vmap(p.log_prob)(values), p.log_prob(values))
    build = torch.func.vmap(lambda x: LowRankNormal(x, x[:, None], 1.0, True).entropy())
    close(build(values), LowRankNormal(values, values[..., None], 1.0).entropy())


def test_no_half_precision_under_autocast():
    p = LowRankNormal(torch.rand(2, 40), torch.randn(2, 40, 5), 1e-5)
    noise = torch.randn(3, 2, 5), torch.randn(3, 2, 40)

    def everything():
        q = p.condition([1, 2, 3], 0.5)
        yield from (p.rsample_from(*noise), p.covariance_row(3), p.log_prob(noise[1]), p.entropy())
        yield from (q.mean, q.cov_factor, q.sample((2,)) * 0, kl_divergence(p, p[:1]))
        yield from (p.scale_components([2, 1, 1, 1, 0]).cov_factor, p.variance)
        yield from p.principal_components()

    plain = list(everything())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = list(everything())
    assert all(map(torch.equal, plain, mixed))


BATCH = 2, 3, 2
axis_index = st.one_of(
    st.integers(-4, 4), st.slices(3), st.just(None), st.just(Ellipsis), st.booleans(),
    st.lists(st.integers(-2, 1), min_size=1, max_size=3),
    st.lists(st.integers(0, 1), min_size=2, max_size=2).map(torch.tensor),
    st.lists(st.booleans(), min_size=2, max_size=3).map(np.array),
)  # fmt: skip
MASKS = [torch.ones(BATCH) > 0, torch.arange(6).view(2, 3) % 2 > 0, torch.ones(2, 3, 2, 6) > 0]


@settings(max_examples=150, deadline=None)
@given(st.one_of(axis_index, st.lists(axis_index, max_size=5).map(tuple), st.sampled_from(MASKS)))
def test_an_index_means_the_batch_alone(index):
    loc = torch.arange(12.0).view(*BATCH, 1) + torch.arange(6) / 10
    p = LowRankNormal(loc, torch.ones(3, 2, 6, 1) * torch.arange(3.0).view(3, 1, 1, 1), 1.0)
    numbers = torch.arange(12).view(BATCH)
    try:
        expected = numbers[index]
    except (IndexError, TypeError, ValueError) as error:
        with pytest.raises(type(error)):
            p[index]
        return
    q = p[index]
    assert (q.batch_shape, q.event_shape, q.rank) == (expected.shape, (6,), 1)
    assert torch.equal(q.loc, loc.view(12, 6)[expected])
    assert torch.equal(q.cov_factor[..., 0, 0], p.cov_factor[..., 0, 0].reshape(12)[expected])


def test_a_batch_can_be_walked_through_and_a_single_one_cannot():
    p = LowRankNormal(*make("batch"))
    assert len(list(p)) == 3
    with pytest.raises(IndexError):
        p[0][0]


@pytest.mark.parametrize("kind, build", [
    (RuntimeError, lambda: LowRankNormal(ZEROS, torch.ones(6, 2)).expand((2,))),
    (IndexError, lambda: LOW.covariance_row(6)),
    (TypeError, lambda: LOW.covariance_row(1.5)),
    (TypeError, lambda: LowRankNormal([0.0], [[1.0]])),
    (TypeError, lambda: LowRankNormal(ZEROS, torch.ones(6, 2), None)),
    (TypeError, lambda: LOW.log_prob(None)),
    (TypeError, lambda: LOW.condition({1, 2}, 0.5)),
    (TypeError, lambda: LOW.condition([1, 2], "red")),
    (ValueError, lambda: LOW.condition([0], torch.zeros(5, 1))),
    (ValueError, lambda: kl_divergence(LOW, LowRankNormal(torch.zeros(5), torch.ones(5, 2)))),
])  # fmt: skip
def test_what_cannot_be_meant_is_an_error(kind, build):
    with pytest.raises(kind):
        build()


@pytest.mark.parametrize("shape", [5, (5,), [5], np.int64(5), np.array([5]), torch.tensor([5])])
def test_shapes_of_any_kind(shape):
    p = LowRankNormal(*make("batch"))
    assert p.sample(shape).shape == p.rsample(shape).shape == (5, 3, 6)
    assert p[0].expand(shape).batch_shape == (5,)


def test_repr_tells_the_sizes():
    p = LowRankNormal(*make("two batch axes"))
    assert repr(p) == "LowRankNormal(batch_shape=(2, 3), event_shape=(6,), rank=2)"


@pytest.mark.parametrize("dtypes, expected", [
    ((torch.float32, torch.float64), torch.float64),
    ((torch.float64, torch.float32), torch.float64),
    ((torch.bfloat16, torch.float32), torch.float32),
    ((torch.float32, torch.int64), torch.float32),
])  # fmt: skip
def test_parameters_of_different_types_promote(dtypes, expected):
    loc, factor, _ = make("batch")
    parts = (3 * loc).to(dtypes[0]), (3 * factor).to(dtypes[1])
    p = LowRankNormal(*parts, torch.tensor([0.5]).double())
    like = LowRankNormal(*(x.double() for x in parts), 0.5)
    close(p.log_prob(loc), like.log_prob(loc))
    assert {p.loc.dtype, p.cov_factor.dtype, p.sample().dtype, p.variance.dtype} == {expected}


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_results_have_the_parameters_dtype_whatever_torchs_default(dtype, default):
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        p = LowRankNormal(*(x.to(dtype) for x in make("batch")))
        parts = p.principal_components()
        found = [parts.directions, parts.scales, p.scale_components([1, 0]).cov_factor, p.sample()]
        found += [p.condition([1], 0.5).mean, p.covariance_row(2), p.variance]
    finally:
        torch.set_default_dtype(before)
    assert {x.dtype for x in found} == {dtype}


def test_bytes_of_images_are_not_taken_for_values():
    image = torch.full((6,), 200, dtype=torch.uint8)
    p = LowRankNormal(torch.full((6,), 0.5), torch.ones(6, 2), 1.0, validate_args=True)
    with pytest.raises(ValueError, match="divide images by 255"):
        p.log_prob(image)
    close(p.log_prob(image // 255), p.log_prob(torch.zeros(6)))


@pytest.mark.parametrize("epsilon", [1e-5, 1e-10, 1e-12, 1e-14, 1e-16])
@pytest.mark.parametrize("given", [1, 2, 4])
def test_conditioning_keeps_its_digits_where_epsilon_is_tiny(epsilon, given):
    generator = torch.Generator().manual_seed(given)
    loc, factor = (torch.randn(n, generator=generator).double() for n in (12, (12, 4)))
    p, index = LowRankNormal(loc, factor, epsilon), torch.arange(given) * 3
    values = torch.ones(given).double()
    q = p.condition(index, values)
    mean, sigma = conditioned(p, index, values, 0.0)
    free = torch.ones(12, dtype=torch.bool).index_fill(0, index, False)
    close(q.mean, mean, 1e-7)
    if given < 4:  # else nothing but epsilon is left, for which the dense formula has no digits
        close(q.variance[free] / sigma.diagonal()[free], torch.ones(12 - given).double(), 1e-7)


@pytest.mark.parametrize("rank", [4, 5, 9, 40])
@pytest.mark.parametrize("epsilon", [1e-5, 1e-10, 1e-14, 1e-16])
def test_densities_keep_their_digits_where_ranks_pass_the_pixels(rank, epsilon):
    generator = torch.Generator().manual_seed(rank)
    loc, factor, value = (torch.randn(n, generator=generator).double() for n in (4, (4, rank), 4))
    p = LowRankNormal(loc, factor, epsilon)
    close(p.log_prob(value), dense(p).log_prob(value), 1e-8)
    close(p.entropy(), dense(p).entropy(), 1e-8)
    inputs = loc.requires_grad_(), factor.requires_grad_()
    ours, theirs = (
        torch.autograd.grad(kind.log_prob(value), inputs)
        for kind in (LowRankNormal(*inputs, epsilon), dense(LowRankNormal(*inputs, epsilon)))
    )
    for one, other in zip(ours, theirs, strict=True):
        close(one, other, 1e-6)


@pytest.mark.parametrize("ranks", [(4, 4), (9, 4), (4, 9), (2, 6)])
def test_kl_keeps_its_digits_where_ranks_reach_the_pixels(ranks):
    generator = torch.Generator().manual_seed(3)
    p, q = (
        LowRankNormal(*(torch.randn(n, generator=generator).double() for n in (4, (4, r))), 1e-14)
        for r in ranks
    )
    close(kl_divergence(p, q) / kl_divergence(dense(p), dense(q)), torch.ones(()).double(), 1e-6)


@pytest.mark.parametrize("name", ["batch", "one image", "shared factor", "rank > pixels"])
def test_kl_with_torchs_normals(name):
    p = LowRankNormal(*make(name, seed=1))
    q = LowRankNormal(*make(name, seed=2))
    plain = Independent(Normal(q.loc, q.stddev), 1)
    theirs = LowRankMultivariateNormal(q.loc, q.cov_factor, q.cov_diag), dense(q), plain
    for other in theirs:
        whole = (
            MultivariateNormal(other.mean, other.covariance_matrix)
            if other is not plain
            else (MultivariateNormal(q.loc, torch.diag_embed(q.variance)))
        )
        close(kl_divergence(p, other), kl_divergence(dense(p), whole), 1e-9)
        close(kl_divergence(other, p), kl_divergence(whole, dense(p)), 1e-9)
    with pytest.raises(NotImplementedError):
        kl_divergence(p, Independent(Laplace(q.loc, q.stddev), 1))
