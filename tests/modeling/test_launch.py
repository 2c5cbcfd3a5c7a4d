"""The training functions over several processes: the same loss curve, the same adapter, and no configuration that is ignored in silence."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from safetensors.torch import load_file

from cancerllm_utils import paths
from cancerllm_utils.errors import UserError
from cancerllm_utils.modeling import launch, models, training

NAMES = ["ddp", "deepspeed_zero3", "fsdp", "single"]


@pytest.fixture(autouse=True)
def outside_of_a_launcher(monkeypatch):
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


# Configurations

@pytest.mark.parametrize("name", NAMES)
def test_accelerate_reads_every_configuration_as_meant(name):
    """Through accelerate's own parser: no unknown key, and the launcher that it leads to is the one that starts several processes."""
    file = launch.CONFIGS / f"{name}.yaml"
    config = load_config_from_file(str(file))
    line = launch.command(file, 2, ["program.py"])[3:]
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(line))
    assert (args.multi_gpu, args.use_fsdp, args.use_deepspeed) == (name == "ddp", name == "fsdp", name == "deepspeed_zero3")
    assert args.num_processes == 2 and args.main_process_port == 0 and not args.cpu and not args.use_cpu
    options = {action.dest for action in launch_command_parser()._actions}
    assert {key if key.startswith("fsdp_") else f"fsdp_{key}" for key in config.fsdp_config} <= options and set(config.deepspeed_config) <= options
    if name == "fsdp":
        assert (args.fsdp_version, args.fsdp_auto_wrap_policy, args.fsdp_cpu_ram_efficient_loading) == (2, "TRANSFORMER_BASED_WRAP", False)
    if name == "deepspeed_zero3":
        assert (args.zero_stage, args.gradient_accumulation_steps, args.zero3_save_16bit_model) == (3, "auto", True)


def test_all_configurations_are_listed():
    assert sorted(file.stem for file in launch.CONFIGS.glob("*.yaml")) == NAMES


def test_what_does_not_fit_is_refused_with_a_remedy(monkeypatch):
    assert launch.needed(2) and launch.needed(2, "ddp") and not launch.needed(1) and not launch.needed(1, "single")
    for number, name, message in ((2, "fdsp", "Use one of ddp, deepspeed_zero3, fsdp, single"), (1, "ddp", "does not fit num_processes 1"),
                                  (2, "single", "does not fit num_processes 2"), (2, "deepspeed_zero3", "pip install deepspeed")):
        with pytest.raises(UserError, match=message):
            launch.needed(number, name)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match="fsdp: the model is cut over CUDA cards and there is none here"):
        launch.needed(2, "fsdp")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert launch.needed(4, "fsdp")
    with pytest.raises(UserError, match=r"num_processes 8: 4 CUDA card\(s\) visible"):
        launch.needed(8, "fsdp")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert not launch.needed(8, "fsdp")  # already inside


def test_a_launcher_that_starts_another_number_is_noticed(tmp_path):
    """What `accelerate launch --cpu --num_processes 2` does: one process, which would otherwise launch two more, and so on."""
    call, answer = tmp_path / "call.json", tmp_path / "answer.json"
    call.write_text(json.dumps({"function": "continue_pretraining", "num_processes": 2, "arguments": {}}))
    assert launch.main(str(call), str(answer)) == 2
    assert "num_processes 2: the launcher started 1" in json.loads(answer.read_text())["error"]


