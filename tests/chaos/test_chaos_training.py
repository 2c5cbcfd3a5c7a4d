"""Training under fire: killed anywhere, with damaged checkpoints, numbers that are not finite, memory that ends: never another result, never a traceback.

CANCERLLM_CHAOS_KILLS says at how many points a run is killed (4 unless told); from 24 on every file of a checkpoint is damaged in every way too.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from jupyter_client import KernelManager

N_KILLS = int(os.environ.get("CANCERLLM_CHAOS_KILLS", "4"))
THOROUGH = N_KILLS >= 24
only_thorough = pytest.mark.skipif(not THOROUGH, reason="make chaos")
WORKER = Path(__file__).with_name("training_worker.py")
HOWS = ["before", "torn", "unsynced"]
DAMAGES = {
    "missing": lambda file: file.unlink(),
    "half": lambda file: os.truncate(file, file.stat().st_size // 2),
    "zeroed": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "flipped bit": lambda file: file.write_bytes((whole := file.read_bytes())[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 4]) + whole[len(whole) // 2 + 1 :]),
}
FILES = ["adapter_config.json", "adapter_model.safetensors", "manifest.json", "optimizer.pt", "rng_state.pth", "scheduler.pt", "trainer_state.json",
         "training_args.bin", "tokenizer.json", "tokenizer_config.json", "README.md"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def run(root):
    """run(name, stage, **case) -> how it ended; one process imports the libraries once and forks every run (training_worker)."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(WORKER.parents[2])}
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE"):
        environment.pop(name, None)
    with subprocess.Popen([sys.executable, str(WORKER), str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as worker:

        def one(name: str, stage: str, **case) -> dict:
            worker.stdin.write(json.dumps({"name": name, "stage": stage, **case}) + "\n")
            worker.stdin.flush()
            ended = json.loads(worker.stdout.readline())
            assert "Traceback" not in ended["log"], ended["log"]
            return ended

        yield one
        worker.stdin.close()


@pytest.fixture(scope="module")
def whole(run):
    """The unbroken runs that every other must end like."""
    ended = {stage: run(f"whole-{stage}", stage) for stage in ("cpt", "sft")}
    assert all(one["codes"] == [0] and one["adapter"] for one in ended.values()), ended
    return ended


def same(ended: dict, unbroken: dict) -> bool:
    """True if a run ended with the bit-identical adapter and the same learning curve."""
    return ended["codes"] == [0] and (ended["adapter"], ended["curve"]) == (unbroken["adapter"], unbroken["curve"])


# Killed

def kill_points(whole: dict) -> list[tuple[str, int, str]]:
    """(stage, event, how), spread evenly over everything that both runs do, from the first file to the last."""
    points = []
    for number in range(N_KILLS):
        stage = ("cpt", "sft")[number % 2]
        events = len(whole[stage]["events"])
        points.append((stage, 1 + round((number + 0.5) / N_KILLS * (events - 1)), HOWS[number % 3]))
    return points


def test_killed_anywhere_a_run_goes_on_to_the_same_weights(run, whole):
    """kill -9 at files and steps, with packing, accumulation and dropout; also with the last file torn, or all lost that was not flushed."""
    seen, wrong = Counter(), []
    for stage, at, how in kill_points(whole):
        name, event = f"killed-{stage}-{at}-{how}", whole[stage]["events"][at - 1]
        killed = run(name, stage, kill={"at": at, "how": how})
        ended = run(name, stage)
        seen[how, "step" if event.split()[0] in ("begin", "step", "micro-batch") else "file"] += 1
        if killed["codes"] != [-9] or not same(ended, whole[stage]):
            wrong.append((name, event, killed["codes"], ended["message"]))
    print(f"kill -9: {N_KILLS} points, {N_KILLS - len(wrong)} ended bit-identical; {dict(seen)}")
    assert not wrong


@only_thorough
def test_a_run_that_is_killed_again_and_again_arrives(run, whole):
    """Every sitting is killed a little later than the one before; the last is let through."""
    killed = [run("again", "sft", kill={"at": at, "how": "torn"})["codes"] == [-9] for at in range(50, 210, 20)]
    assert same(run("again", "sft"), whole["sft"]) and sum(killed) >= 3


def test_killed_after_the_last_step_no_step_is_added(run, whole):
    """Two and a half epochs: the Trainer itself would go on with the third."""
    at = 1 + next(i for i, event in enumerate(whole["cpt"]["events"]) if " models/" in event)
    assert run("complete", "cpt", kill={"at": at, "how": "before"})["codes"] == [-9]
    ended = run("complete", "cpt")
    assert same(ended, whole["cpt"]) and "continuing from checkpoint-10" in ended["log"]


@only_thorough
def test_loading_in_other_processes_changes_nothing(run, whole):
    assert run("workers", "cpt", workers=2, kill={"at": 75, "how": "before"})["codes"] == [-9]
    assert same(run("workers", "cpt", workers=2), whole["cpt"])


# Damaged

@pytest.fixture(scope="module")
def halted(run, whole, root):
    """A run of each stage that was killed late, cpt before its last step, sft after it: the names of its three checkpoints, oldest first."""
    kept = {}
    for stage, event in (("cpt", "begin 10"), ("sft", "shutil.rmtree models")):
        at = 1 + next(i for i, seen in enumerate(whole[stage]["events"]) if seen.startswith(event))
        ended = run(f"halted-{stage}", stage, kill={"at": at, "how": "before"})
        kept[stage] = sorted(ended["kept"], key=lambda name: int(name.split("-")[1]))
        assert len(kept[stage]) == 3
    return kept


def damaged(root: Path, stage: str, names: list[str], file: str, damage: str, to: str) -> bool:
    """A copy of the halted run with that file of those checkpoints damaged; False if there is no such file."""
    shutil.copytree(root / f"halted-{stage}", root / to)
    files = [found for name in names for found in (root / to / "checkpoints").rglob(f"{name}/{file}")]
    for found in files:
        DAMAGES[damage](found)
    return bool(files)


@pytest.mark.parametrize("damage", DAMAGES if THOROUGH else ["flipped bit"])
@pytest.mark.parametrize("file", FILES if THOROUGH else ["optimizer.pt"])
def test_a_damaged_checkpoint_is_passed_over(run, whole, halted, root, file, damage):
    for stage in whole if THOROUGH else ["cpt"]:
        name = f"damaged-{stage}-{file}-{damage}".replace(" ", "-")
        assert damaged(root, stage, halted[stage][-1:], file, damage, name), f"no {file} in a checkpoint"
        ended = run(name, stage)
        assert same(ended, whole[stage]), ended["log"]
        assert f"{halted[stage][-1]} incomplete or damaged, removed" in ended["log"] and f"continuing from {halted[stage][-2]}" in ended["log"]


def test_every_file_of_a_checkpoint_is_damaged_in_turn(halted, root):
    """The list above is whole: a library that writes another file is noticed here."""
    for stage, names in halted.items():
        found = next((root / f"halted-{stage}" / "checkpoints").rglob(names[-1]))
        assert sorted(path.name for path in found.iterdir()) == sorted(FILES)


def test_with_no_whole_checkpoint_left_a_run_starts_afresh(run, whole, halted, root):
    damaged(root, "sft", halted["sft"], "manifest.json", "half", "all-damaged")
    ended = run("all-damaged", "sft")
    assert same(ended, whole["sft"]) and "starting afresh" in ended["log"]


@pytest.mark.parametrize("damage", DAMAGES if THOROUGH else ["half"])
def test_a_damaged_best_checkpoint_does_not_cost_the_best_weights(run, whole, halted, root, damage):
    name = f"best-{damage}".replace(" ", "-")
    state = next((root / "halted-sft").rglob(f"{halted['sft'][-1]}/trainer_state.json"))
    best = f"checkpoint-{json.loads(state.read_text())['best_global_step']}"
    assert best != halted["sft"][-1]
    damaged(root, "sft", [best], "adapter_model.safetensors", damage, name)
    ended = run(name, "sft")
    assert same(ended, whole["sft"]) and best in ended["log"]


def test_another_runs_checkpoints_are_refused_and_kept(run, whole, halted):
    ended = run("refused", "cpt", copy="halted-cpt", changed={"learning_rate": 0.02})
    assert ended["codes"] == [2] and "was made with learning_rate 0.01 (now 0.02). Set it back" in ended["message"] and ended["kept"] == halted["cpt"]
    assert same(run("refused", "cpt", changed={"logging_steps": 1, "logging_seconds": 60.0, "eval_tokens": 100}) | {"curve": whole["cpt"]["curve"]}, whole["cpt"])


# Not finite

@pytest.mark.parametrize("what, stage, step", [(what, stage, step) for step in (1, 3, 4, 6, 8, 10) for what, stage in (("loss", "cpt"), ("gradient", "cpt"), ("loss", "sft"))]
                         if THOROUGH else [("loss", "cpt", 5), ("gradient", "sft", 4)])
def test_a_step_that_is_not_finite_stops_and_the_run_can_go_on(run, whole, what, stage, step):
    name = f"poison-{what}-{stage}-{step}"
    ended = run(name, stage, poison={"what": what, "step": step})
    word, letter = {"loss": "loss", "gradient": "gradient norm"}[what], {"cpt": "n", "sft": "e"}[stage]
    assert ended["codes"] == [2] and f"UserError: training step {step}: the {word} is not finite in examples {letter}" in ended["message"]
    assert ended["kept"] == [f"checkpoint-{saved}" for saved in (3, 6, 9) if saved < step][-3:] and not ended["adapter"]
    assert same(run(name, stage), whole[stage])  # what was kept is good: without the fault the run ends as if it had never been


# Asked to stop, and out of memory

@pytest.mark.parametrize("event", ["begin 5", "micro-batch", "os.rename checkpoints", "step 10"] if THOROUGH else ["begin 5"])
def test_sigterm_saves_at_the_next_step_and_the_run_goes_on(run, whole, event):
    at = 1 + next(i for i, label in enumerate(whole["cpt"]["events"]) if label.startswith(event))
    name = f"asked-{event.split('/')[0].replace(' ', '-')}"
    ended = run(name, "cpt", signal=at)
    assert ended["codes"] == [2] and not ended["adapter"] and "UserError: model cpt: stopped by SIGTERM at step" in ended["message"]
    assert f"checkpoint-{ended['message'].split('at step ')[1].split(' ')[0]}" in ended["kept"]
    assert same(run(name, "cpt") | {"curve": whole["cpt"]["curve"]}, whole["cpt"])  # the curve has one point more, where it stopped


@only_thorough
def test_sigterm_to_a_notebooks_kernel_stops_its_cell_with_the_sentence(run, root, tmp_path):
    """As when papermill or Snakemake is stopped: the kernel runs the cell in its main thread, where the signal is noted."""
    run("made", "cpt", kill={"at": 1, "how": "before"})  # the model and the notes are there from now on
    shutil.copytree(root / "base" / "run", tmp_path / "run")
    manager = KernelManager(transport="ipc", ip=str(tmp_path / "k"))
    manager.start_kernel(env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(WORKER.parents[2])})
    client = manager.blocking_client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=600)
        client.execute("from cancerllm_utils.modeling import training\n"
                       f"training.instruction_tune({str(tmp_path / 'run')!r}, {str(root / 'base' / 'model')!r}, stage='sft', max_length=256, num_train_epochs=300.0, logging_seconds=0.0)")
        asked, content = False, {}
        while "ename" not in content:
            content = client.get_iopub_msg(timeout=600)["content"]
            if not asked and "step 3/" in content.get("text", ""):
                os.kill(manager.provisioner.pid, signal.SIGTERM)
                asked = True
        assert content["ename"] == "UserError" and "stopped by SIGTERM at step" in content["evalue"] and manager.is_alive()
        assert len(list((tmp_path / "run").rglob("manifest.json"))) == 1
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


