"""What a profile makes: its jobs with all their parameters, what each needs before it, and the parameter files of a run.

A profile's `study:` block says what is expanded into jobs: `models` (a list, or {model: stages}), `stages`, `sweep` ({notebook: {parameter:
[values]}}, one factor at a time around the profile's own values) and `variants` ({name: {notebook: {parameter: value}, stages: [..]}}, `stages` where
not all of the study's have the variant).
"""

import re
from pathlib import Path

import yaml

from cancerllm_utils.errors import UserError
from cancerllm_utils.params import (
    ABLATION,
    BEFORE,
    CONTAMINATION,
    FILES,
    NAMED,
    PER_MODEL,
    PERTURBED,
    PREDICTION,
    PRETRAINING,
    RETRIEVAL,
    STAGES,
    STEPS,
    STUDY_DEFAULTS,
    TUNING,
    absolute,
    declared,
    load_profile,
    profile_path,
    run_dir,
)


def jobs(name: str, profile: dict | None = None) -> dict[str, dict]:
    """{job: all parameter values} of a profile, in running order; a job is `<notebook>`, or `<notebook>.<stage>` where it runs per stage.

    Under `study: models` the part after the dot ends with the model: `03_continued_pretraining.cpt.<model>`, `05_prediction.<model>`.
    A variant's stages are `cpt-<variant>`, `sft-<variant>`, `cpt-sft-<variant>`; one that changes 03 alone has no `sft-<variant>`, which
    would be `sft` once more, and a sweep varies the last of the stages only. Raises UserError where a variant changes nothing, or makes no job.
    """
    profile = load_profile(name) if profile is None else profile
    study = STUDY_DEFAULTS | profile.get("study", {})
    changed = variants(name, profile)
    if "steps" not in profile.get("study", {}):
        study["steps"] = [step for step in STEPS if step not in NAMED and (changed or step != ABLATION)]
    per_model = study["models"] if isinstance(study["models"], dict) else {model: study["stages"] for model in study["models"] or [""]}
    result = {}
    for notebook in [step for step in STEPS if step in study["steps"]]:
        own = values_of(name, profile, notebook)
        if notebook not in PER_MODEL:
            result[notebook] = own
            continue
        for model, stages in per_model.items():
            of_model = own | ({"model": model} if model else {})
            if notebook == CONTAMINATION:
                if PRETRAINING in study["steps"] and "stages" not in profile.get(CONTAMINATION, {}):
                    of_model["stages"] = ["base", *(["cpt"] if pretraining_stages(stages, {}) else [])]
                result[job_name(notebook, "", model)] = of_model
                continue
            if notebook == RETRIEVAL:
                tuned = [stage for stage in stages if stage != "cpt"]
                if TUNING in study["steps"] and "stages" not in profile.get(RETRIEVAL, {}):
                    of_model["stages"] = tuned[-1:] or ["base"]
                result[job_name(notebook, "", model)] = of_model
                continue
            if notebook in (PREDICTION, PERTURBED):
                finished = [values["stage"] for job, values in result.items() if job.startswith(TUNING) and values["model"] == of_model["model"]]
                answered = result.get(job_name(PREDICTION, "", model))
                named = "stages" in profile.get(notebook, {})
                if notebook == PERTURBED and answered and not named:  # its answers are held against these
                    of_model["stages"] = answered["stages"]
                elif TUNING in study["steps"] and not named:
                    of_model["stages"] = ["base", *(["cpt"] if "cpt" in stages else []), *finished]
                result[job_name(notebook, "", model)] = of_model
                continue
            trained = pretraining_stages(stages, changed) if notebook == PRETRAINING else tuning_stages(stages, changed, study["variants"])
            for stage, changes in trained.items():
                part = "" if stage == "cpt" and not model else stage  # one pre-training of one model is the notebook's own name
                result[job_name(notebook, part, model)] = of_model | changes | {"stage": stage}
    made = {v["stage"] for v in result.values() if "stage" in v}
    for variant in changed:
        if not {with_variant(stage, variant) for stage in STAGES} & made:
            raise UserError(f"{profile_path(name)}: study: the variant {variant} makes no job. Its notebook must be among `study: steps`, and a stage that uses it among `study: stages`.")
    return result


def pretraining_stages(stages: list[str], changed: dict[str, dict]) -> dict[str, dict]:
    """{stage of 03: its changes}: `cpt` and its variants, where any of the study's stages begins with it."""
    if not any(stage.startswith("cpt") for stage in stages):
        return {}
    return {"cpt": {}} | {with_variant("cpt", variant): changes[PRETRAINING] for variant, changes in changed.items() if PRETRAINING in changes}


def tuning_stages(stages: list[str], changed: dict[str, dict], named: dict) -> dict[str, dict]:
    """{stage of 04: its changes, with the pre-training under it}; variants of a sweep (those not `named`) are made of the last stage alone."""
    tuned = [stage for stage in stages if stage != "cpt"]
    found = {stage: {"cpt_stage": "cpt"} for stage in tuned}
    for variant, changes in changed.items():
        for stage in [stage for stage in tuned if stage in named[variant].get("stages", tuned)] if variant in named else tuned[-1:]:
            on_other_cpt = stage.startswith("cpt") and PRETRAINING in changes
            if TUNING in changes or on_other_cpt:
                cpt = {"cpt_stage": with_variant("cpt", variant if on_other_cpt else "")}
                found[with_variant(stage, variant)] = changes.get(TUNING, {}) | cpt
    return found


