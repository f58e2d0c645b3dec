"""The programs that README prints do what it says of them."""

import re

import pytest
import torch

from sos.system import paths

README = (paths.ROOT / "README.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_programs_of_readme_run(tmp_path, monkeypatch, capsys):
    """In order and in one place, as somebody who tries them in a notebook would."""
    monkeypatch.chdir(tmp_path)
    channels, height, width = 3, 8, 8
    torch.manual_seed(0)
    size = channels * height * width
    names = {"channels": channels, "height": height, "width": width}
    for program in PROGRAMS:
        if "local = SparsePrecisionNormal" in program:  # given a decoder's outputs
            names |= {"mean": torch.rand(2, size), "log_diag": torch.ones(2, size)}
            names |= {"off_diag": torch.zeros(2, 14, size), "factor": torch.rand(2, size, 3)}
        exec(compile(program, "README.md", "exec"), names)
    y, x = names["y"], names["x"]
    assert y.var(0).mean().item() == pytest.approx(x.var(0).mean().item(), rel=0.3)
    assert "variance of samples" in capsys.readouterr().out
    images, stroke = names["images"], names["stroke"]
    assert images.shape == (5, 3, 64, 64) and 0 <= images.min() <= images.max() <= 1
    assert (images[:, stroke] - 0.2).abs().mean() < 0.1  # softly: noise of 0.08
    assert (tmp_path / "mine.html").stat().st_size > 10_000
