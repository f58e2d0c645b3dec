"""The widgets' kernel side: what they hold, show and refuse. No browser: see test_browser.py."""

import base64
import html
import io
import json
import math
import re
from dataclasses import asdict

import ipywidgets
import numpy as np
import pytest
import torch
import traitlets
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from sos import profiles
from sos.analysis import counterfactual, editing, sampling
from sos.distributions.low_rank_normal import LowRankNormal
from sos.models.vae import VAE
from sos.system import paths
from sos.training import store
from sos.widgets import Editor, Pad, Sampler, VAESampler, export_page, page
from sos.widgets.pictures import png
from sos.widgets.surface import MODULE, gaussians

SHAPE = (3, 6, 5)


def build(shape=SHAPE, rank=4, seed=0, diag=0.01) -> LowRankNormal:
    generator = torch.Generator().manual_seed(seed)
    size = math.prod(shape)
    mean = torch.rand(size, generator=generator)
    return LowRankNormal(mean, 0.2 * torch.randn(size, rank, generator=generator), diag)


def smoke_vae(name="faces-sos") -> VAE:
    e = profiles.profile("smoke").experiments[name]
    torch.manual_seed(0)
    vae = VAE(e.data, e.network).eval().requires_grad_(False)
    for head in (vae.head.mean, vae.head.factor):  # untrained heads give one and the same image
        head.weight *= 1e4
    return vae


def close(a, b, tolerance=2e-5):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# ---- the editor


@pytest.fixture
def editor():
    return Editor(build(), SHAPE)


def test_paints_as_editing_does(editor):
    editor.paint([3, 4], [0.9, 0.1, 0.2])
    editor.paint([4, 9], 0.5, std=0.1)
    strokes = [
        editing.stroke([3, 4], [0.9, 0.1, 0.2], SHAPE),
        editing.stroke([4, 9], 0.5, SHAPE, 0.1),
    ]
    assert editor.edits == strokes
    expected = editing.condition(build(), strokes, SHAPE)
    close(editor.conditional.mean, expected.mean, 0)
    close(editor.conditional.variance, expected.variance, 0)


