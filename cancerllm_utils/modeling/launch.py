"""The training functions over several processes: `accelerate launch` starts them, the notebook's call stays the same.

How the processes share the work is an accelerate configuration, a file of params/shared/accelerate/. Two traps are closed here:
- `accelerate launch --cpu --num_processes 2`, and a configuration of the type MULTI_CPU, run **one** process without a word: accelerate
  leaves counting to mpirun there. The type MULTI_GPU starts as many as asked for, on any machine, and ACCELERATE_USE_CPU=true in their
  environment makes them talk over gloo. Every process compares the number with what was asked for.
- Without a CUDA card accelerate ignores an FSDP configuration without a word and trains whole copies. That is refused.
"""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import pandas as pd
import torch
import yaml

from cancerllm_utils import paths
from cancerllm_utils.errors import UserError
from cancerllm_utils.modeling.guards import SmallerBatch

CONFIGS = paths.ROOT / "params" / "shared" / "accelerate"


def needed(num_processes: int, accelerate_config: str = "") -> bool:
    """True in a notebook that asks for several processes, False in a process that a launcher has started.

    Raises UserError where the configuration and the number of processes, or the machine, do not go together.
    """
    if "LOCAL_RANK" in os.environ:
        return False
    read_config(num_processes, accelerate_config)
    return num_processes > 1


def read_config(num_processes: int, accelerate_config: str = "") -> tuple[Path, dict]:
    """(file, content) of the named accelerate configuration, "" being `single` for one process and `ddp` for several.

    Raises UserError for an unknown name, a name that does not fit the number of processes, a missing library or missing hardware.
    """
    name = accelerate_config or ("single" if num_processes == 1 else "ddp")
    known = sorted(file.stem for file in CONFIGS.glob("*.yaml"))
    if name not in known:
        raise UserError(f"accelerate_config {name}: unknown. Use one of {', '.join(known)}.")
    content = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    kind, cards = content["distributed_type"], torch.cuda.device_count()
    if (num_processes == 1) != (kind == "NO"):
        remedy = 'Set accelerate_config: "".' if num_processes == 1 else "Use ddp, fsdp or deepspeed_zero3."
        raise UserError(f"accelerate_config {name}: does not fit num_processes {num_processes}. {remedy}")
    if kind == "DEEPSPEED" and not find_spec("deepspeed"):
        raise UserError(f"accelerate_config {name}: the library deepspeed is not installed. Run `pip install deepspeed`, or use fsdp.")
    if kind in ("FSDP", "DEEPSPEED") and not cards:
        raise UserError(f"accelerate_config {name}: the model is cut over CUDA cards and there is none here. Use ddp.")
    if cards and cards < num_processes:
        raise UserError(f"num_processes {num_processes}: {cards} CUDA card(s) visible. Lower num_processes and raise gradient_accumulation_steps.")
    return CONFIGS / f"{name}.yaml", content


def main_process() -> bool:
    """True in the one process that prints and scores."""
    return int(os.environ.get("RANK", 0)) == 0


def whole_weights(trainer) -> dict | None:
    """Trained weights gathered from all processes on the CPU, for `save_pretrained(..., state_dict=...)`; None where the model is whole anyway.

    Every process must call it. Under ZeRO-3 the weights come in 16 bits, as DeepSpeed keeps them; frozen weights are not gathered.
    """
    if trainer.is_deepspeed_enabled:
        return trainer.deepspeed._zero3_consolidated_16bit_state_dict(exclude_frozen_parameters=True)
    if not trainer.is_fsdp_enabled:
        return None
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    return get_model_state_dict(trainer.model, options=StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True))


def command(config: Path, num_processes: int, program: list[str]) -> list[str]:
    """The command line that starts `program` (a script, or -m and a module, with its arguments) in `num_processes` processes on a free port."""
    return [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config), "--num_processes", str(num_processes),
            "--main_process_port", "0", *program]


