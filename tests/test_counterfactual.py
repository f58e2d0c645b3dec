"""Edits of one factor against the picture that is true, and lesions, on small simulated images."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from sos.analysis import anomalies, counterfactual, editing_study
from sos.analysis.counterfactual import Pair
from sos.config import Data
from sos.distributions import LowRankNormal

FACES = Data("faces", 32, 32, 3, train=20, validation=10, test=24)
BRAINS = Data("brains", 40, 32, 1, train=20, validation=10, test=24)


def pair(before, after, threshold=counterfactual.CHANGED):
    changed = (after - before).abs().amax(0) > threshold
    order = torch.arange(changed.numel())
    there = changed.flatten()
    return Pair(before, after, changed, order[there], order[~there])


@pytest.mark.parametrize("data", [FACES, BRAINS], ids=["faces", "brains"])
def test_a_pair_is_one_subject_before_and_after(data):
    for factor in counterfactual.FACTORS[data.name]:
        found = counterfactual.pairs(data, factor, 8)
        assert 0 < len(found) <= 8, factor
        for one in found:
            assert one.before.shape == one.after.shape == (data.channels, data.height, data.width)
            assert len(one.order) == one.changed.sum() >= counterfactual.FEWEST
            change = (one.after - one.before).abs().amax(0).flatten()
            assert (change[one.order] > counterfactual.CHANGED).all()
            assert (change[one.others] <= counterfactual.CHANGED).all()
            assert sorted([*one.order.tolist(), *one.others.tolist()]) == list(range(len(change)))
    again = counterfactual.pairs(data, factor, 8)
    assert all(torch.equal(a.order, b.order) for a, b in zip(found, again, strict=True))


def test_images_that_are_read_have_no_counterfactual():
    folder = Data("folder", 32, 32, 1, train=1, validation=1, test=1, folder="none")
    with pytest.raises(ValueError, match=r"simulated images \(faces, brains\), not in 'folder'"):
        counterfactual.pairs(folder, "smile", 3)
    with pytest.raises(ValueError, match="factor is 'smile'; of brains there are ventricles"):
        counterfactual.pairs(BRAINS, "smile", 3)


def test_an_edit_is_matherons_rule_with_dense_matrices():
    stream = torch.Generator().manual_seed(0)
    loc, factor, x = (torch.randn(n, generator=stream).double() for n in (12, (12, 3), 12))
    p = LowRankNormal(loc, factor, 0.2)
    revealed, values = torch.arange(12) % 4 == 1, torch.randn(3, generator=stream).double()
    sigma = factor @ factor.T + 0.2 * torch.eye(12).double()
    gain = torch.linalg.solve(sigma[revealed][:, revealed], sigma[revealed]).T
    expected = x + gain @ (values - x[revealed])
    found = counterfactual.moved(p, x, revealed, values)
    torch.testing.assert_close(found, expected)
    assert torch.equal(found[revealed], values)


def test_doing_nothing_has_the_error_one_and_the_truth_zero():
    stream = torch.Generator().manual_seed(0)
    before = torch.rand(3, 4, 5, generator=stream)
    after = before.clone()
    after[:, :2] += 0.2
    one = pair(before, after)
    nothing = counterfactual.errors(one, before.flatten())
    assert nothing == {"error": 1.0, "inside": 1.0, "outside": 0.0}
    assert set(counterfactual.errors(one, after.flatten()).values()) == {0.0}
    leaked = before + 0.2  # right inside, wrong in as large a region outside
    expected = {"error": 1.0, "inside": 0.0, "outside": 1.0}
    assert counterfactual.errors(one, leaked.flatten()) == pytest.approx(expected, abs=1e-3)
    revealed = one.revealed(3)
    assert revealed.view(3, -1).sum(1).tolist() == [3, 3, 3]
    assert one.revealed(3, pinned=True).view(3, -1).sum(1).tolist() == [6, 6, 6]
    assert one.revealed(100, pinned=True).view(3, -1).sum(1).tolist() == [20, 20, 20]
    few = Pair(before, after, one.changed, one.order[:2], one.others)
    assert few.revealed(5, pinned=True).view(3, -1).sum(1).tolist() == [4, 4, 4]  # as many pins
    faint = pair(before, after + 0.01)  # which is no change, and nothing that an edit asks for
    assert torch.equal(faint.wanted.view_as(before)[:, 2:], before[:, 2:])
    torch.testing.assert_close(faint.wanted.view_as(before)[:, :2], after[:, :2] + 0.01)
    copied = counterfactual.copy_colour(0, one, revealed)
    torch.testing.assert_close(copied, after.flatten())
    painted = counterfactual.paint_only(0, one, revealed)
    assert counterfactual.errors(one, painted)["error"] == pytest.approx(
        math.sqrt(7 / 10), abs=1e-3
    )


def test_an_edit_of_a_factor_that_the_covariance_knows_is_right():
    """Images that differ along one direction: one pixel tells everything, with pins or without."""
    stream = torch.Generator().manual_seed(0)
    direction = torch.zeros(1, 6, 6)
    direction[:, :3] = 0.3
    subjects = []
    for _ in range(4):
        before = torch.rand(1, 6, 6, generator=stream)
        subjects.append(pair(before, before + direction))
    p = LowRankNormal(torch.zeros(36), direction.view(36, 1), 1e-9)
    edit = counterfactual.by_distributions([p] * 4)
    for pinned in (False, True):
        found = counterfactual.measure(edit, subjects, (1, 3), pinned)
        assert list(found) == ["1", "3"]
        assert max(found["1"]["error"] + found["3"]["error"]) < 1e-3


def test_codes_that_are_optimised_reach_the_change_of_a_linear_decoder():
    stream = torch.Generator().manual_seed(0)
    weight = torch.randn(36, 2, generator=stream)

    class Linear:
        def decode(self, z, mean_only=False):
            loc = z @ weight.T
            return LowRankNormal(loc, loc.new_zeros(*loc.shape, 0), 1e-4)

    z, moved = torch.randn(2, 3, 2, generator=stream)
    images = torch.rand(3, 1, 6, 6, generator=stream)
    change = ((moved - z) @ weight.T).view(3, 1, 6, 6)
    subjects = [pair(a, a + b) for a, b in zip(images, change, strict=True)]
    revealed = torch.stack([one.revealed(12) for one in subjects])
    found = counterfactual.optimise(Linear(), z, subjects, revealed)
    for n, mask in enumerate(revealed):  # ridge regression of the revealed change
        known = weight[mask]
        right = known.T @ change[n].flatten()[mask] / 1e-4
        step = torch.linalg.solve(known.T @ known / 1e-4 + torch.eye(2), right)
        torch.testing.assert_close(found[n], z[n] + step, rtol=1e-3, atol=1e-3)


# -------------------------------------------------------------------------------------- anomalies


def test_leave_one_out_finds_what_breaks_a_pattern_and_residuals_do_not():
    """All pixels go up and down together; one that does not is no outlier by itself."""
    p = LowRankNormal(torch.zeros(16), torch.ones(16, 1), 0.01)
    y = torch.full((1, 16), 1.5)
    y[0, 5] = 0.2
    maps = anomalies.score_maps(p, y)
    assert maps["leave-one-out"][0].argmax() == 5
    assert maps["residual"][0].argmin() == 5
    truth, brain = torch.arange(16).view(1, 4, 4) == 5, torch.ones(1, 4, 4, dtype=torch.bool)
    found = {k: anomalies.precisions(v.view(1, 4, 4), truth, brain) for k, v in maps.items()}
    assert found == {"residual": [0.0625], "leave-one-out": [1.0]}
    none = torch.zeros_like(truth)
    assert anomalies.precisions(maps["residual"].view(1, 4, 4), none, brain) == [None]


def test_scores_are_standard_normal_where_the_model_is_right():
    stream = torch.Generator().manual_seed(0)
    p = LowRankNormal(torch.zeros(16), torch.randn(16, 2, generator=stream), 0.1)
    maps = anomalies.score_maps(p, p.sample((4000,), generator=stream))
    for scores in maps.values():
        share = (scores > norm.ppf(0.975)).double().mean().item()
        assert share == pytest.approx(0.05, abs=0.005)


def test_slices_have_their_lesions_inside_the_brain():
    for lesion in anomalies.LESIONS.values():
        x, truth, brain = anomalies.slices(BRAINS, lesion, 4)
        assert x.shape == (4, 1, 40, 32) and truth.shape == brain.shape == (4, 40, 32)
        assert not (truth & ~brain).any() and truth.any()
    found = anomalies.chance(BRAINS, 6)
    assert 0 < found["6 mm, dark"] < found["9 mm, dark"] < found["13 mm, dark"] < 0.1
    assert found["9 mm, dark"] == found["9 mm, faint"]


def test_chance_is_what_random_maps_have(monkeypatch):
    monkeypatch.setattr(anomalies, "LESIONS", {"one": anomalies.LESIONS["13 mm, dark"]})
    _, truth, brain = anomalies.slices(BRAINS, anomalies.LESIONS["one"], 4)
    stream = torch.Generator().manual_seed(0)
    maps = [torch.rand(truth.shape, generator=stream) for _ in range(150)]
    drawn = np.array([anomalies.precisions(one, truth, brain) for one in maps], dtype=float)
    assert anomalies.chance(BRAINS, 4)["one"] == pytest.approx(np.nanmean(drawn), rel=0.06)


# ------------------------------------------------------------------------------------- the study


def test_the_order_of_pixels_counts_hidden_ones_alone(monkeypatch):
    monkeypatch.setattr(editing_study, "CHOSEN", 3)
    stream = torch.Generator().manual_seed(0)
    factor = torch.randn(16, 2, generator=stream)

    class Constant:
        def encode(self, x):
            return x[:, :, 0, 0], None

        def decode(self, z):
            return LowRankNormal(torch.zeros(len(z), 16), factor.expand(len(z), 16, 2), 0.01)

    x = (torch.randn(2, 2, generator=stream) @ factor.T).view(2, 1, 4, 4)
    found = editing_study.pixel_order(Constant(), x)
    assert [np.shape(rows) for rows in found.values()] == [(2, 4), (2, 4)]
    first = [row[0] for row in found["random"]]  # nothing known: the same pixels are hidden
    assert [row[0] for row in found["most telling first"]] == first
    assert np.mean([r[2] for r in found["most telling first"]]) < 0.1 * np.mean(first)


class Flat:
    """A decoder that says the same of every image."""

    def encode(self, x):
        return x.flatten(1)[:, :2], None

    def decode(self, z):
        return LowRankNormal(torch.zeros(len(z), 40 * 32), torch.ones(len(z), 40 * 32, 1), 0.1)


def test_examples_are_to_paint_on_and_have_a_truth_where_there_is_one(monkeypatch):
    found = counterfactual.examples(Flat(), BRAINS, 3)
    assert [one.name for one in found] == [
        "ventricles changed", "sulci changed", "contrast changed",
    ]  # fmt: skip
    for one in found:
        assert one.p.batch_shape == () and one.before.shape == one.truth.shape == (1, 40, 32)
        assert not torch.equal(one.before, one.truth)
    folder = Data("folder", 40, 32, 1, train=1, validation=1, test=5, folder="none")
    split = counterfactual.datasets.Split(np.full((5, 1, 40, 32), 51, np.uint8))
    monkeypatch.setattr(counterfactual.datasets, "load_split", lambda *_: split)
    found = counterfactual.examples(Flat(), folder, 2)
    assert [(one.name, one.truth) for one in found] == [("image 1", None), ("image 2", None)]
    assert float(found[0].before.max()) == pytest.approx(0.2)