PLAIN = {"packing": False, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "num_train_epochs": 1.0}


def test_where_memory_ends_the_batch_is_halved_and_the_run_goes_on(run):
    ended = run("memory", "sft", memory=2, changed=PLAIN)
    assert ended["codes"] == [0] and ended["log"].count("continuing from checkpoint-3") == 2
    for batch, accumulation in ((2, 2), (1, 4)):
        assert f"out of memory at step 5 with a batch of {2 * batch}; going on with per_device_train_batch_size {batch}, gradient_accumulation_steps {accumulation}" in ended["log"]
    steps = [event for event in ended["events"] if event.startswith("step ")]
    assert steps[-1] == "step 8" and len(steps) == 4 + 1 + 5  # 30 examples, eight steps of four; step 4 was done three times


@only_thorough
def test_a_run_with_halved_batches_goes_on_with_them(run):
    """Memory has come back after the kill, but other batches would draw other dropout."""
    ended = run("memory-whole", "sft", memory=2, changed=PLAIN)
    at = 1 + ended["events"].index("begin 7")
    assert run("memory-killed", "sft", memory=2, changed=PLAIN, kill={"at": at, "how": "before"})["codes"] == [-9]
    again = run("memory-killed", "sft", changed=PLAIN)
    assert "was made with a batch of 1; going on with per_device_train_batch_size 1, gradient_accumulation_steps 4" in again["log"] and same(again, ended)


