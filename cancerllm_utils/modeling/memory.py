"""Peak memory of a piece of work: of the tensors on a card, or of the whole process where there is none."""

import threading
from contextlib import contextmanager

import psutil
import torch


@contextmanager
def measured_memory(seconds_between: float = 0.02):
    """Context manager around a piece of work; yields a dict that afterwards holds peak_memory_gib and memory_of.

    memory_of is `tensors on the card` (torch's own count, with the weights) or `whole process`: resident memory with Python, the libraries and the
    weights, looked at every `seconds_between` seconds, so that a shorter peak may be missed.
    """
    found = {}
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        yield found
        found |= {"peak_memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 3), "memory_of": "tensors on the card"}
        return
    process, done = psutil.Process(), threading.Event()
    seen = [process.memory_info().rss]

    def look():
        while not done.wait(seconds_between):
            seen[0] = max(seen[0], process.memory_info().rss)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        done.set()
        watcher.join()
        found |= {"peak_memory_gib": round(max(seen[0], process.memory_info().rss) / 2**30, 3), "memory_of": "whole process"}
