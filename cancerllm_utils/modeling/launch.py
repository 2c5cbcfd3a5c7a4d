"""The training functions over several processes: torchrun starts them, the notebook's call stays the same.

`accelerate launch --cpu --num_processes 2` was seen to run one process without a word, so torchrun is used and the world size is asserted
(trainer.make_trainer).
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
from io import StringIO
from pathlib import Path

import pandas as pd
import torch

from cancerllm_utils import paths
from cancerllm_utils.errors import UserError


def needed(num_processes: int) -> bool:
    """True in a notebook that asks for several processes, False in a process that torchrun has started."""
    return num_processes > 1 and "LOCAL_RANK" not in os.environ


def main_process() -> bool:
    """True in the one process that prints and scores."""
    return int(os.environ.get("RANK", 0)) == 0


def in_processes(function: str, num_processes: int, arguments: dict) -> dict:
    """`training.<function>(**arguments)` in `num_processes` processes, its lines printed as they come; returns what process 0 returned.

    Raises the UserError that stopped a process, or one that says how the processes ended. The processes end with the notebook's kernel.
    """
    cuda = torch.cuda.is_available()
    if cuda and torch.cuda.device_count() < num_processes:
        raise UserError(f"num_processes {num_processes}: {torch.cuda.device_count()} CUDA card(s) visible. Lower num_processes and raise gradient_accumulation_steps.")
    with tempfile.TemporaryDirectory() as folder:
        call, answer = Path(folder) / "call.json", Path(folder) / "answer.json"
        call.write_text(json.dumps({"function": function, "arguments": arguments}, default=str))
        threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // num_processes))
        environment = os.environ | {"OMP_NUM_THREADS": threads} | ({} if cuda else {"ACCELERATE_USE_CPU": "true"})
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(num_processes),
                   "-m", "cancerllm_utils.modeling.launch", str(call), str(answer)]
        with subprocess.Popen(command, cwd=paths.ROOT, env=environment, stdout=subprocess.PIPE, text=True, preexec_fn=end_with_parent) as process:
            for line in process.stdout:
                print(line, end="", flush=True)
        outcome = json.loads(answer.read_text()) if answer.is_file() else {}
    if "error" in outcome:
        raise UserError(outcome["error"])
    if process.returncode or not outcome:
        raise UserError(f"{function}: the {num_processes} training processes ended with code {process.returncode}. Their messages stand above.")
    return {key: pd.read_json(StringIO(value["table"]), orient="split") if isinstance(value, dict) and "table" in value else value
            for key, value in outcome.items()}


def end_with_parent() -> None:
    """Linux: ask the kernel to end this process when its parent dies, so that a killed notebook leaves no training behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def main(call: str, answer: str) -> int:
    """One of the processes: run the function; process 0 writes its result, and a UserError is written by whoever meets it."""
    from cancerllm_utils.modeling import training

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if not main_process():
        sys.stdout = open(os.devnull, "w")
    work = json.loads(Path(call).read_text())
    functions = {"continue_pretraining": training.continue_pretraining, "instruction_tune": training.instruction_tune}
    try:
        result = functions[work["function"]](**work["arguments"])
    except UserError as error:
        Path(answer).write_text(json.dumps({"error": str(error)}))
        return 2
    if main_process():
        tables = {key: {"table": value.to_json(orient="split")} for key, value in result.items() if isinstance(value, pd.DataFrame)}
        Path(answer).write_text(json.dumps(result | tables))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
