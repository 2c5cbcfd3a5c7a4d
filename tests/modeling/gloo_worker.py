"""What `launch` starts, told that gloo is a card: accelerate cuts a model over processes only where it sees cards, and ignores the wish elsewhere.

PyTorch itself can do it over gloo, so that the study's code for models in parts is tested on any machine.
"""

import os
import sys

import torch
from accelerate.state import DistributedType, PartialState

torch.distributed.init_process_group("gloo")
os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
PartialState._prepare_backend = lambda self, *args, **kwargs: ("gloo", DistributedType.MULTI_GPU)

from cancerllm_utils.modeling import launch, stages  # noqa: E402

gathered = launch.whole_weights


def with_shares(trainer):
    """whole_weights, printing the share of the weights that this process holds."""
    weights = trainer.model.state_dict().values()
    print(f"held {sum(w.to_local().numel() for w in weights) / sum(w.numel() for w in weights):.3f}", flush=True)
    return gathered(trainer)


stages.launch.whole_weights = with_shares
sys.exit(launch.main(*sys.argv[1:]))
