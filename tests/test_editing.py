"""Strokes and what follows from them, against dense matrices in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sos.analysis import editing
from sos.distributions.low_rank_normal import LowRankNormal

# name: (channels, height, width), rank, diagonal per value
CASES = {
    "gray": ((1, 5, 4), 3, False),
    "colour": ((3, 4, 3), 5, False),
    "learnt diagonal": ((3, 3, 4), 2, True),
    "rank 0": ((1, 3, 3), 0, True),
    "rank > values": ((1, 2, 2), 7, False),
}


def build(name: str, seed: int = 0) -> tuple[LowRankNormal, tuple[int, int, int]]:
    shape, rank, learnt = CASES[name]
    generator = torch.Generator().manual_seed(seed)
    options = {"generator": generator, "dtype": torch.float64}
    size = math.prod(shape)
    diag = torch.rand(size, **options) * 0.1 + 0.01 if learnt else 0.02
    factor = 0.3 * torch.randn(size, rank, **options)
    return LowRankNormal(torch.rand(size, **options), factor, diag), shape


def covariance(p: LowRankNormal) -> torch.Tensor:
    return p.cov_factor @ p.cov_factor.mT + torch.diag_embed(p.cov_diag)


def dense(p: LowRankNormal, held: dict[int, editing.Stroke], shape):
    """Equations 6 and 7 as they stand, with the noise of soft edits on the diagonal of Σ₂₂."""
    pixels = shape[1] * shape[2]
    index = [c * pixels + k for k in held for c in range(shape[0])]
    values = torch.tensor([v for s in held.values() for v in s.colour], dtype=torch.float64)
    noise = torch.tensor([s.std**2 for s in held.values() for _ in s.colour], dtype=torch.float64)
    sigma = covariance(p)
    known = sigma[index][:, index] + torch.diag(noise)
    gain = torch.linalg.solve(known, sigma[index]).mT
    return p.loc + gain @ (values - p.loc[index]), sigma - gain @ sigma[index]


def held_by(strokes) -> dict[int, editing.Stroke]:
    return {pixel: one for one in strokes for pixel in one.pixels}


@st.composite
def paintings(draw, name=None):
    """A case and up to four strokes on it, which may overlap."""
    name = name or draw(st.sampled_from(list(CASES)))
    shape = CASES[name][0]
    pixel = st.integers(0, shape[1] * shape[2] - 1)
    strokes = [
        editing.stroke(
            draw(st.lists(pixel, min_size=0, max_size=6)),
            [draw(st.floats(0, 1)) for _ in range(shape[0])],
            shape,
            draw(st.sampled_from([0.0, 0.0, 0.05, 0.5])),
        )
        for _ in range(draw(st.integers(1, 4)))
    ]
    return name, strokes


@settings(max_examples=60, deadline=None)
@given(paintings(), st.integers(0, 5))
def test_conditioning_on_strokes_matches_dense(painting, seed):
    name, strokes = painting
    p, shape = build(name, seed)
    q = editing.condition(p, strokes, shape)
    held = held_by(strokes)
    mean, sigma = dense(p, held, shape) if held else (p.loc, covariance(p))
    torch.testing.assert_close(q.mean, mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(covariance(q), sigma, rtol=1e-8, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["gray", "colour", "learnt diagonal"]), st.data())
def test_two_steps_equal_one(name, data):
    p, shape = build(name)
    everything = list(range(shape[1] * shape[2]))
    order = data.draw(st.permutations(everything))
    cut = data.draw(st.integers(1, 3))
    noise = data.draw(st.sampled_from([0.0, 0.1]))
    first = editing.stroke(order[:cut], 0.3, shape, noise)
    second = editing.stroke(order[cut : cut + 3], 0.8, shape, noise)
    once = editing.condition(p, [first, second], shape)
    twice = editing.condition(editing.condition(p, [first], shape), [second], shape)
    torch.testing.assert_close(twice.mean, once.mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(covariance(twice), covariance(once), rtol=1e-8, atol=1e-9)


def test_of_contradicting_strokes_the_last_wins():
    p, shape = build("colour")
    old, new = (editing.stroke([3, 4], value, shape) for value in (0.1, 0.9))
    q = editing.condition(p, [old, new], shape)
    torch.testing.assert_close(q.mean, editing.condition(p, [new], shape).mean, rtol=0, atol=0)
    soft = editing.stroke([4], 0.5, shape, 0.2)  # also where a soft one covers an exact one
    expected, _ = dense(p, held_by([new, soft]), shape)
    torch.testing.assert_close(editing.condition(p, [new, soft], shape).mean, expected)


def test_painting_everything_leaves_nothing_to_vary():
    p, shape = build("colour")
    q = editing.condition(p, [editing.stroke(torch.ones(shape[1:]).bool(), 0.25, shape)], shape)
    assert (q.mean == 0.25).all() and (q.variance == 0).all()
    assert (editing.removed_variance(q, shape) == 0).all()


def test_painting_nothing_changes_nothing():
    p, shape = build("gray")
    empty = [editing.stroke(np.zeros(shape[1:], bool), 0.5, shape), editing.stroke([], 0.5, shape)]
    assert editing.condition(p, empty, shape) is p
    y = p.sample()
    assert editing.condition_sample(p, y, empty, shape, torch.zeros_like(y)) is y


def test_without_a_factor_only_painted_pixels_change():
    p, shape = build("rank 0")
    q = editing.condition(p, [editing.stroke([2, 5], 1.0, shape)], shape)
    changed = (q.mean != p.mean).nonzero().flatten().tolist()
    assert changed == [2, 5]


@settings(max_examples=30, deadline=None)
@given(paintings(), st.integers(0, 5))
def test_conditioned_samples_have_the_conditional_moments(painting, seed):
    """The sample is linear in its noises, so that mean and covariance follow without sampling."""
    name, strokes = painting
    p, shape = build(name, seed)
    size, rank = p.event_shape[0], p.rank

    def sample(noise):  # (R + 2 S,)
        y = p.rsample_from(noise[:rank], noise[rank : rank + size])
        return editing.condition_sample(p, y, strokes, shape, noise[rank + size :])

    zero = torch.zeros(rank + 2 * size, dtype=torch.float64)
    mean = sample(zero)
    columns = torch.stack([sample(unit) - mean for unit in torch.eye(len(zero)).double()], 1)
    q = editing.condition(p, strokes, shape)
    torch.testing.assert_close(mean, q.mean, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(columns @ columns.mT, covariance(q), rtol=1e-7, atol=1e-8)


def test_drawn_samples_have_the_conditional_moments():
    p, shape = build("colour")
    q = editing.condition(p, [editing.stroke([1, 6], 0.7, shape, 0.1)], shape)
    y = q.sample((40_000,), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(y.mean(0), q.mean, rtol=0, atol=0.02)
    torch.testing.assert_close(y.T.cov(), covariance(q), rtol=0, atol=0.03)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("noise", [0.0, 0.04])
def test_removed_variance_matches_dense(name, noise):
    p, shape = build(name)
    found = editing.removed_variance(p, shape, noise)
    total = covariance(p).trace()
    for pixel in range(shape[1] * shape[2]):
        one = editing.stroke([pixel], 0.5, shape, noise**0.5)
        left = dense(p, {pixel: one}, shape)[1].trace()
        assert found.flatten()[pixel] == pytest.approx((total - left).item(), rel=1e-8, abs=1e-10)


def test_greedy_pixels_are_the_best_one_by_one():
    p, shape = build("colour", seed=3)
    pixels, left = editing.greedy_pixels(p, shape, 4)
    sigma = covariance(p)
    held: dict = {}
    for step, chosen in enumerate(pixels):
        assert left[step] == pytest.approx(sigma.diagonal().mean().item(), rel=1e-9)
        traces = {}
        for pixel in range(shape[1] * shape[2]):
            trial = held | {pixel: editing.stroke([pixel], 0.5, shape)}
            traces[pixel] = dense(p, trial, shape)[1].trace().item()
        assert traces[chosen] == pytest.approx(min(traces.values()), rel=1e-9)
        held[chosen] = editing.stroke([chosen], 0.5, shape)
        sigma = dense(p, held, shape)[1]
    assert len(set(pixels)) == 4


# ---- the brush


def near_the_path(x: float, y: float, points, radius: float) -> bool:
    """Whether (x, y) lies within `radius` of the path, by walking along it in small steps."""
    for (x0, y0), (x1, y1) in zip(points, points[1:] or points, strict=False):
        for k in range(2001):
            t = k / 2000
            if math.hypot(x - x0 - t * (x1 - x0), y - y0 - t * (y1 - y0)) <= radius:
                return True
    return False


@pytest.mark.parametrize("size", [1, 2.5, 6])
@pytest.mark.parametrize(
    "points", [[(3.2, 4.7)], [(1.1, 1.3), (7.9, 5.2)], [(2, 8), (2.3, -4), (30, 3)]]
)
def test_brush_paints_what_is_near_its_path(points, size):
    shape = (1, 9, 10)
    painted = set(editing.brush(points, size, shape))
    for row in range(9):
        for column in range(10):
            near = near_the_path(column + 0.5, row + 0.5, points, size / 2)
            under = any(math.floor(x) == column and math.floor(y) == row for x, y in points)
            assert ((row * 10 + column) in painted) == (near or under)


def test_a_click_paints_at_least_its_own_pixel():
    assert editing.brush([(4.01, 2.99)], 1, (1, 5, 8)) == [2 * 8 + 4]


def test_strokes_off_the_canvas_paint_nothing():
    assert editing.brush([(-20, 3), (-9, 50)], 10, (3, 8, 8)) == []


# ---- bad input

SHAPE = (3, 4, 5)


@pytest.mark.parametrize(
    ("word", "pixels", "colour", "std"),
    [
        ("0..19", [20], 0.5, 0),
        ("0..19", [-1], 0.5, 0),
        ("whole numbers", [1.5], 0.5, 0),
        ("whole numbers", torch.ones(2, 2, dtype=torch.long), 0.5, 0),
        ("mask", torch.ones(5, 4).bool(), 0.5, 0),
        (r"\[0, 1\]", [1], [0.2, 1.4, 0.2], 0),
        (r"\[0, 1\]", [1], [0.2, math.nan, 0.2], 0),
        ("one number or 3", [1], [0.2, 0.4], 0),
        ("std", [1], 0.5, -0.1),
        ("std", [1], 0.5, math.inf),
    ],
)
def test_bad_strokes_are_refused_with_a_reason(word, pixels, colour, std):
    with pytest.raises(ValueError, match=word):
        editing.stroke(pixels, colour, SHAPE, std)


@pytest.mark.parametrize("points", [[(math.nan, 1)], [1, 2], [(1, 2, 3)], []])
def test_bad_paths_are_refused(points):
    with pytest.raises(ValueError, match="points"):
        editing.brush(points, 2, SHAPE)


@pytest.mark.parametrize("size", [0, -1, math.nan])
def test_bad_brushes_are_refused(size):
    with pytest.raises(ValueError, match="size"):
        editing.brush([(1, 1)], size, SHAPE)


def test_distributions_of_another_shape_are_refused():
    p, shape = build("gray")
    batch = LowRankNormal(torch.zeros(2, 20), torch.zeros(2, 20, 3))
    for wrong, size in ((p, (1, 5, 5)), (batch, shape)):
        with pytest.raises(ValueError, match="channels x height x width"):
            editing.condition(wrong, [editing.stroke([0], 0.5, size)], size)
    assert editing.condition(batch[1], [editing.stroke([0], 0.5, shape)], shape).mean[0] == 0.5


# ---- stories


def test_story_alternates_paint_and_what_follows():
    p, shape = build("colour")
    strokes = [editing.stroke([1], 0.9, shape), editing.stroke([7, 8], 0.1, shape, 0.05)]
    images = editing.story(p, strokes, shape).flatten(1)
    after = [editing.condition(p, strokes[:k], shape).mean for k in (1, 2)]
    assert torch.equal(images[1], after[0]) and torch.equal(images[3], after[1])
    different = (images[0] != p.mean).nonzero().flatten().tolist()
    assert different == [1, 13, 25] and (images[0, different] == 0.9).all()
    assert (images[2] != after[0]).nonzero().flatten().tolist() == [7, 8, 19, 20, 31, 32]


def test_sketches_scale_with_the_canvas():
    points, size = [(0.3, 0.2), (0.7, 0.2)], 0.1
    for height, width in ((40, 30), (80, 60), (200, 150)):
        one = editing.sketch(points, size, 0.5, (1, height, width))
        rows, columns = np.divmod(one.pixels, width)
        assert rows.mean() / height == pytest.approx(0.2, abs=0.02)
        assert len(one.pixels) / (height * width) == pytest.approx(0.05, rel=0.3)
        assert columns.min() / width == pytest.approx(0.27, abs=0.04)


def test_noise_length_is_that_of_the_regression():
    p, shape = build("colour")
    one = [editing.stroke([2, 5], 0.9, shape, 0.1)]
    index, values, variance = editing.edits(one, shape)
    rows = p.cov_factor[index]
    weight = 1 / (p.cov_diag[index] + variance)
    gram = torch.eye(p.rank).double() + rows.T * weight @ rows
    omega = torch.linalg.solve(gram, rows.T @ (weight * (values - p.loc[index])))
    assert editing.noise_length(p, one, shape) == pytest.approx(omega.norm().item(), rel=1e-6)


@pytest.mark.parametrize("exact", [False, True])
def test_every_other_pixel_is_a_marginal(exact):
    p, shape = build("colour")
    if exact:
        p = p.condition(torch.tensor([0, 7]), 0.5)
    q = editing.decimate(p, shape, 2)
    kept = torch.arange(36).view(shape)[:, ::2, ::2].flatten()
    torch.testing.assert_close(q.mean, p.mean[kept])
    torch.testing.assert_close(q.variance, p.variance[kept])
    torch.testing.assert_close(q.covariance_row(1), p.covariance_row(int(kept[1]))[kept])


def test_a_colour_on_gray_pictures_is_its_gray():
    (gray,) = editing.stroke([3], [0.6, 0.4, 0.2], (1, 4, 4)).colour
    assert gray == pytest.approx(0.299 * 0.6 + 0.587 * 0.4 + 0.114 * 0.2)
