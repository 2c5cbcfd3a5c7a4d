"""Columns of the result files that several rooms write or read: one row per number, per measured text, per trained stage, per comparison."""

SCORE_COLUMNS = ["model", "stage", "task", "variant", "split", "field", "subgroup", "family", "metric", "precision", "recall", "f1",
                 "f1_low", "f1_high", "n", "unparsed", "seed"]
CPT_COLUMNS = ["model", "stage", "when", "step", "split", "subgroup", "loss", "bits_per_byte", "tokens", "n_notes", "change", "change_low", "change_high"]
TRAINING_COLUMNS = ["model", "stage", "tuning", "preset", "lora_r", "trainable_parameters", "train_rows", "tokens", "trained_tokens", "steps", "seconds",
                    "tokens_per_second", "peak_memory_gib", "memory_of", "device", "precision", "num_processes", "energy_kwh"]
COMPARISON_COLUMNS = ["kind", "a", "b", "task", "split", "metric", "difference", "low", "high", "n", "p_holm", "verdict"]