actions = st.lists(
    st.one_of(
        st.sampled_from(["undo", "redo", "reset"]),
        st.tuples(st.integers(0, 29), st.floats(0, 1), st.sampled_from([0.0, 0.1])),
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(actions)
def test_undo_and_redo_restore_exactly(sequence):
    """Against a plain list of states, whatever is done in whatever order."""
    editor, states, at = Editor(build(), SHAPE), [[]], 0
    pictures = {0: editor.conditional.mean.clone()}
    for action in sequence:
        if action == "undo":
            editor.undo()
            at = max(at - 1, 0)
        elif action == "redo":
            editor.redo()
            at = min(at + 1, len(states) - 1)
        elif action == "reset":
            editor.reset()
            at = 0
        else:
            pixel, value, std = action
            editor.paint([pixel], value, std)
            states = states[: at + 1] + [states[at] + [editing.stroke([pixel], value, SHAPE, std)]]
            at += 1
            pictures[at] = editor.conditional.mean.clone()
        assert editor.edits == states[at]
        assert torch.equal(editor.conditional.mean, pictures[at])


def test_a_new_stroke_ends_what_could_be_redone(editor):
    for pixel in (1, 2, 3):
        editor.paint([pixel], 0.5)
    editor.undo()
    editor.undo()
    editor.paint([9], 0.1)
    editor.redo()
    assert [one.pixels for one in editor.edits] == [(1,), (9,)]


def test_sample_is_one_of_the_conditional_distribution(editor):
    editor.paint([0, 7], 0.9)
    y = editor.sample
    painted = torch.tensor([0, 7]) + 30 * torch.arange(3)[:, None]
    assert (y[painted] == 0.9).all()
    free = torch.ones(90, dtype=torch.bool)
    free[painted.flatten()] = False
    q = editor.conditional
    # Mahalanobis distance within the conditional covariance of the free values: chi-squared.
    sigma = (q.cov_factor @ q.cov_factor.mT + torch.diag(q.cov_diag)).double()[free][:, free]
    residual = (y - q.mean).double()[free]
    distance = residual @ torch.linalg.solve(sigma, residual)
    assert 0.001 < stats.chi2(int(free.sum())).cdf(distance.item()) < 0.999


def test_scales_act_before_the_edits(editor):
    editor.scales = [0.0, 1.0, 2.0, 1.0]
    editor.paint([5], 0.2)
    scaled = build().scale_components(torch.tensor([0.0, 1.0, 2.0, 1.0]))
    expected = editing.condition(scaled, [editing.stroke([5], 0.2, SHAPE)], SHAPE)
    close(editor.conditional.mean, expected.mean)


def test_opens_on_a_conditional_distribution(editor):
    editor.paint([5], 0.2)
    again = Editor(editor.conditional, SHAPE)
    again.paint([6], 0.7)
    both = editing.condition(
        build(), [editing.stroke([5], 0.2, SHAPE), editing.stroke([6], 0.7, SHAPE)], SHAPE
    )
    close(again.conditional.mean, both.mean, 1e-4)
    again.paint([5], 0.9)  # a pixel that is fixed takes its new value
    assert again.conditional.mean[5] == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("word", "arguments"),
    [
        ("0..29", ([30], 0.5)),
        (r"\[0, 1\]", ([3], 1.5)),
        (r"\[0, 1\]", ([3], math.nan)),
        ("std", ([3], 0.5, -1.0)),
        ("mask", (np.ones((5, 6), bool), 0.5)),
    ],
)
def test_bad_strokes_leave_the_editor_as_it_was(editor, word, arguments):
    editor.paint([1], 0.5)
    before = editor.edits
    with pytest.raises(ValueError, match=word):
        editor.paint(*arguments)
    assert editor.edits == before
    editor.paint([2], 0.5)
    assert len(editor.edits) == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("strokes", [{"pixels": [99], "colour": [0.5, 0.5, 0.5], "std": 0.0}]),
        ("strokes", [{"pixels": [1], "colour": [0.5, 2.0, 0.5], "std": 0.0}]),
        ("strokes", [{"pixels": [1]}]),
        ("scales", [1.0]),
        ("scales", [math.nan] * 4),
        ("omega", [0.0] * 5),
        ("colour", [0.1, 7.0, 0.1]),
        ("position", -1),
    ],
)
def test_bad_state_is_refused_from_either_side(editor, name, value):
    before = getattr(editor, name)
    with pytest.raises(traitlets.TraitError):
        setattr(editor, name, value)
    assert getattr(editor, name) == before
    editor.paint([1], 0.5)
    assert editor.conditional.mean[1] == pytest.approx(0.5)


def test_empty_and_full_masks(editor):
    editor.paint(np.zeros((6, 5), bool), 0.5)
    assert editor.edits == []
    editor.paint(np.ones((6, 5), bool), 0.5)
    assert (editor.conditional.mean == 0.5).all() and (editor.sample == 0.5).all()


def test_rank_zero():
    editor = Editor(build(rank=0), SHAPE)
    editor.paint([3], 0.7)
    changed = (editor.conditional.mean != build(rank=0).mean).nonzero().flatten()
    assert changed.tolist() == [3, 33, 63] and len(editor.still())


def test_the_original_is_shown_without_the_strokes(editor):
    for view in ("mean", "sample"):
        editor.reset()
        editor.view = view
        untouched = editor.image()
        editor.paint([3, 4], [0.9, 0.1, 0.2], std=0.1)
        edited = editor.image()
        editor.original = True
        assert torch.equal(editor.image(), untouched) and not torch.equal(edited, untouched)
        assert len(editor.edits) == 1  # they hold all the same, for what follows
        close(editor.conditional.mean, editing.condition(build(), editor.edits, SHAPE).mean, 0)
        editor.original = False
        assert torch.equal(editor.image(), edited)
    editor.original = True
    editor.paint([9], 0.5)  # what is painted is seen
    assert not editor.original


@pytest.mark.parametrize("given_", ["image", "flat", "array", "double"])
def test_the_error_to_the_true_picture(given_):
    truth = torch.rand(SHAPE, generator=torch.Generator().manual_seed(4))
    forms = {
        "image": truth, "flat": truth.flatten(), "array": truth.numpy(), "double": truth.double()
    }  # fmt: skip
    editor = Editor(build(), SHAPE, truth=forms[given_])
    close(editor.truth, truth)
    pixels = [3, 11, 20]
    expected = editing.error_curve(build(), truth, pixels, SHAPE, 0.05)
    found = [editor.rmse]
    for pixel in pixels:
        editor.paint([pixel], truth.flatten(1)[:, pixel].tolist(), std=0.05)
        found.append(editor.rmse)
    assert found == pytest.approx(expected, rel=1e-4)
    editor.original = True
    assert editor.rmse == pytest.approx(expected[0], rel=1e-4)