def environment(num_processes: int) -> dict[str, str]:
    """The environment of the processes: this one's, its threads shared among them (or OMP_NUM_THREADS), gloo where there is no card."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // num_processes))
    cpu = {} if torch.cuda.is_available() else {"ACCELERATE_USE_CPU": "true"}
    return os.environ | {"OMP_NUM_THREADS": threads, "PYTHONWARNINGS": "ignore"} | cpu


def in_processes(function: str, num_processes: int, arguments: dict, accelerate_config: str = "") -> dict:
    """`training.<function>(**arguments)` in `num_processes` processes, its lines printed as they come; returns what process 0 returned.

    The loss curve is that of one process with the same global batch (batch x accumulation x processes) as long as the rows fill the last
    batch: otherwise accelerate repeats rows there, so that every process has one. Raises the UserError that stopped a process, or one that
    says how the processes ended. The processes end with the notebook's kernel.
    """
    config, _ = read_config(num_processes, accelerate_config)
    with tempfile.TemporaryDirectory() as folder:
        call, answer = Path(folder) / "call.json", Path(folder) / "answer.json"
        call.write_text(json.dumps({"function": function, "num_processes": num_processes, "arguments": arguments}, default=str))
        starting = command(config, num_processes, ["-m", "cancerllm_utils.modeling.launch", str(call), str(answer)])
        messages = Path(folder) / "messages.txt"  # the launcher's own, a traceback for every process that stops: shown only where nothing else explains the end
        with open(messages, "w") as errors, subprocess.Popen(starting, cwd=paths.ROOT, env=environment(num_processes), stdout=subprocess.PIPE, stderr=errors,
                                                             text=True, preexec_fn=end_with_parent) as process:
            for line in process.stdout:
                print(line, end="", flush=True)
        outcome = json.loads(answer.read_text()) if answer.is_file() else {}
        if not outcome:
            print(messages.read_text(errors="replace")[-5000:])
    if "error" in outcome:
        raise UserError(outcome["error"])
    if "smaller" in outcome:
        raise SmallerBatch(*outcome["smaller"])
    if process.returncode or not outcome:
        raise UserError(f"{function}: the {num_processes} training processes ended with code {process.returncode}. Their messages stand above.")
    return {key: pd.read_json(StringIO(value["table"]), orient="split") if isinstance(value, dict) and "table" in value else value
            for key, value in outcome.items()}


def end_with_parent() -> None:
    """Linux: ask the kernel to end this process when its parent dies, so that a killed notebook leaves no training behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def answer_once(path: str, outcome: dict) -> None:
    """Write the outcome if no other process has: the first fault is the cause, the others follow from it."""
    with contextlib.suppress(FileExistsError), open(path, "x") as file:
        json.dump(outcome, file)


def main(call: str, answer: str) -> int:
    """One of the processes: run the function; process 0 writes its result, and a UserError is written by whoever meets it."""
    work = json.loads(Path(call).read_text())
    started, wanted = int(os.environ.get("WORLD_SIZE", 1)), work.get("num_processes", 1)
    if started != wanted:  # before anything is trained, or a lone process would launch again and again
        answer_once(answer, {"error": f"num_processes {wanted}: the launcher started {started}. Set num_processes: {started}, or mend its configuration."})
        return 2
    from cancerllm_utils.modeling import training

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    if not main_process():
        sys.stdout = open(os.devnull, "w")
    functions = {"continue_pretraining": training.continue_pretraining, "instruction_tune": training.instruction_tune}
    try:
        result = functions[work["function"]](**work["arguments"])
    except UserError as error:
        answer_once(answer, {"error": str(error)})
        return 2
    except SmallerBatch as smaller:
        answer_once(answer, {"smaller": smaller.args})
        return 2
    if main_process():
        tables = {key: {"table": value.to_json(orient="split")} for key, value in result.items() if isinstance(value, pd.DataFrame)}
        answer_once(answer, result | tables)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
