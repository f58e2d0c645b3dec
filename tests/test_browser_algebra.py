"""The browser's algebra equals the Python one, run under the Node that Playwright brings."""

import base64
import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import playwright
import pytest
import torch

from sos.analysis import editing
from sos.analysis.interpolation import bilinear_at, slerp
from sos.distributions.low_rank_normal import LowRankNormal
from sos.widgets.surface import MODULE, Editor, arrays, gaussians

NODE = Path(playwright.__file__).parent / "driver" / "node"
PROGRAM = """
import { readFileSync } from "node:fs";
import * as o from "./observation.mjs";
const view = (text) => {
  const b = Buffer.from(text, "base64");
  return new DataView(b.buffer, b.byteOffset, b.length);
};
const shown = ["conditionalMean", "conditionalSample", "conditionalVariance", "noiseLength"];
const results = JSON.parse(readFileSync(0, "utf8")).map((c) => {
  if (c.noise) return Array.from(o.gaussians(...c.noise));
  if (c.brush) return o.brush(...c.brush);
  if (c.slerp) return o.slerp(...c.slerp);
  if (c.rmse) return o.rmse(...c.rmse);
  if (c.outline) return o.outline(o.latest(c.outline), c.height, c.width);
  const arrays = ["mean", "factor", "diag"].map((k) => o.numbers(view(c[k]), c.dtype));
  const [mean, factor, diag] = arrays;
  if (c.widen) return Array.from(factor);
  const p = new o.Observation({ shape: c.shape, mean, factor, diag });
  p.setNoise(c.omega, c.seed);
  p.scales = Float64Array.from(c.scales);
  if (c.oneByOne) c.strokes.forEach((s) => o.latest([s]).forEach((e, pixel) => p.edit(pixel, e)));
  else p.setEdits(o.latest(c.strokes));
  const results = shown.map((name) => [name, p[name]()]);
  const originals = ["mean", "sample"].map((view) => [`original ${view}`, p.original(view)]);
  return Object.fromEntries([...results, ...originals].map(
    ([name, x]) => [name, typeof x === "number" ? x : Array.from(x)]));
});
process.stdout.write(JSON.stringify(results));
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Runs cases through the module and returns their results."""
    folder = tmp_path_factory.mktemp("node")
    shutil.copyfile(MODULE, folder / "observation.mjs")
    (folder / "cases.mjs").write_text(PROGRAM)

    def run(cases):
        done = subprocess.run(
            [NODE, "cases.mjs"], input=json.dumps(cases), cwd=folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def random_case(seed: int):
    """An editor in a random state: shape, rank, diagonal, scales, noise and overlapping strokes."""
    rng = np.random.default_rng(seed)
    shape = (int(rng.choice([1, 3])), int(rng.integers(3, 12)), int(rng.integers(3, 12)))
    rank, size = int(rng.choice([0, 1, 5, 25])), math.prod(shape)
    factor = torch.from_numpy(rng.normal(size=(size, rank))).float() * 0.1
    diag = float(10.0 ** rng.integers(-5, -1))
    if rng.random() < 0.4:
        diag = torch.from_numpy(rng.uniform(1e-3, 0.1, size)).float()
    p = LowRankNormal(torch.from_numpy(rng.uniform(size=size)).float(), factor, diag)
    editor = Editor(p, shape, seed=int(rng.integers(2**31)))
    editor.scales = rng.uniform(-5, 5, rank).round(1).tolist()
    for _ in range(rng.integers(0, 4)):
        pixels = rng.integers(0, shape[1] * shape[2], rng.integers(1, 20)).tolist()
        std = float(rng.choice([0, 0.03, 0.3]))
        editor.paint(pixels, rng.uniform(size=shape[0]).tolist(), std)
    return editor


def state(editor: Editor, **more) -> dict:
    names = ("shape", "dtype", "omega", "seed", "scales", "strokes")
    values = {name: getattr(editor, name) for name in names}
    bytes_ = {k: base64.b64encode(getattr(editor, k)).decode() for k in ("mean", "factor", "diag")}
    return values | bytes_ | more


def agree(found, expected: torch.Tensor, scale: float = 1.0):
    difference = np.abs(np.array(found) - expected.double().numpy())
    assert not len(difference) or difference.max() <= 1e-5 * max(1.0, scale)


def test_conditional_mean_sample_and_variance(browser):
    editors = [random_case(seed) for seed in range(40)]
    for one_by_one in (False, True):  # as strokes are replayed, and as they are painted
        results = browser([state(e, oneByOne=one_by_one) for e in editors])
        for editor, found in zip(editors, results, strict=True):
            # Python's side of the comparison in float64, from the arrays that the browser got
            factor = torch.frombuffer(bytearray(editor.factor or b"\0" * 4), dtype=torch.float32)
            factor = factor[: len(editor.factor) // 4].reshape(-1, len(editor.mean) // 4).double()
            mean = torch.frombuffer(bytearray(editor.mean), dtype=torch.float32).double()
            diag = torch.frombuffer(bytearray(editor.diag), dtype=torch.float32).double()
            scaled = factor.mT * torch.tensor(editor.scales, dtype=torch.float64)
            p, shape = LowRankNormal(mean, scaled, diag), tuple(editor.shape)
            q = editing.condition(p, editor.edits, shape)
            agree(found["conditionalMean"], q.mean, q.mean.abs().max().item())
            agree(found["conditionalVariance"], q.variance, q.variance.max().item())
            noise, soft = (torch.from_numpy(gaussians(editor.seed, k, len(mean))) for k in (1, 2))
            y = p.rsample_from(torch.tensor(editor.omega, dtype=torch.float64), noise)
            agree(found["original mean"], p.mean)
            agree(found["original sample"], y, y.abs().max().item())
            y = editing.condition_sample(p, y, editor.edits, shape, soft)
            agree(found["conditionalSample"], y, y.abs().max().item())


def test_the_kernel_shows_what_the_browser_shows(browser):
    """The editor's own float32 state against the browser's, on a well-scaled distribution."""
    shape = (3, 8, 8)
    generator = torch.Generator().manual_seed(0)
    p = LowRankNormal(
        torch.rand(192, generator=generator), 0.1 * torch.randn(192, 5, generator=generator), 1e-3
    )
    editor = Editor(p, shape, noise_factor=torch.randn(5, generator=generator))
    editor.paint(editing.brush([(1, 1), (6, 5)], 3, shape), [0.8, 0.6, 0.3], 0.05)
    editor.paint([40], 0.1)
    (found,) = browser([state(editor)])
    agree(found["conditionalMean"], editor.conditional.mean)
    agree(found["conditionalSample"], editor.sample)
    agree(found["conditionalVariance"], editor.conditional.variance)


def test_noise_length(browser):
    """Against the posterior mean of omega by equation 7's dense form, and the analysis' own."""
    editors = [random_case(seed) for seed in range(40)]
    compared = 0
    for editor, found in zip(editors, browser([state(e) for e in editors]), strict=True):
        p = LowRankNormal(
            editor.distribution.loc.double(), editor.distribution.cov_factor.double(),
            editor.distribution.cov_diag.double(),
        )  # fmt: skip
        index, values, variance = editing.edits(editor.edits, tuple(editor.shape))
        known = p.cov_factor[index]
        seen = known @ known.mT + torch.diag(p.cov_diag[index] + variance)
        omega = known.mT @ torch.linalg.solve(seen, values - p.loc[index])
        assert found["noiseLength"] == pytest.approx(omega.norm().item(), rel=1e-3, abs=1e-6)
        if 0 < len(index) < len(p.loc) - 2 * p.rank and all(editor.scales):
            ours = editing.noise_length(p, editor.edits, tuple(editor.shape))
            assert found["noiseLength"] == pytest.approx(ours, rel=1e-3)
            compared += 1
    assert compared > 10


def test_error(browser):
    rng = np.random.default_rng(0)
    image, truth = rng.uniform(size=(2, 48))
    (found,) = browser([{"rmse": [image.tolist(), truth.tolist()]}])
    assert found == pytest.approx(np.sqrt(np.mean((image - truth) ** 2)))


def borders(path: str) -> set:
    """The sides of pixels, (x, y, along), that an SVG path of straight lines runs over."""
    sides = set()
    for x, y, way, end in re.findall(r"M(\d+) (\d+)([HV])(\d+)", path):
        x, y, end = int(x), int(y), int(end)
        one = {(k, y, "H") for k in range(x, end)} if way == "H" else set()
        one |= {(x, k, "V") for k in range(y, end)} if way == "V" else set()
        assert one and not one & sides
        sides |= one
    return sides


def test_outlines_run_where_edits_end(browser):
    rng, cases, looks = np.random.default_rng(0), [], []
    for _ in range(30):
        height, width = rng.integers(1, 9, 2).tolist()
        look, strokes = np.zeros((height, width), int), []
        for _ in range(rng.integers(0, 4)):
            mask, kind = rng.random((height, width)) < 0.4, int(rng.integers(1, 4))
            look[mask] = kind  # two kinds differ in colour, or in softness
            colour, std = [0.2, 0.2, 0.2 * (kind == 2)], 0.1 * (kind == 3)
            strokes.append({"pixels": np.flatnonzero(mask).tolist(), "colour": colour, "std": std})
        cases.append({"outline": strokes, "height": height, "width": width})
        looks.append(np.pad(look, 1))
    for look, path in zip(looks, browser(cases), strict=True):
        across = np.argwhere(look[:-1, 1:-1] != look[1:, 1:-1])
        down = np.argwhere(look[1:-1, :-1] != look[1:-1, 1:])
        expected = {(x, y, "H") for y, x in across.tolist()}
        assert borders(path) == expected | {(x, y, "V") for y, x in down.tolist()}


def test_noise(browser):
    cases = [(0, 0, 50), (1, 2, 50), (2**31 - 1, 1, 50), (123456789, 2, 1000)]
    for case, found in zip(cases, browser([{"noise": c} for c in cases]), strict=True):
        np.testing.assert_allclose(found, gaussians(*case), rtol=0, atol=1e-12)


def test_brush(browser):
    rng = np.random.default_rng(0)
    cases = []
    for _ in range(60):
        points = rng.uniform(-6, 26, (int(rng.integers(1, 5)), 2)).round(2).tolist()
        cases.append([points, int(rng.integers(1, 11)), 20, 16])
    for (points, size, height, width), found in zip(
        cases, browser([{"brush": c} for c in cases]), strict=True
    ):
        assert found == editing.brush(points, size, (1, height, width))


def test_slerp(browser):
    rng = np.random.default_rng(0)
    cases = [[rng.normal(size=9).tolist(), rng.normal(size=9).tolist(), t] for t in (0, 0.3, 1)]
    cases.append([[1.0, 0.0], [2.0, 0.0], 0.25])  # parallel
    for (a, b, t), found in zip(cases, browser([{"slerp": c} for c in cases]), strict=True):
        agree(found, slerp(torch.tensor(a).double(), torch.tensor(b).double(), t))
    corners = torch.randn(4, 6, dtype=torch.float64)
    top = bilinear_at(corners, 0.3, 0.0)
    (found,) = browser([{"slerp": [corners[0].tolist(), corners[1].tolist(), 0.3]}])
    agree(found, top)


def test_half_precision_arrays_are_read(browser):
    p = LowRankNormal(torch.rand(12), torch.randn(12, 3) * torch.tensor([10.0, 1e-3, 1e-6]), 1e-5)
    coded = {k: base64.b64encode(v).decode() for k, v in arrays(p, "float16").items()}
    (found,) = browser([coded | {"dtype": "float16", "widen": True}])
    expected = np.frombuffer(arrays(p, "float16")["factor"], np.float16).astype(float)
    assert found == expected.tolist()