@pytest.mark.parametrize(
    "truth, match",
    [
        (torch.zeros(6, 5), r"\(3, 6, 5\) or flat \(90,\), not \(6, 5\)"),
        (torch.zeros(2, *SHAPE), "one image"),
        (np.full(SHAPE, 255, np.uint8), "divide bytes by 255"),
        (np.zeros(SHAPE, np.uint8), "divide bytes by 255"),
        (torch.full(SHAPE, math.nan), r"in \[0, 1\]"),
    ],
)
def test_a_truth_that_is_none_is_refused(truth, match):
    with pytest.raises(ValueError, match=match):
        Editor(build(), SHAPE, truth=truth)


def test_without_a_truth_there_is_no_error(editor):
    assert editor.truth is None
    with pytest.raises(ValueError, match="truth=image"):
        _ = editor.rmse


@pytest.mark.parametrize("kind", [Editor, Pad, Sampler])
@pytest.mark.parametrize("shape", [(1, 6, 5), (3, 5, 5)])
def test_wrong_shapes_are_refused(kind, shape):
    with pytest.raises(ValueError, match="channels x height x width"):
        kind(build(), shape)


# ---- noise that both sides draw


def test_noise_is_standard_normal_and_streams_differ():
    x = gaussians(7, 1, 100_000)
    assert stats.kstest(x, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(x[:-1], x[1:])[0, 1]) < 0.02
    for other in (gaussians(7, 2, 100_000), gaussians(8, 1, 100_000)):
        assert abs(np.corrcoef(x, other)[0, 1]) < 0.02
    assert np.array_equal(gaussians(7, 1, 10), x[:10])


# ---- pad


def test_pad_holds_its_corners():
    p, corners = build(), torch.randn(4, 4, generator=torch.Generator().manual_seed(3))
    pad = Pad(p, SHAPE, corners)
    for k, (y, x) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        pad.x, pad.y = float(x), float(y)
        close(pad.noise_factor, corners[k])
    still = torch.from_numpy(gaussians(0, 1, 90)).float()
    close(pad.image().flatten(), p.rsample_from(corners[3], still))
    with pytest.raises(traitlets.TraitError):
        pad.x = 1.5
    with pytest.raises(ValueError, match="corners"):
        Pad(p, SHAPE, corners[:3])


# ---- samplers


@pytest.fixture
def sampler():
    return Sampler(build(), SHAPE)


def test_sliders_start_at_the_models_own_sample(sampler):
    y = build().rsample_from(sampler.noise_factor, sampler.noise_diag)
    close(sampler.image().flatten(), y)


def test_sliders_scale_components(sampler):
    sampler.sliders[0].value, sampler.sliders[2].value = 0.0, -3.0
    scaled = build().scale_components(torch.tensor([0.0, 1.0, -3.0, 1.0]))
    close(sampler.image().flatten(), scaled.rsample_from(sampler.noise_factor, sampler.noise_diag))
    close(sampler.distribution.variance, scaled.variance)
    sampler.reset()
    assert (sampler.scales == 1).all()


def picture(sampler) -> Image.Image:
    return Image.open(io.BytesIO(sampler._picture.value))


