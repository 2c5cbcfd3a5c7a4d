"""The training functions over several processes: the same loss curve, the same adapter, and no configuration that is ignored in silence."""

import json

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

from cancerllm_utils.errors import UserError
from cancerllm_utils.modeling import launch

NAMES = ["ddp", "deepspeed_zero3", "fsdp", "single"]
CPT = {"max_length": 64, "precision": "fp32", "learning_rate": 1e-2, "lora_dropout": 0.0, "per_device_train_batch_size": 4, "max_tokens": 1200, "logging_steps": 1,
       "eval_tokens": 400, "eval_splits": ["dev"], "save_steps": 0.5}


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
