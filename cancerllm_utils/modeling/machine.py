"""What this machine can do at best, measured: arithmetic by multiplying large matrices, memory by copying a large array."""

import os
import time

import pandas as pd
import psutil
import torch

# Rows of the small and the large matrix, numbers of the array.
SIZES = {"cpu": (256, 1024, 2**26), "cuda": (256, 8192, 2**29)}


def set_threads() -> int:
    """Let torch take the physical cores within the process's affinity, or OMP_NUM_THREADS; returns their number.

    A second thread on a busy core made runs up to ten times slower.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = int(os.environ.get("OMP_NUM_THREADS") or min(psutil.cpu_count(logical=False) or 1, allowed))
    torch.set_num_threads(threads)
    return threads


def limits(seconds: float = 0.6) -> pd.DataFrame:
    """Best of as many repeats as fit into `seconds` each: what (GEMM | copy), precision, value, unit (GFLOP/s | GB/s), device, threads.

    GEMM is the product of two square matrices of 1,024 rows (a card: 8,192), or of 256 where it is very slow (bf16 without instructions for it is
    emulated); copy counts bytes read and written, of an array that no processor cache holds. Neighbours on the machine lower both: the best repeat is
    the least disturbed.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    threads = set_threads()
    small, large, numbers = SIZES[device]
    name = torch.cuda.get_device_name() if device == "cuda" else "processor"
    rows = []
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        rate = product_rate(small, dtype, device, seconds / 10)
        rate = product_rate(large, dtype, device, seconds) if rate > 10 else rate
        rows.append({"what": "GEMM", "precision": precision, "value": rate, "unit": "GFLOP/s"})
    source = torch.rand(numbers, device=device)
    target = torch.empty_like(source)
    took = best(lambda: target.copy_(source), seconds, device)
    rows.append({"what": "copy", "precision": "fp32", "value": 2 * source.nbytes / took / 1e9, "unit": "GB/s"})
    return pd.DataFrame(rows).assign(device=name, threads=threads)


def product_rate(size: int, dtype: torch.dtype, device: str, seconds: float) -> float:
    """GFLOP/s of multiplying two square matrices."""
    a, b, out = (torch.rand(size, size, device=device).to(dtype) for _ in range(3))
    return 2 * size**3 / best(lambda: torch.mm(a, b, out=out), seconds, device) / 1e9


def best(work, seconds: float, device: str) -> float:
    """Seconds of the fastest of the repeats (at least three, after one that does not count) that begin within `seconds`."""
    took, begun = [], time.perf_counter()
    while len(took) < 4 or time.perf_counter() - begun < seconds:
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        took.append(time.perf_counter() - start)
    return min(took[1:])


def sharded() -> bool:
    """True in a process that holds only a part of the model's weights (FSDP, ZeRO-3): every process must then take part in every forward pass."""
    return "true" in (os.environ.get("ACCELERATE_USE_FSDP"), os.environ.get("ACCELERATE_USE_DEEPSPEED"))
