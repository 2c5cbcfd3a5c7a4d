"""Checkpoints that survive a crash in the middle of a save, and never resume silently different.

The Trainer's save is not atomic: killed at a bad moment it leaves a folder that loads without an optimizer or RNG state and trains on,
differently. So a manifest is written last: what decides the run (parameters, data, versions, device), how far it was, size and sha256 of
every file. A run resumes only from a folder that is whole and of the same run. A Trainer checkpoint holds pickles: only folders that this
run's own manifest vouches for, file by file, are ever opened.
"""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

from cancerllm_utils.errors import UserError
from cancerllm_utils.modeling.models import sha256

MANIFEST = "manifest.json"
STATE = "trainer_state.json"  # the Trainer's own name
SHOWN = 5  # changes that a refusal names


def identity(parts: dict) -> str:
    """One digest over everything that decides what a run computes: parameters, data digests, versions. Key order does not matter."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def flush_to_disk(path: Path) -> None:
    """fsync of a file or folder, so that a manifest never reaches the disk before what it lists."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def contents(folder: Path) -> list[Path]:
    """Every file of a checkpoint folder but its manifest, sorted."""
    return sorted(f for f in folder.rglob("*") if not f.is_dir() and f.name not in (MANIFEST, MANIFEST + ".draft"))


def seal(folder: Path, parts: dict, progress: dict | None = None) -> None:
    """Write the manifest of a finished checkpoint folder: the last file to appear in it, and flushed.

    `parts`: what decides the run, name -> value (JSON types, one level of nesting). `progress`: how far it was and how it ran (seconds,
    batch sizes), which a resumed run reads but is not refused for.
    """
    folder = Path(folder)
    listing = {}
    for file in contents(folder):
        flush_to_disk(file)
        listing[str(file.relative_to(folder))] = [file.stat().st_size, sha256(file)]
    for inner in (f for f in folder.rglob("*") if f.is_dir()):
        flush_to_disk(inner)
    manifest = {"identity": identity(parts), "parts": parts, "progress": progress or {}, "files": listing}
    draft = folder / (MANIFEST + ".draft")
    draft.write_text(json.dumps(manifest | {"digest": identity(manifest)}, indent=1, default=str))
    flush_to_disk(draft)
    draft.replace(folder / MANIFEST)
    flush_to_disk(folder)
    flush_to_disk(folder.parent)


def read(folder: Path) -> dict | None:
    """The manifest of a whole checkpoint (keys identity, parts, progress, files), or None.

    Whole: the manifest has the digest it was written with, it lists every file there and no other (a planted file could be loaded in place
    of a listed one), and every file has its size and sha256.
    """
    folder = Path(folder)
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        digest = manifest.pop("digest")
        files = {str(f.relative_to(folder)): f for f in contents(folder)}
        whole = digest == identity(manifest) and set(files) == set(manifest["files"]) and all(
            files[name].stat().st_size == size and sha256(files[name]) == found for name, (size, found) in manifest["files"].items()
        )
        return manifest if whole else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def progress(folder: Path) -> dict:
    """How far the run was at a checkpoint that `newest` has found whole."""
    return json.loads((folder / MANIFEST).read_text())["progress"]


def best_of(folder: Path) -> Path:
    """The checkpoint with the lowest dev loss so far, which a run that goes on from `folder` loads at its end (`folder` itself if none)."""
    best = json.loads((folder / STATE).read_text()).get("best_global_step") if (folder / STATE).is_file() else None
    return folder.with_name(f"checkpoint-{best}") if best else folder


def newest(root: Path, parts: dict) -> Path | None:
    """The newest checkpoint under `root` that this run may resume from, or None (start afresh).

    Passed over: a folder that is not whole, and one whose best checkpoint so far is not whole: the run would end with other weights. These
    are removed and a line says so, since the Trainer would count them among the checkpoints it keeps. A whole checkpoint with another
    identity raises UserError, which names what changed: a run's work is neither thrown away nor continued as another run.
    """
    folders = {int(f.name.split("-")[1]): f for f in Path(root).glob("checkpoint-*") if f.is_dir() and re.fullmatch(r"checkpoint-\d+", f.name)}
    manifests = {folder: read(folder) for _, folder in sorted(folders.items(), reverse=True)}
    for folder, manifest in manifests.items():
        if manifest and manifest["identity"] != identity(parts):
            raise UserError(f"checkpoints in {root}: {folder.name} was made with {changes(manifest['parts'], parts)}. "
                            f"Set it back to go on with that run, or delete the folder {root} to start afresh.")
    found = next((folder for folder, manifest in manifests.items() if manifest and manifests.get(best_of(folder))), None)
    newer = [folder for folder in manifests if found is None or int(folder.name.split("-")[1]) > int(found.name.split("-")[1])]
    dropped = [folder for folder, manifest in manifests.items() if folder in newer or not manifest]
    for folder in dropped:
        shutil.rmtree(folder)
    if dropped:
        print(f"checkpoints: {', '.join(folder.name for folder in dropped)} incomplete or damaged, removed")
    print(f"checkpoints: continuing from {found.name}" if found else "checkpoints: none to continue from, starting afresh")
    return found


def changes(old: dict, new: dict) -> str:
    """What differs between two runs' parts: "learning_rate 0.001 (now 0.002), torch 2.12 (now 2.13)". Digests are cut to 12 characters."""
    old, new = flat(json.loads(json.dumps(old, default=str))), flat(json.loads(json.dumps(new, default=str)))
    names = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    shown = [f"{name} {short(old.get(name, 'not set'))} (now {short(new.get(name, 'not set'))})" for name in names[:SHOWN]]
    return ", ".join(shown) + (f" and {len(names) - SHOWN} more changes" if len(names) > SHOWN else "")


def flat(parts: dict) -> dict:
    """One level of nesting taken out: {"versions": {"torch": "2"}, "device": "cpu"} -> {"torch": "2", "device": "cpu"}."""
    nested = [value for value in parts.values() if isinstance(value, dict)]
    return {name: value for name, value in parts.items() if not isinstance(value, dict)} | {k: v for inner in nested for k, v in inner.items()}


def short(value) -> str:
    """A value as a message shows it."""
    text = str(value)
    return text[:12] if re.fullmatch(r"(sha256:)?[0-9a-f]{64}", text) else text[:80]