ENDINGS = {
    "well": "json.dump({'steps': 3, 'scores': {'table': '{\"columns\":[\"loss\"],\"index\":[0],\"data\":[[1.5]]}'}}, open(answer, 'w'))",
    "refused": "json.dump({'error': 'max_length 9: too long. Lower it.'}, open(answer, 'w')); print('traceback of the launcher', file=sys.stderr); sys.exit(1)",
    "crashed": "print('the last words', file=sys.stderr, flush=True); os.kill(os.getpid(), 9)",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_how_the_processes_ended_is_told_once(ending, monkeypatch, capfd):
    """A refusal is one sentence without the launcher's traceback; a crash shows the last messages; tables come back as tables."""
    program = f"import json, os, sys; answer = sys.argv[-1]; print('a line', flush=True); {ENDINGS[ending]}"
    monkeypatch.setattr(launch, "command", lambda config, number, arguments: [sys.executable, "-c", program, *arguments])
    if ending == "well":
        result = launch.in_processes("continue_pretraining", 2, {})
        assert result["steps"] == 3 and result["scores"]["loss"].tolist() == [1.5]
    else:
        with pytest.raises(UserError, match="max_length 9: too long" if ending == "refused" else "2 training processes ended with code -9"):
            launch.in_processes("continue_pretraining", 2, {})
    shown = capfd.readouterr()
    assert shown.out == "a line\n" + ("the last words\n\n" if ending == "crashed" else "") and not shown.err


# Two processes

CPT = {"max_length": 64, "precision": "fp32", "learning_rate": 1e-2, "lora_dropout": 0.0, "logging_steps": 1, "eval_tokens": 200, "eval_splits": ["dev"], "save_steps": 0.5}


def test_one_process_two_and_shards_learn_the_same(tiny_model_dir, tiny_run, monkeypatch, capfd):
    """The same 4 rows a step, over one process, two copies, and two halves (FSDP): one loss curve, one adapter, one held-out loss."""
    runs, done = {}, {}
    for name in ("one", "copies", "halves"):
        runs[name] = tiny_run / name
        shutil.copytree(tiny_run / "corpus", runs[name] / "corpus")
    done["one"] = training.continue_pretraining(runs["one"], tiny_model_dir, per_device_train_batch_size=4, **CPT)
    done["copies"] = training.continue_pretraining(runs["copies"], tiny_model_dir, per_device_train_batch_size=2, num_processes=2, **CPT)
    capfd.readouterr()
    command = launch.command
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(launch, "command", lambda config, number, program: command(config, number, [str(Path(__file__).with_name("gloo_worker.py")), *program[2:]]))
    monkeypatch.setenv("PYTHONPATH", str(paths.ROOT))
    done["halves"] = training.continue_pretraining(runs["halves"], tiny_model_dir, per_device_train_batch_size=2, num_processes=2, accelerate_config="fsdp", **CPT)
    assert "held 0.5" in capfd.readouterr().out  # the wish was not ignored
    curves = {name: pd.read_csv(run / "results" / "learning_curve.csv") for name, run in runs.items()}
    adapters = {name: load_file(Path(outcome["model_dir"]) / models.ADAPTER) for name, outcome in done.items()}
    held_out = {name: pd.read_csv(run / "results" / "cpt.csv").query("split == 'dev' and subgroup == 'all'").sort_values("when")["loss"].to_numpy() for name, run in runs.items()}
    assert done["one"]["steps"] >= 3 and (curves["one"]["loss"].diff().dropna().abs() > 1e-3).all()
    for name in ("copies", "halves"):
        assert done[name]["steps"] == done["one"]["steps"] and done[name]["tokens"] == done["one"]["tokens"]  # no row repeated
        assert curves[name]["loss"].to_numpy() == pytest.approx(curves["one"]["loss"].to_numpy(), abs=1e-4)
        assert held_out[name] == pytest.approx(held_out["one"], abs=1e-4) and len(held_out[name]) >= 2
        assert adapters[name].keys() == adapters["one"].keys()
        assert all(torch.allclose(weights, adapters["one"][key], atol=1e-4) for key, weights in adapters[name].items())


# The benchmark for cards

def test_the_benchmark_for_cards_runs_on_a_toy_and_refuses_without_a_card(monkeypatch, capsys, tmp_path):
    spec = importlib.util.spec_from_file_location("bench_gpu", paths.ROOT / "tests" / "bench" / "bench_gpu.py")
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench.main() == 2 and "No CUDA card" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py", "--tiny", "--out", str(tmp_path / "gpu.csv")])
    monkeypatch.setattr(bench, "ROWS", [bench.CPT | bench.PLAIN, bench.SFT | bench.PLAIN | {"loss": "whole logits"}, bench.SFT | bench.PLAIN | {"attention": bench.FLASH}])
    assert bench.main() == 0
    table = pd.read_csv(tmp_path / "gpu.csv")
    assert (table.loc[:1, "tokens_per_second"] > 0).all() and table.loc[2, "note"] == "flash attention needs a CUDA card"
    assert {"date", "device", "torch", "length", "workload", "attention", "packing", "checkpointing", "loss", "share_of_peak_4n", "peak_memory_gib"} <= set(table)