def test_where_memory_ends_at_one_row_the_run_says_what_to_lower(run):
    ended = run("no-memory", "cpt", memory=1)
    assert ended["codes"] == [2] and ended["kept"] == ["checkpoint-3"]
    assert "out of memory at step 5 with a batch of 1. Lower max_length, or set gradient_checkpointing: true." in ended["message"]


# Two processes

def test_one_of_two_processes_that_is_not_finite_stops_both(run):
    ended = run("two-poison", "cpt", processes=2, poison={"what": "loss", "step": 4})
    assert ended["codes"] == [2, 2] and ended["kept"] == ["checkpoint-3"] and ended["log"].count("training step 4: the loss is not finite in examples n") == 2


@only_thorough
def test_one_of_two_processes_that_is_asked_to_stop_stops_both_at_the_same_step(run):
    unbroken = run("two", "cpt", processes=2)
    assert unbroken["codes"] == [0, 0]
    ended = run("two-asked", "cpt", processes=2, signal=7)
    step = ended["message"].split("stopped by SIGTERM at step ")[1].split(" of 5")[0]
    assert ended["codes"] == [2, 2] and ended["log"].count(f"stopped by SIGTERM at step {step} of 5") == 2 and ended["kept"] == [f"checkpoint-{step}"]
    again = run("two-asked", "cpt", processes=2)
    assert again["codes"] == [0, 0] and again["adapter"] == unbroken["adapter"]


