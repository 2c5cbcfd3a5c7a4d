"""Manifests: only a whole checkpoint of the same run is resumed from."""

import pytest

from cancerllm_utils.modeling import checkpoints


def checkpoint(root, step: int, run_identity: str | None):
    folder = root / f"checkpoint-{step}"
    (folder / "sub").mkdir(parents=True)
    (folder / "weights").write_bytes(b"w" * step)
    (folder / "sub" / "rng_state.pth").write_bytes(b"r")
    if run_identity:
        checkpoints.seal(folder, run_identity)
    return folder


def test_identity_ignores_key_order_and_sees_every_value():
    assert checkpoints.identity({"a": 1, "b": [2]}) == checkpoints.identity({"b": [2], "a": 1})
    assert checkpoints.identity({"a": 1}) != checkpoints.identity({"a": 1.5})


def test_the_newest_sealed_checkpoint_is_found_by_number_not_by_name(tmp_path):
    for step in (5, 10, 9):
        checkpoint(tmp_path, step, "run")
    assert checkpoints.newest(tmp_path, "run").name == "checkpoint-10"


def test_nothing_to_resume_from(tmp_path, capsys):
    assert checkpoints.newest(tmp_path / "missing", "run") is None
    assert "starting afresh" in capsys.readouterr().out


def test_a_checkpoint_without_a_manifest_is_passed_over_and_removed(tmp_path):
    checkpoint(tmp_path, 5, "run")
    torn = checkpoint(tmp_path, 10, None)
    assert checkpoints.newest(tmp_path, "run").name == "checkpoint-5" and not torn.exists()


@pytest.mark.parametrize("harm", ["shorter", "same size", "missing", "manifest"])
def test_a_damaged_checkpoint_gives_way_to_an_older_one(tmp_path, harm):
    checkpoint(tmp_path, 5, "run")
    newer = checkpoint(tmp_path, 10, "run")
    if harm == "shorter":
        (newer / "weights").write_bytes(b"w" * 9)
    elif harm == "same size":
        (newer / "weights").write_bytes(b"x" * 10)
    elif harm == "missing":
        (newer / "sub" / "rng_state.pth").unlink()
    else:
        (newer / "manifest.json").write_text('{"identity": "run", "files"')
    assert checkpoints.newest(tmp_path, "run").name == "checkpoint-5"


def test_changed_parameters_start_afresh_and_say_so(tmp_path, capsys):
    checkpoint(tmp_path, 5, "run")
    assert checkpoints.newest(tmp_path, "another run") is None
    out = capsys.readouterr().out
    assert "other parameters, data or versions" in out and "starting afresh" in out and not list(tmp_path.iterdir())
