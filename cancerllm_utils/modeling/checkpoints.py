"""Checkpoints that survive a crash in the middle of a save, and never resume silently different.

The Trainer's save is not atomic: killed at a bad moment it leaves a folder that loads without an optimizer or RNG state and trains on,
differently. So a manifest (identity of the run, size and sha256 of every file) is written last, and a run resumes only from a folder that
matches its manifest. A Trainer checkpoint holds pickles: only folders that this run's own manifest vouches for are ever opened.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

from cancerllm_utils.modeling.models import sha256

MANIFEST = "manifest.json"


def identity(settings: dict) -> str:
    """One digest over everything that decides what a run computes: parameters, data digests, versions. Key order does not matter."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def flush_to_disk(path: Path) -> None:
    """fsync of a file or folder, so that a manifest never reaches the disk before what it lists."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def seal(folder: Path, run_identity: str) -> None:
    """Write the manifest of a finished checkpoint folder: the last file to appear in it, and flushed."""
    folder = Path(folder)
    files = sorted(f for f in folder.rglob("*") if f.is_file() and f.name != MANIFEST)
    listing = {}
    for file in files:
        flush_to_disk(file)
        listing[str(file.relative_to(folder))] = [file.stat().st_size, sha256(file)]
    draft = folder / (MANIFEST + ".draft")
    draft.write_text(json.dumps({"identity": run_identity, "files": listing}, indent=1))
    flush_to_disk(draft)
    draft.replace(folder / MANIFEST)
    flush_to_disk(folder)


def matches(folder: Path, run_identity: str) -> bool:
    """True if the folder is whole: its manifest parses, is of this run, and every listed file has the size and digest it had when sealed."""
    try:
        manifest = json.loads((Path(folder) / MANIFEST).read_text())
        return manifest["identity"] == run_identity and all(
            (Path(folder) / name).stat().st_size == size and sha256(Path(folder) / name) == digest
            for name, (size, digest) in manifest["files"].items()
        )
    except (OSError, ValueError, KeyError):
        return False


def newest(root: Path, run_identity: str) -> Path | None:
    """The newest checkpoint under `root` that this run may resume from, or None (start afresh).

    Newer folders that do not match (torn by a crash, or of other parameters, data or versions) are removed, and a line says so: the
    Trainer would count them among the checkpoints it keeps.
    """
    folders = sorted(Path(root).glob("checkpoint-*"), key=lambda f: int(f.name.split("-")[-1]), reverse=True)
    found = next((f for f in folders if matches(f, run_identity)), None)
    dropped = [f for f in folders if f != found and (found is None or not matches(f, run_identity))]
    for folder in dropped:
        shutil.rmtree(folder)
    if dropped:
        print(f"checkpoints: {len(dropped)} incomplete or of other parameters, data or versions, removed")
    print(f"checkpoints: continuing from {found.name}" if found else "checkpoints: none to continue from, starting afresh")
    return found