def values_of(name: str, profile: dict, notebook: str) -> dict:
    """All parameter values of a notebook in a profile: the notebook's defaults, the profile's `shared:`, the notebook's own block."""
    known = declared(notebook)
    values = {key: default for key, (_, default, _) in known.items()}
    values |= {key: value for key, value in profile.get("shared", {}).items() if key in known} | profile.get(notebook, {})
    values["run_dir"] = str(run_dir(name))
    values |= {key: absolute(name, values[key]) for key in FILES if key in values}
    values |= {key: [absolute(name, path) for path in values[key]] for key in ["ratings"] if key in values}
    return as_declared(notebook, values)


def as_declared(notebook: str, values: dict) -> dict:
    """The values with every int of a float parameter as a float."""
    return {key: float(value) if declared(notebook)[key][0] == "float" else value for key, value in values.items()}


def variants(name: str, profile: dict) -> dict[str, dict]:
    """{variant: {notebook: {parameter: value}}} of a profile: each value of `sweep` that is not the profile's own, then the named `variants`."""
    study, found = STUDY_DEFAULTS | profile.get("study", {}), {}
    for notebook, factors in study["sweep"].items():
        own = values_of(name, profile, notebook)
        for key, values in factors.items():
            for changes in [as_declared(notebook, {key: value}) for value in values]:
                if changes[key] != own[key]:  # the profile's own value is the reference, which runs anyway
                    add_variant(name, found, variant_name(notebook, key, changes[key]), {notebook: changes})
    for variant, blocks in study["variants"].items():
        changes = {notebook: as_declared(notebook, values) for notebook, values in blocks.items() if notebook != "stages"}
        if all(values_of(name, profile, notebook) | values == values_of(name, profile, notebook) for notebook, values in changes.items()):
            raise UserError(f"{profile_path(name)}: study: variants: {variant} changes nothing: all its values are the profile's own.")
        add_variant(name, found, str(variant), changes)
    return found


def add_variant(name: str, found: dict, variant: str, changes: dict) -> None:
    """Enter a variant; UserError where another one has its name or its changes."""
    same = next((other for other in found if other == variant or found[other] == changes), None)
    if same:
        raise UserError(f"{profile_path(name)}: study: the variants {same} and {variant} have the same {'name' if same == variant else 'settings'}. Keep one.")
    found[variant] = changes


def variant_name(notebook: str, key: str, value) -> str:
    """Name of one value of a sweep: lora_r2, learning_rate3e-4, packing_strategy_bfd; tuning_lora_r2 in 04; s7 for seed 7, as score files know it."""
    text = str(value)
    if isinstance(value, float):
        mantissa, exponent = f"{value:e}".split("e")
        text = f"{value:g}" if -3 < int(exponent) < 5 else f"{float(mantissa):g}e{int(exponent)}"
    text = re.sub(r"[^A-Za-z0-9-]", "_", text)
    if key == "seed":
        return f"s{text}"
    return ("tuning_" if notebook == TUNING else "") + key + ("" if text[:1].isdigit() else "_") + text


def with_variant(stage: str, variant: str) -> str:
    """Name of a stage's variant: cpt-sft and lora_r2 give cpt-sft-lora_r2; no variant leaves the name."""
    return f"{stage}-{variant}" if variant else stage


def job_name(notebook: str, stage: str, model: str) -> str:
    """<notebook>[.<stage>][.<model>], the last part of a model's folder standing for the model; its record is records/<job>.json."""
    return ".".join(part for part in (notebook, stage, Path(model).name) if part)


def needs(job: str, all_jobs: dict[str, dict]) -> list[str]:
    """The jobs of a profile that must have finished before `job`: those of BEFORE, of the same model where the job runs per model."""
    notebook, own = job.partition(".")[0], all_jobs[job]
    if notebook == "00_summary":
        return [other for other in all_jobs if other != job]
    found = []
    for other, values in all_jobs.items():
        before = other.partition(".")[0]
        if before not in BEFORE[notebook]:
            continue
        if notebook in PER_MODEL and before in PER_MODEL and values["model"] != own["model"]:
            continue
        if notebook == TUNING and before == PRETRAINING and not (own["stage"].startswith("cpt") and values["stage"] == own["cpt_stage"]):
            continue
        found.append(other)
    return found


def write_flat(name: str, all_jobs: dict[str, dict]) -> None:
    """Write runs/<profile>/params/<job>.yaml for every job, so that `papermill NOTEBOOK OUT -f FILE` reproduces it; files of former jobs go."""
    folder = run_dir(name) / "params"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.yaml"):
        if old.stem not in all_jobs:
            old.unlink()
    for job, values in all_jobs.items():
        # safe_dump writes 1.0e-05, which YAML reads back as a number; json.dumps writes 1e-05, which it reads as text
        (folder / f"{job}.yaml").write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")
