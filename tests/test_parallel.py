"""Two processes started by torchrun against one with the same global batch."""

import subprocess
import sys
from pathlib import Path

import pytest
import together
import torch
from test_training import plain_float32
from torch import nn

from sos.system import distributed


def launch(*arguments, processes=2):
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run(
        [sys.executable, *launcher, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Results of one process, of two, and of one that goes on where two were interrupted."""
    alone, both = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("both")
    with pytest.MonkeyPatch.context() as patch:
        plain_float32(patch.setattr)
        patch.setattr(together.evaluation, "extractor", None)
        one = together.everything(alone)
        (alone / "left").rename(both / "broken")
        result = launch(Path(together.__file__), both)
        assert result.returncode == 0, result.stderr
        two = torch.load(both / "found.pt", weights_only=False)
        back = together.trained(together.BROKEN, both / "left")
    return {"one": one, "two": two, "back": back}


def test_normalisation_is_that_of_the_whole_batch(found):
    stream = torch.Generator().manual_seed(0)
    x, push = (torch.randn(together.BATCH, 3, 4, 5, generator=stream) + 2 for _ in range(2))
    layer, x = nn.BatchNorm2d(3), x.requires_grad_()
    nn.init.normal_(layer.weight, generator=stream)
    y = layer(x)
    (y * push).sum().backward()
    expected = {"y": y.detach(), "x_gradient": x.grad}
    expected |= {f"{name}_gradient": p.grad for name, p in layer.named_parameters()}
    expected |= {"later": layer.eval()(x).detach()} | layer.state_dict()
    for number in ("one", "two"):
        got = found[number]["normalised"]
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(got[name], value, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("case", together.CASES)
def test_two_processes_train_as_one_with_the_same_global_batch(found, case):
    """To rounding at first; Adam's steps of fixed size then carry on what rounding has begun."""
    one, two = found["one"][case]["history"], found["two"][case]["history"]
    compare(two[:4], one[:4], rel=1e-5)
    compare(two, one, rel=2e-2)
    assert len(two) == together.WHOLE


def compare(rows, expected, rel):
    for row, other in zip(rows, expected, strict=True):
        assert row == pytest.approx(other, rel=rel, abs=1e-3)


@pytest.mark.parametrize("case", together.CASES)
def test_all_processes_hold_the_same_bits(found, case):
    (multiplier, weights), (other, others) = found["two"][case]["held"]
    assert multiplier == other
    assert all(torch.equal(value, others[name]) for name, value in weights.items())


def test_a_training_goes_on_with_more_processes_or_fewer(found):
    unbroken = found["one"][together.BROKEN]["history"]
    compare(found["two"]["resumed"]["history"], unbroken, rel=1e-4)
    compare(found["back"]["history"][7:], found["two"][together.BROKEN]["history"][7:], rel=1e-4)
    assert found["back"]["history"][:4] == found["two"][together.BROKEN]["history"][:4]


@pytest.mark.parametrize("number", ["one", "two"])
def test_processes_share_a_pretraining_as_one_does(found, number):
    """All of them go on from it, or none where one cannot; the bits are the same in any case."""
    cases = found[number]["common"]
    taken = {name: [steps for steps, *_ in processes] for name, processes in cases.items()}
    whole, after = list(range(together.WHOLE)), list(range(4, together.WHOLE))
    processes = len(cases["alone"])
    assert taken["alone"] == [whole] * processes and taken["common"] == [after] * processes
    assert taken["unread"] == [after if processes == 1 else whole] * processes
    (_, history, weights), *_ = cases["alone"]
    for _, rows, others in [*cases["alone"], *cases["common"], *cases["unread"]]:
        assert rows == history
        assert all(torch.equal(value, others[name]) for name, value in weights.items())


def test_statistics_are_of_all_images(found):
    one, two = found["one"]["measured"], found["two"]["measured"]
    assert one["count"] == two["count"] == together.IMAGES
    for name in ("mean", "scatter"):
        assert two[name] == pytest.approx(one[name], rel=1e-9, abs=1e-6)


def test_one_process_is_no_group(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    x = torch.arange(6.0)
    with distributed.process_group(), distributed.main_process_first():
        assert (
            distributed.world_size(),
            distributed.process_index(),
            distributed.is_main_process(),
        ) == (1, 0, True)
        assert torch.equal(distributed.shard(x), x)
        assert distributed.broadcast("here") == "here" and distributed.all_gather(1) == [1]