def test_views_show_what_they_say(sampler):
    one = picture(sampler)
    assert one.size == (5 * 16, 6 * 16)
    sampler.view.value = "100 samples"
    assert picture(sampler).size == (10 * 7 - 2, 10 * 8 - 2)
    sampler.view.value = "all components"
    sheet = picture(sampler)  # tiles are enlarged to 30 x 36, and names stand left and above
    left, top = sheet.width - 6 * (11 * 7 - 2), sheet.height - 6 * (4 * 8 - 2)
    assert left > 10 and top > 20
    names = np.asarray(sheet)
    for row in range(4):
        assert (names[top + 48 * row : top + 48 * row + 36, :left] < 99).all(-1).any()
    for column in range(11):
        start = left + 42 * column
        assert (names[top - 16 : top, start : start + 30] < 99).all(-1).any()
    middle = names[top + 18 :: 48, left + 15 :: 42][:, 6]  # the scale 1 is the sample itself
    assert (np.abs(middle - np.asarray(one)[18 * 16 // 6, 15 * 16 // 6].astype(int)) <= 1).all()
    sampler.view.value = "one sample"
    assert picture(sampler).tobytes() == one.tobytes()


def test_new_sample_and_new_latent():
    other = build(seed=9)
    sampler = Sampler(build(), SHAPE, new_latent=lambda: other)
    first, noise = sampler.image(), sampler.noise_factor
    sampler.new_sample()
    assert not torch.equal(sampler.image(), first)
    noise = sampler.noise_factor
    buttons = {b.description: b for b in walk(sampler) if isinstance(b, ipywidgets.Button)}
    buttons["New latent"].click()
    close(sampler.image().flatten(), other.rsample_from(noise, sampler.noise_diag))


def walk(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from walk(child)


def test_a_distribution_of_another_rank_is_refused(sampler):
    before = sampler.image()
    with pytest.raises(ValueError, match="rank 4"):
        sampler.show_distribution(build(rank=3))
    assert torch.equal(sampler.image(), before)


def test_editor_opens_on_the_sample_that_is_shown(sampler):
    sampler.sliders[1].value = 2.5
    editor = sampler.editor()
    assert editor.view == "sample"
    # each draws its own noise of the diagonal
    close(editor.image(), sampler.image(), 10 * 0.1)
    without = build(diag=1e-12)
    quiet = Sampler(without, SHAPE)
    quiet.sliders[1].value = 2.5
    close(quiet.editor().image(), quiet.image())


def test_vae_sampler_decodes_between_its_ends():
    vae = smoke_vae()
    tool = VAESampler(vae)
    for t, z in ((0.0, tool.ends[0]), (1.0, tool.ends[1])):
        tool.t.value = t
        close(tool.z, z)
        expected = vae.decode(z[None])[0]
        close(tool.sampler.distribution.mean, expected.mean)
    left, before = tool.ends[0].clone(), tool._pictures[0].value
    tool.renew(0)
    assert not torch.equal(tool.ends[0], left) and tool._pictures[0].value != before
    ends = [picture.value for picture in tool._pictures]
    tool.sampler.new_sample()  # a new noise shows at the ends too
    assert all(picture.value != old for picture, old in zip(tool._pictures, ends, strict=True))


def test_vae_sampler_starts_with_codes_that_differ():
    """The pictures that are shown differ more than those of any other two of its 32 codes."""
    vae = smoke_vae()
    stream = torch.Generator().manual_seed(3)
    codes = [torch.randn(vae.latent, generator=stream) for _ in range(32)]
    tool = VAESampler(vae, seed=3)
    noises = tool.sampler.noise_factor, tool.sampler.noise_diag
    samples = [vae.decode(z[None])[0].rsample_from(*noises) for z in codes]
    distances = {
        (i, k): (samples[i] - samples[k]).norm() for i in range(32) for k in range(i + 1, 32)
    }
    i, k = max(distances, key=distances.get)
    assert torch.equal(tool.ends[0], codes[i]) and torch.equal(tool.ends[1], codes[k])


def test_rank_zero_sampler():
    sampler = Sampler(build(rank=0, diag=0.04), SHAPE)
    assert sampler.sliders == [] and sampler.image().shape == SHAPE


# ---- stills


@pytest.mark.parametrize("make", [Editor, Pad, Sampler])
def test_a_still_picture_stands_in(make):
    widget = make(build(), SHAPE)
    data, _ = widget._repr_mimebundle_()
    shown = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    alone = Image.open(io.BytesIO(widget.still())).convert("RGB")
    left = (shown.width - alone.width) // 2
    assert shown.crop((left, 0, left + alone.width, alone.height)).tobytes() == alone.tobytes()
    band = np.asarray(shown)[alone.height :]  # under it, white letters on blue
    assert {tuple(c) for c in band[:, 0]} == {(25, 118, 210)} and (band == 255).all(-1).any()
    assert "application/vnd.jupyter.widget-view+json" in data
    assert data["text/plain"] == f"{make.__name__}: run the notebook to use it"


def test_png_clamps_and_rounds():
    image = torch.tensor([[[-0.5, 0.5], [1.0, 2.0]]])
    pixels = np.asarray(Image.open(io.BytesIO(png(image, 2))))
    assert pixels[::2, ::2].tolist() == [[0, 128], [255, 255]] and pixels.shape == (4, 4)


# ---- the page


def page_parts(text: str) -> tuple[dict, str]:
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    module = re.search(r'<script type="text/plain" id="module">(.*?)</script>', text, re.S)
    return json.loads(data[1]), module[1]


def test_page_holds_module_and_distributions(tmp_path):
    names = {"a <b> & </script>": build(), "other": build(seed=1, diag=torch.rand(90) + 0.1)}
    target = export_page(tmp_path / "x" / "page.html", names, SHAPE, "T < U", "about & more")
    text = target.read_text(encoding="utf-8")
    assert "<title>T &lt; U</title>" in text and "about &amp; more" in text
    content, module = page_parts(text)
    assert module == MODULE.read_text(encoding="utf-8")
    assert [one["name"] for one in content["distributions"]] == list(names)
    for one, p in zip(content["distributions"], names.values(), strict=True):
        stored = {
            k: np.frombuffer(base64.b64decode(one[k]), dtype).astype(np.float32)
            for k, dtype in (("mean", "f2"), ("factor", "f2"), ("diag", "f4"))
        }
        factor = torch.from_numpy(stored["factor"]).reshape(p.rank, -1)
        close(torch.from_numpy(stored["mean"]), p.mean, 1e-3)
        close(factor.mT @ factor, p.cov_factor @ p.cov_factor.mT, 2e-3)
        close(torch.from_numpy(stored["diag"]).expand(90), p.cov_diag, 1e-3)


def test_page_needs_no_network(tmp_path):
    link = "https://example.org/a?b=1&c=2"
    target = export_page(tmp_path / "p.html", {"a": build()}, SHAPE, "T", link=link)
    text = target.read_text(encoding="utf-8")
    assert f'<a href="{html.escape(link)}">' in text
    loading = re.sub(r'<a href="[^"]*">', "", text)  # links are followed by the reader alone
    assert not re.search(r"https?://|src=|@import|url\(|<link", loading)


def test_page_of_nothing_or_of_another_shape_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one"):
        export_page(tmp_path / "p.html", {}, SHAPE, "T")
    with pytest.raises(ValueError, match="channels x height x width"):
        export_page(tmp_path / "p.html", {"a": build()}, (1, 6, 5), "T")
    assert list(tmp_path.iterdir()) == []


def test_pages_name_the_paper_as_the_citation_file_does(tmp_path):
    def footer(**options) -> str:
        target = export_page(tmp_path / "p.html", {"a": build()}, SHAPE, "T", **options)
        return re.search("<footer>(.*)</footer>", target.read_text(encoding="utf-8"))[1]

    citation = (paths.ROOT / "CITATION.cff").read_text(encoding="utf-8")
    paper = citation[citation.index("preferred-citation") :]
    for name in ("family-names", "title", "journal", "year", "url"):
        for value in re.findall(rf'{name}: "?([^",\n]+)', paper):
            assert value in footer(), value
    assert footer(link=None).count("<a ") == 1
    assert '<a href="https://example.org">' in footer(link="https://example.org")


def test_the_link_back_is_that_of_the_citation_file(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    assert page.collection() is None
    (tmp_path / "CITATION.cff").write_text('title: "T"\nrepository-code: "https://a.b/c"\n')
    assert page.collection() == "https://a.b/c"


def test_page_of_several_shapes_with_truths_and_groups(tmp_path):
    small = (1, 4, 3)
    names = {"large": build(), "small": build(small, rank=2), "third": build(seed=2)}
    shapes = {"third": SHAPE, "large": SHAPE, "small": small}
    truth = torch.rand(small, generator=torch.Generator().manual_seed(5))
    groups = {"colour": ["third", "large"], "gray": ["small"]}
    target = export_page(
        tmp_path / "p.html", names, shapes, "T", truths={"small": truth}, groups=groups
    )
    content, _ = page_parts(target.read_text(encoding="utf-8"))
    large, gray, third = content["distributions"]
    assert (large["shape"], gray["shape"], third["shape"]) == ([3, 6, 5], [1, 4, 3], [3, 6, 5])
    assert len(gray["colour"]) == 1 and len(third["colour"]) == 3
    assert large["reference"] == third["reference"] == ""
    stored = np.frombuffer(base64.b64decode(gray["reference"]), np.float16).astype(np.float32)
    close(torch.from_numpy(stored), truth.flatten(), 1e-3)
    assert content["groups"] == [
        {"label": "colour", "members": [2, 0]}, {"label": "gray", "members": [1]}
    ]  # fmt: skip


@pytest.mark.parametrize(
    "options, match",
    [
        ({"shape": {"a": SHAPE}}, "shape must name each distribution once; look at b"),
        ({"shape": {"a": SHAPE, "b": SHAPE, "c": SHAPE}}, "shape names c, but .* are a, b"),
        ({"truths": {"c": torch.zeros(SHAPE)}}, "truths names c"),
        ({"truths": {"b": torch.zeros(6, 5)}}, r"\(3, 6, 5\) or flat \(90,\), not \(6, 5\)"),
        ({"truths": {"b": torch.full(SHAPE, 255)}}, "divide bytes by 255"),
        ({"groups": {"x": ["a"]}}, "groups must name each .* look at b"),
        ({"groups": {"x": ["a", "b"], "y": ["a"]}}, "groups must name each .* look at a"),
        ({"groups": {"x": ["a", "b", "c"]}}, "groups names c"),
    ],
)
def test_pages_whose_names_do_not_fit_are_refused(tmp_path, options, match):
    given = {"distributions": {"a": build(), "b": build(seed=1)}, "shape": SHAPE, "title": "T"}
    with pytest.raises(ValueError, match=match):
        export_page(tmp_path / "p.html", **given | options)
    assert not list(tmp_path.iterdir())


def test_strokes_survive_as_json(editor):
    editor.paint(np.array([3, 4]), np.float32(0.25))
    assert json.loads(json.dumps(editor.strokes)) == [
        json.loads(json.dumps(asdict(one))) for one in editor.edits
    ]


# ---- the committed pages


@pytest.mark.parametrize("data", ["faces", "brains"])
def test_committed_pages_are_current(data):
    """Small enough, of this module, and of the released weights' distributions."""
    file = paths.ROOT / "figures" / "demo" / f"{data}.html"
    assert file.stat().st_size < 5e6
    content, module = page_parts(file.read_text(encoding="utf-8"))
    assert module == MODULE.read_text(encoding="utf-8"), "run notebook 05 again"
    experiments = profiles.profile("demo").experiments
    learnt = experiments[f"epsilon-{data}-learnt"]
    vae = store.load_or_train(learnt, "released").vae
    expected = {
        one.name: (one.p.mean, vae.image_shape) for one in counterfactual.examples(vae, learnt.data)
    }
    assert content["groups"][0]["label"] == "learnt ε"  # what the page opens with
    drawn = sampling.draw(store.load_or_train(experiments[f"{data}-sos"], "released"), 4, seed=5)
    for one in content["distributions"]:
        k = int(one["name"].rpartition(" ")[2]) - 1 if one["name"] not in expected else None
        mean, shape = (drawn.p[k].mean, drawn.shape) if k is not None else expected[one["name"]]
        assert one["shape"] == list(shape)
        stored = np.frombuffer(base64.b64decode(one["mean"]), np.float16).astype(np.float32)
        close(torch.from_numpy(stored), mean.cpu(), 5e-3)
    assert len(content["distributions"]) == len(expected) + 4


# ---- what careless hands do


def test_tiny_variances_survive_in_pages(tmp_path):
    target = export_page(tmp_path / "page.html", {"p": build(diag=1e-8)}, SHAPE, "T")
    (entry,) = page_parts(target.read_text(encoding="utf-8"))[0]["distributions"]
    assert np.frombuffer(base64.b64decode(entry["diag"]), "f4") == pytest.approx([1e-8])


@pytest.mark.parametrize(
    "arguments, match",
    [
        ({"distributions": build()}, "dictionary"),
        ({"distributions": {}}, "dictionary"),
        ({"std": math.nan}, "std must be"),
        ({"std": -1.0}, "std must be"),
        ({"shape": (6, 5)}, "channels, height, width"),
        ({"shape": (5, 6, 3)}, "ends in them"),
        ({"distributions": {"p": build((5, 3, 6))}, "shape": (5, 3, 6)}, "1 channel .* or 3"),
    ],
)
def test_pages_that_would_be_dead_are_refused(tmp_path, arguments, match):
    given = {"distributions": {"p": build()}, "shape": SHAPE, "title": "T"} | arguments
    with pytest.raises(ValueError, match=match):
        export_page(tmp_path / "page.html", **given)
    assert not list(tmp_path.iterdir())


def test_pages_of_any_precision_and_name(tmp_path):
    p = build()
    low = LowRankNormal(p.loc.bfloat16(), p.cov_factor.bfloat16(), 0.01)
    target = export_page(
        tmp_path / "page.html", {"<!--<script>": low}, SHAPE, "T", std=torch.tensor(0.1)
    )
    content, module = page_parts(target.read_text(encoding="utf-8"))
    assert content["distributions"][0]["name"] == "<!--<script>"
    assert module == MODULE.read_text(encoding="utf-8")


@pytest.mark.parametrize("widget", [Editor, Sampler, Pad])
@pytest.mark.parametrize("shape", [(6, 5), (5, 6, 3), 90, (0, 6, 5)])
def test_shapes_that_are_none_are_refused(widget, shape):
    with pytest.raises((TypeError, ValueError)) as error:
        widget(build(), shape)
    assert isinstance(shape, int) or "channels, height, width" in str(error.value)


def test_other_distributions_are_refused_by_name():
    with pytest.raises(ValueError, match="LowRankNormal, not Normal"):
        Editor(torch.distributions.Normal(torch.zeros(90), 1.0), SHAPE)


@pytest.mark.parametrize("name", ["sigma", "color"])
def test_options_that_do_not_exist_are_refused(name):
    with pytest.raises(TypeError, match=f"no {name}; it has .*std"):
        Editor(build(), SHAPE, **{name: 0.1})


def test_code_paints_as_softly_as_the_brush():
    editor = Editor(build(), SHAPE, std=np.float32(0.25))
    editor.paint(5, 0.5)
    editor.paint([6], 0.5, std=0.0)
    assert [one.std for one in editor.edits] == [0.25, 0.0]


def test_position_stays_within_the_strokes():
    strokes = [asdict(editing.stroke([n], 0.5, SHAPE)) for n in range(3)]
    editor = Editor(build(), SHAPE, strokes=strokes)
    assert len(editor.edits) == 3
    editor.position = 99
    assert editor.position == 3
    editor.strokes = []
    assert editor.position == 0 and editor.edits == []


def test_noises_may_be_lists_and_wrong_ones_are_refused():
    p = build()
    noise = torch.arange(4.0)
    expected = Editor(p, SHAPE, noise_factor=noise).omega
    for given_ in (noise.tolist(), noise.numpy()):
        assert Editor(p, SHAPE, noise_factor=given_).omega == pytest.approx(expected)
    with pytest.raises(ValueError, match=r"noise_factor must be \(4,\)"):
        Editor(p, SHAPE, noise_factor=torch.zeros(5))
    assert Pad(p, SHAPE, corners=torch.eye(4).numpy()).image().shape == SHAPE
    with pytest.raises(ValueError, match="rank 0"):
        Pad(build(rank=0), SHAPE)
    pad = Pad(p, SHAPE)
    with pytest.raises(traitlets.TraitError, match="corners must be"):
        pad.corners = [[0.0] * 3] * 4
    with pytest.raises(traitlets.TraitError, match="finite"):
        Editor(p, SHAPE).std = math.nan


def test_a_hundred_samples_are_a_hundred(monkeypatch):
    """Each has noise of its own, even at rank 0, and a new sample means a hundred new ones."""
    shown = []
    monkeypatch.setattr(
        "sos.widgets.sampler.sheet", lambda images, n: shown.append(images) or images[0]
    )
    sampler = Sampler(build(rank=0, diag=0.04), SHAPE)
    sampler.view.value = "100 samples"
    sampler.new_sample()
    first, second = shown[-2:]
    for images in (first, second):
        assert len(images) == 100
        assert images.std(0).mean().item() == pytest.approx(0.2, rel=0.1)
    assert not torch.equal(first, second)
