"""What a stranger meets first: pins, commands, licence, and a tree that speaks of itself alone."""

import re
import subprocess

import pytest
import yaml

from cancerllm_utils import paths


def read(name):
    return (paths.ROOT / name).read_text(encoding="utf-8")


def test_conda_and_make_users_get_the_same_pins():
    packages = yaml.safe_load(read("environment.yml"))["dependencies"]
    assert "python=3.11" in packages and {"pip": ["-r requirements.txt", "-e ."]} in packages
    assert 'dependencies = { file = ["requirements.txt"] }' in read("pyproject.toml")
    pins = [line for line in read("requirements.txt").splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9_-]+==[\w.]+", pin) for pin in pins) and "torch==2.13.0" in pins
    for package in ("jupyterlab", "papermill", "torch", "transformers", "peft", "trl", "datasets", "evaluate", "seaborn", "pandas"):
        assert any(pin.startswith(f"{package}==") for pin in pins), package


def test_make_help_lists_every_command():
    listed = subprocess.run(["make", "help"], cwd=paths.ROOT, capture_output=True, text=True, check=True).stdout
    for command in re.findall(r"^([a-z-]+):.*##", read("Makefile"), re.M):
        assert f"make {command}" in listed


def test_ci_runs_the_readmes_test_command():
    assert "make test" in read(".ci/run") and "make test" in read("README.md") and "make run" in read("README.md")


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "LICENSE", "CITATION.cff"])
def test_the_papers_of_the_house_are_there(name):
    assert len(read(name)) > 200


def test_embedded_weights_are_small_safetensors_with_a_true_checksum():
    import hashlib

    weights = paths.TINY_BASE / "model.safetensors"
    assert weights.stat().st_size <= 16_000_000
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in (paths.TINY_BASE / "README.md").read_text()
    assert not [p for p in paths.TINY_BASE.iterdir() if p.suffix in (".bin", ".pt", ".pkl")]


def test_no_path_of_a_machine_and_no_data_in_the_tree():
    files = subprocess.run(["git", "-C", str(paths.ROOT), "ls-files"], capture_output=True, text=True).stdout.split("\n")
    for name in filter(None, files):
        file = paths.ROOT / name
        assert not name.startswith(("runs/", "data/")) and file.suffix not in (".gz", ".parquet"), name
        if file.suffix in (".py", ".md", ".yaml", ".yml", ".ipynb", ".toml") and file.is_file():
            assert not re.search(r"(?<![\w.~])/(?:home|root|work|Users)/\w", file.read_text(encoding="utf-8")), name
