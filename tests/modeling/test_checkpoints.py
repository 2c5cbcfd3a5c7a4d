"""Manifests: only a whole checkpoint of the same run is resumed from, and another run's is refused in one sentence."""

import json

import pytest

from cancerllm_utils.errors import UserError
from cancerllm_utils.modeling import checkpoints

RUN = {"settings": {"learning_rate": 0.001, "lora_r": 8}, "training data": "a" * 64, "versions": {"torch": "2.13.0"}, "device": "cpu"}


def checkpoint(root, step: int, parts: dict | None, best: int | None = None):
    folder = root / f"checkpoint-{step}"
    (folder / "sub").mkdir(parents=True)
    (folder / "weights").write_bytes(b"w" * step)
    (folder / "sub" / "rng_state.pth").write_bytes(b"r")
    (folder / "trainer_state.json").write_text(json.dumps({"best_global_step": best}))
    if parts:
        checkpoints.seal(folder, parts, {"seconds": 1.5 * step})
    return folder


def test_identity_ignores_key_order_and_sees_every_value():
    assert checkpoints.identity({"a": 1, "b": [2]}) == checkpoints.identity({"b": [2], "a": 1})
    assert checkpoints.identity({"a": 1}) != checkpoints.identity({"a": 1.5})


def test_the_manifest_is_written_last_and_everything_before_it_is_flushed(tmp_path, monkeypatch):
    folder, flushed = checkpoint(tmp_path, 5, None), []
    monkeypatch.setattr(checkpoints.os, "fsync", lambda handle: flushed.append(checkpoints.os.readlink(f"/proc/self/fd/{handle}")))
    checkpoints.seal(folder, RUN)
    names = [path.removeprefix(str(tmp_path)).lstrip("/") for path in flushed]
    files = ["checkpoint-5/sub/rng_state.pth", "checkpoint-5/trainer_state.json", "checkpoint-5/weights", "checkpoint-5/sub"]
    assert names == [*files, "checkpoint-5/manifest.json.draft", "checkpoint-5", ""]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["parts"] == RUN and manifest["files"]["weights"] == [5, checkpoints.sha256(folder / "weights")] and len(manifest["files"]) == 3


def test_the_newest_sealed_checkpoint_is_found_by_number_not_by_name(tmp_path):
    for step in (5, 10, 9):
        checkpoint(tmp_path, step, RUN)
    (tmp_path / "checkpoint-notes").mkdir()
    found = checkpoints.newest(tmp_path, RUN)
    assert found.name == "checkpoint-10" and checkpoints.progress(found) == checkpoints.read(found)["progress"] == {"seconds": 15.0}


def test_nothing_to_resume_from(tmp_path, capsys):
    assert checkpoints.newest(tmp_path / "missing", RUN) is None
    assert "starting afresh" in capsys.readouterr().out


def test_a_checkpoint_without_a_manifest_is_passed_over_and_removed(tmp_path, capsys):
    checkpoint(tmp_path, 5, RUN)
    torn = checkpoint(tmp_path, 10, None)
    assert checkpoints.newest(tmp_path, RUN).name == "checkpoint-5" and not torn.exists()
    assert "checkpoint-10 incomplete or damaged, removed" in capsys.readouterr().out


HARMS = {
    "missing": lambda file: file.unlink(),
    "half": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "zeroed": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "flipped bit": lambda file: file.write_bytes(bytes([*(whole := file.read_bytes())[:-3], whole[-3] ^ 1, *whole[-2:]]) if file.stat().st_size > 2 else b"s"),
    "empty": lambda file: file.write_bytes(b""),
}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("name", ["weights", "sub/rng_state.pth", "trainer_state.json", "manifest.json"])
def test_a_damaged_checkpoint_gives_way_to_an_older_one(tmp_path, name, harm):
    checkpoint(tmp_path, 5, RUN)
    HARMS[harm](checkpoint(tmp_path, 10, RUN) / name)
    assert checkpoints.newest(tmp_path, RUN).name == "checkpoint-5" and [f.name for f in tmp_path.iterdir()] == ["checkpoint-5"]


def test_every_flipped_bit_of_a_manifest_is_seen(tmp_path):
    """Its own digest covers the parts and the progress too: a flip there must neither refuse the run nor change how it goes on."""
    folder = checkpoint(tmp_path, 5, RUN)
    good = (folder / "manifest.json").read_bytes()
    whole = checkpoints.read(folder)
    for at in range(0, len(good), 7):
        (folder / "manifest.json").write_bytes(good[:at] + bytes([good[at] ^ 2]) + good[at + 1 :])
        assert checkpoints.read(folder) in (None, whole)  # a changed blank between two entries says the same
    (folder / "manifest.json").write_bytes(good.replace(b'"learning_rate": 0.001', b'"learning_rate": 0.003'))
    assert checkpoints.read(folder) is None


def test_a_planted_file_makes_a_checkpoint_unfit(tmp_path):
    """A pickle that the run did not write would be read in place of the listed weights."""
    (checkpoint(tmp_path, 5, RUN) / "pytorch_model.bin").write_bytes(b"pickle")
    assert checkpoints.newest(tmp_path, RUN) is None and not list(tmp_path.iterdir())


def test_a_checkpoint_whose_best_one_is_damaged_is_not_resumed_from(tmp_path):
    """It would end with the last weights instead of the best ones, without a word."""
    checkpoint(tmp_path, 3, RUN, best=3)
    best = checkpoint(tmp_path, 6, RUN, best=6)
    checkpoint(tmp_path, 9, RUN, best=6)
    assert checkpoints.newest(tmp_path, RUN).name == "checkpoint-9"
    (best / "weights").write_bytes(b"x" * 6)
    assert checkpoints.newest(tmp_path, RUN).name == "checkpoint-3"
    assert [f.name for f in tmp_path.iterdir()] == ["checkpoint-3"]


def test_another_run_is_refused_by_name_and_its_work_is_kept(tmp_path):
    folder = checkpoint(tmp_path, 5, RUN)
    checkpoint(tmp_path, 10, None)
    other = RUN | {"settings": {"learning_rate": 0.002, "lora_r": 8}, "training data": "b" * 64, "versions": {"torch": "2.14.0"}}
    with pytest.raises(UserError) as refusal:
        checkpoints.newest(tmp_path, other)
    assert str(refusal.value) == (
        f"checkpoints in {tmp_path}: checkpoint-5 was made with learning_rate 0.001 (now 0.002), torch 2.13.0 (now 2.14.0), "
        f"training data aaaaaaaaaaaa (now bbbbbbbbbbbb). Set it back to go on with that run, or delete the folder {tmp_path} to start afresh."
    )
    assert folder.is_dir() and checkpoints.newest(tmp_path, RUN) == folder


def test_a_refusal_names_added_parameters_and_stays_one_sentence_of_changes():
    assert checkpoints.changes({"device": "cpu"}, {"device": "cpu", "settings": {"tuning": "lora"}}) == "tuning not set (now lora)"
    many = {f"p{i}": 0 for i in range(8)}
    assert checkpoints.changes(many, dict.fromkeys(many, 1)).endswith("p4 0 (now 1) and 3 more changes")


def test_what_went_through_json_is_the_same_run(tmp_path):
    """Parameters come as tuples and numpy numbers here and as lists and numbers from the manifest."""
    folder = checkpoint(tmp_path, 5, RUN | {"settings": {"tasks": ("a", "b"), "path": tmp_path}})
    assert checkpoints.newest(tmp_path, RUN | {"settings": {"tasks": ["a", "b"], "path": str(tmp_path)}}) == folder
