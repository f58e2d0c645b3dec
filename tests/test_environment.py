"""The lists of dependencies agree, and run_all.sh finds an interpreter that has them."""

import os
import subprocess
import sys
import tomllib

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sos.run import environment
from sos.system import paths

PYPROJECT = tomllib.loads((paths.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONDA_NAMES = {"pytorch": "torch", "pytorch-cpu": "torch", "matplotlib-base": "matplotlib"}


def ranges(lines):
    """{canonical name: range}, conda's names as the Python package index has them."""
    requirements = [Requirement(line) for line in lines]
    names = [CONDA_NAMES.get(r.name, canonicalize_name(r.name)) for r in requirements]
    assert len(set(names)) == len(names)
    return {name: r.specifier for name, r in zip(names, requirements, strict=True)}


def conda(file):
    """Ranges of an environment file without Python and pip, and what else pip is told."""
    content = yaml.safe_load((paths.ROOT / file).read_text(encoding="utf-8"))
    assert content["channels"] == ["conda-forge", "nodefaults"]
    lines = [line for line in content["dependencies"] if isinstance(line, str)]
    (pip,) = (line["pip"] for line in content["dependencies"] if isinstance(line, dict))
    lines.remove("pip")
    python = lines.pop(0)
    assert python.startswith("python")
    own = [line for line in pip if line.startswith("-")]
    return ranges(lines + [line for line in pip if line not in own]), python, own


def test_environment_yml_agrees():
    found, python, own = conda("environment.yml")
    assert found == ranges(environment.wanted(test=True))
    assert python == f"python{PYPROJECT['requires-python']}"
    assert own == ["-e ."]


def test_binder_agrees():
    found, python, own = conda(".binder/environment.yml")
    assert found == ranges(environment.wanted())
    version = python.removeprefix("python=")
    assert Requirement(f"python{PYPROJECT['requires-python']}").specifier.contains(version)
    assert own == []  # its root is another folder, so postBuild installs the package
    post_build = paths.ROOT / ".binder" / "postBuild"
    assert os.access(post_build, os.X_OK)
    assert "pip install --no-deps -e ." in post_build.read_text()


def test_constraints_are_exact_and_within_the_ranges():
    lines = (paths.ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = ranges(line for line in lines if line and not line.startswith("#"))
    for name, allowed in ranges(environment.wanted(test=True)).items():
        assert name in pins, f"{name} has no exact version"
        (pin,) = pins[name]
        assert pin.operator == "==" and allowed.contains(pin.version)
    assert all([pin.operator for pin in pins[name]] == ["=="] for name in pins)


def test_unmet_requirements_are_named():
    lines = environment.unmet(["numpy", "numpy>=1000", "no-such-package-at-all>=1"])
    assert [line.split()[0] for line in lines] == ["numpy>=1000", "no-such-package-at-all>=1"]
    assert "is wanted" in lines[0] and "is not installed" in lines[1]


def test_interrupted_installation_is_not_trusted(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "INTERRUPTED", tmp_path)
    assert "interrupted" in environment.problems()[0]


def run_all(*arguments, python=sys.executable, cwd="/"):
    """run_all.sh from another directory with the standard input closed."""
    return subprocess.run(
        ["bash", "-c", 'exec bash "$0" "$@" <&-', paths.ROOT / "run_all.sh", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | {"SOS_PYTHON": python},
    )


def test_fit_interpreter_is_used_as_it_is(tmp_path):
    result = run_all("--python", "--test", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == sys.executable
    assert list(tmp_path.iterdir()) == []


def test_unfit_interpreter_is_refused(tmp_path):
    unfit = tmp_path / "python"
    unfit.write_text("#!/bin/sh\necho torch is not installed\nexit 1\n")
    unfit.chmod(0o755)
    result = run_all("--python", python=str(unfit))
    assert result.returncode == 1 and result.stdout == ""
    assert "torch is not installed" in result.stderr and "unset SOS_PYTHON" in result.stderr


def test_help_needs_no_environment(tmp_path):
    result = subprocess.run(
        ["bash", paths.ROOT / "run_all.sh", "--profile", "smoke", "--help"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"SOS_PYTHON": sys._base_executable},
    )
    assert result.returncode == 0, result.stderr
    assert "--profile" in result.stdout