LAUNCHED = """
import sys
sys.path.insert(0, sys.argv[1])
import training_worker as worker
try:
    worker.training.continue_pretraining(sys.argv[2], sys.argv[3], num_processes=2, **worker.BOTH | worker.SETTINGS["cpt"] | {"num_train_epochs": 20.0})
except worker.UserError as error:
    sys.exit(f"UserError: {error}")
"""


def launched(root: Path, folder: Path) -> subprocess.Popen:
    """The same run started as a notebook starts it, through the launcher."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(WORKER.parents[2])}
    return subprocess.Popen([sys.executable, "-c", LAUNCHED, str(WORKER.parent), str(folder), str(root / "base" / "model")], env=environment, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)


def wait_for(condition) -> None:
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.1)
    raise TimeoutError


@only_thorough
def test_a_launched_run_survives_the_death_of_a_process_and_of_the_notebook(run, root):
    unbroken = run("two-long", "cpt", processes=2, changed={"num_train_epochs": 20.0})
    folder = root / "launched"
    shutil.copytree(root / "base" / "run", folder)
    with launched(root, folder) as notebook:
        wait_for(lambda: list(folder.rglob("checkpoint-3/manifest.json")))
        second = next(p for p in psutil.Process(notebook.pid).children(recursive=True) if p.environ().get("LOCAL_RANK") == "1")
        second.kill()
        text = notebook.communicate(timeout=600)[0]
        assert notebook.returncode == 1 and "UserError: continue_pretraining: the 2 training processes ended with code" in text
    with launched(root, folder) as notebook:
        wait_for(lambda: list(folder.rglob("checkpoint-12/manifest.json")))
        workers = [p for p in psutil.Process(notebook.pid).children(recursive=True) if p.environ().get("LOCAL_RANK")]
        notebook.terminate()  # its processes are told, save at their next step and end
        assert len(workers) == 2 and not psutil.wait_procs(workers, timeout=300)[1]
        assert max(int(f.parent.name.split("-")[1]) for f in folder.rglob("manifest.json")) >= 12 and not list(folder.rglob("models/*/cpt"))
    with launched(root, folder) as notebook:
        text = notebook.communicate(timeout=600)[0]
        assert notebook.returncode == 0 and "continuing from checkpoint-" in text, text
    assert hashlib.sha256((folder / "models" / "model" / "cpt" / "adapter_model.safetensors").read_bytes()).hexdigest() == unbroken["adapter"]


@only_thorough
def test_whole_weights_are_as_safe_as_adapters(run):
    changed = {"tuning": "full", "learning_rate": 0.01}
    unbroken = run("full", "sft", changed=changed)
    assert unbroken["adapter"]
    for number, (share, how) in enumerate([(0.3, "torn"), (0.5, "unsynced"), (0.7, "before"), (0.9, "torn")]):
        assert run(f"full-{number}", "sft", changed=changed, kill={"at": round(share * len(unbroken["events"])), "how": how})["codes"] == [-9]
        assert same(run(f"full-{number}", "sft", changed=changed), unbroken)
