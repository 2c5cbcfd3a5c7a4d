"""The way of a parameter: declared in a notebook, overridden by a profile, checked by name and type before anything runs.

study.py expands what a profile's `study:` block names into jobs. `like: paper` takes the parameters, not the study, of another profile; what the file
writes itself goes before.
"""

import difflib
import re
import warnings
from functools import lru_cache
from pathlib import Path

import yaml

from cancerllm_utils import paths
from cancerllm_utils.errors import UserError

# Every notebook of the study in running order, and the notebooks whose results it needs.
BEFORE = {
    "01_data_exploration": (),
    "02_dataset_preparation": ("01_data_exploration",),
    "03_continued_pretraining": ("01_data_exploration",),
    "04_instruction_tuning": ("02_dataset_preparation", "03_continued_pretraining"),
    "05_prediction": ("02_dataset_preparation", "03_continued_pretraining", "04_instruction_tuning"),
    "05b_contamination": ("02_dataset_preparation", "03_continued_pretraining"),
    "05c_perturbed_prediction": ("02_dataset_preparation", "05_prediction"),
    "02b_treatment_plans": ("02_dataset_preparation", "05_prediction"),
    "06_evaluation": ("05_prediction",),
    "06b_independent_cohort": ("06_evaluation",),
    "06c_trust": ("06_evaluation",),
    "06d_adjudication": ("06_evaluation",),
    "07_robustness": ("04_instruction_tuning", "05c_perturbed_prediction", "06_evaluation"),
    "03b_ablation": ("03_continued_pretraining", "04_instruction_tuning", "06_evaluation"),
    "08_efficiency": ("03_continued_pretraining", "04_instruction_tuning", "05_prediction", "06_evaluation"),
    "09_retrieval": ("02_dataset_preparation", "03_continued_pretraining", "04_instruction_tuning"),
    "10_radiation_oncology": ("01_data_exploration",),
    "00_summary": (),  # and every other job: see study.needs
    "A1_tiny_base": (),
}
STEPS = tuple(BEFORE)
# run once per model; 03 and 04 also per variant, 04 per stage
PER_MODEL = ("03_continued_pretraining", "04_instruction_tuning", "05_prediction", "05b_contamination", "05c_perturbed_prediction", "09_retrieval")
PRETRAINING, TUNING, PREDICTION, CONTAMINATION, PERTURBED, RETRIEVAL = PER_MODEL
ABLATION = "03b_ablation"  # runs where the study varies something, or is named under `study: steps`
RADONC = "10_radiation_oncology"  # tunes and asks models of its own, in one job
NAMED = (CONTAMINATION, PERTURBED, RETRIEVAL, "07_robustness", RADONC)  # run where they are named there
# these only read what others made: the Snakefile runs two side by side
READING = ("02b_treatment_plans", "06_evaluation", "06b_independent_cohort", "06c_trust", "06d_adjudication", "07_robustness", ABLATION)
SET_BY_STUDY = ("stage", "cpt_stage")
STAGES = ("cpt", "sft", "cpt-sft")
SHARES = ("counterfactual_rate", "label_filter_share", "augment_rate")
CHOICES = {"counterfactual_mode": ("random", "confusable"), "label_filter": ("", "small_loss", "agreement")}
FILES = ("data_dir", "labels_file", "adjudicated_csv", "gpu_table")  # parameters that name files outside of the run
STUDY_DEFAULTS = {"description": "", "like": "", "steps": list(STEPS), "models": [], "stages": ["sft", "cpt-sft"], "sweep": {}, "variants": {}}


def profiles() -> list[str]:
    """Names of the profiles in params/."""
    return sorted(p.stem for p in paths.PARAMS.glob("*.yaml"))


def profile_path(name: str) -> Path:
    """File of a profile: `quick` is params/quick.yaml, `my/own.yaml` a file of the user's own."""
    return Path(name).expanduser().resolve() if name.endswith((".yaml", ".yml")) else paths.PARAMS / f"{name}.yaml"


def run_dir(name: str) -> Path:
    """Folder of a profile's run: runs/<name of the file>."""
    return paths.run_dir(profile_path(name).stem)


@lru_cache
def declared(notebook: str) -> dict[str, tuple[str, object, str]]:
    """{parameter: (type name, default, help)} of a notebook's cell tagged `parameters`, as papermill reads it."""
    import papermill  # a second of imports that `cancerllm score` does not need

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = papermill.inspect_notebook(paths.NOTEBOOKS / f"{notebook}.ipynb")
    return {name: (p["inferred_type_name"], yaml.safe_load(p["default"].replace("True", "true").replace("False", "false")), p["help"]) for name, p in found.items()}


def load_profile(name: str, for_another: bool = False) -> dict:
    """The profile's YAML, checked: {"study": {...}, "shared": {...}, <notebook>: {...}}. Raises UserError naming the nearest right name.

    for_another: it is read for a profile that is `like` it, and must then not be like a third one.
    """
    path = profile_path(name)
    if not path.is_file():
        raise UserError(f"There is no profile {name!r}{nearest(name, profiles())}. Profiles are the files of {paths.PARAMS}: {', '.join(profiles())}; or give the path of a .yaml file of your own.")
    try:
        text = path.read_text(encoding="utf-8")
        check_unique_keys(path, yaml.compose(text, yaml.SafeLoader))
        profile = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        place = f", line {error.problem_mark.line + 1}" if getattr(error, "problem_mark", None) else ""
        raise UserError(f"{path}{place}: this is not valid YAML ({getattr(error, 'problem', 'unreadable')}).") from None
    if not isinstance(profile, dict) or any(not isinstance(v, dict) for v in profile.values()):
        raise UserError(f"{path}: the file must hold blocks (study, shared, or a notebook's name), each with `name: value` lines.")
    for block, values in profile.items():
        if block == "study":
            check_study(path, values)
        elif block in STEPS:
            check_values(f"{path}: {block}", block, values)
        elif block == "shared":
            for key, value in values.items():
                users = [n for n in STEPS if key in declared(n)]
                if not users:
                    raise UserError(f"{path}: shared: no notebook declares {key!r}{nearest(key, {k for n in STEPS for k in declared(n)})}.")
                for notebook in users:
                    check_values(f"{path}: shared", notebook, {key: value})
        else:
            raise UserError(f"{path}: there is no notebook {block!r}{nearest(block, STEPS)}.")
    other = profile.get("study", {}).get("like", "")
    if not other:
        return profile
    if for_another:
        raise UserError(f"{path}: study: like: a profile that others are like may not itself be like another one. Name {other} there.")
    base = load_profile(other, for_another=True)
    blocks = dict.fromkeys([*base, *profile])
    return {block: base.get(block, {}) | profile.get(block, {}) for block in blocks if block != "study"} | {"study": profile["study"]}


def check_unique_keys(path: Path, node) -> None:
    """Raise UserError where a block of the YAML names a key twice: YAML would keep the last one without a word."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            check_unique_keys(path, item)
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if str(key.value) in seen:
                raise UserError(f"{path}, line {key.start_mark.line + 1}: {key.value!r} stands twice in one block. Keep one.")
            seen.add(str(key.value))
            check_unique_keys(path, value)


def check_values(where: str, notebook: str, values: dict) -> None:
    """Raise UserError where `{parameter: value}` names a parameter that the notebook does not declare, or a value of another type."""
    if not isinstance(values, dict):
        raise UserError(f"{where}: parameters are written as `name: value` lines, not {values!r}.")
    for key, value in values.items():
        if key not in declared(notebook):
            raise UserError(f"{where} has no parameter {key!r}{nearest(key, declared(notebook))}.")
        if key in SET_BY_STUDY:
            raise UserError(f"{where}: {key} is set by the study. Write the stages under `study: stages` and other settings under `study: variants`.")
        check_type(where, key, value, *declared(notebook)[key][:2])
        for name in [value] if key == "model" else value if key == "models" else []:
            check_model(where, name)
        if key in SHARES and not 0 <= value <= 1:
            raise UserError(f"{where}: {key} is a share, so a number from 0 to 1, not {value}.")
        if key in CHOICES and value not in CHOICES[key]:
            raise UserError(f"{where}: {key} must be one of {', '.join(map(repr, CHOICES[key]))}, not {value!r}.")
    if notebook == PERTURBED:
        check_variants(where, values)


def check_study(path: Path, study: dict) -> None:
    """Raise UserError where the `study:` block names an unknown key, step, model, stage or parameter, or one of them twice."""
    for key, value in study.items():
        if key not in STUDY_DEFAULTS:
            raise UserError(f"{path}: study has no key {key!r}{nearest(key, STUDY_DEFAULTS)}.")
        if not isinstance(value, (dict, list) if key == "models" else type(STUDY_DEFAULTS[key])):
            raise UserError(f"{path}: study: {key} must be {'a list' if isinstance(STUDY_DEFAULTS[key], list) else 'text' if isinstance(STUDY_DEFAULTS[key], str) else 'a block'}, not {value!r}.")
    for step in study.get("steps", []):
        if step not in STEPS:
            raise UserError(f"{path}: study: steps: there is no notebook {step!r}{nearest(step, STEPS)}; steps are {', '.join(STEPS)}.")
    check_once(f"{path}: study: steps", study.get("steps", []))
    for model in study.get("models", []):
        check_model(f"{path}: study: models", model)
    check_once(f"{path}: study: models", [Path(str(model)).name for model in study.get("models", [])])
    per_model = study["models"].values() if isinstance(study.get("models"), dict) else []
    for stages in [study.get("stages", []), *per_model]:
        for stage in stages if isinstance(stages, list) else [stages]:
            if stage not in STAGES or not isinstance(stages, list):
                raise UserError(f"{path}: study: stages must be a list of {', '.join(STAGES)}, not {stages!r}. Other settings of a stage are written under `study: variants`.")
        check_once(f"{path}: study: stages", stages)
    for notebook, factors in study.get("sweep", {}).items():
        where = f"{path}: study: sweep"
        check_varied(where, notebook)
        for key, values in (factors if isinstance(factors, dict) else {"": factors}).items():
            if not isinstance(values, list) or not values:
                raise UserError(f"{where}: {notebook} {key}: write the values as a list, such as [2, 8, 32].")
            for value in values:
                check_values(f"{where}: {notebook}", notebook, {key: value})
                if isinstance(value, list):
                    raise UserError(f"{where}: {notebook}: {key} is a list, which gives its variants no name. Name them under `study: variants`.")
            check_once(f"{where}: {notebook} {key}", values)
    for name, changes in study.get("variants", {}).items():
        where = f"{path}: study: variants: {name}"
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]*", str(name)) or str(name).startswith("sft"):
            raise UserError(f"{where}: a name holds letters, digits, _ and - only, and does not begin with sft (cpt-sft is a stage of its own).")
        if not isinstance(changes, dict) or not changes:
            raise UserError(f"{where}: write what changes as `notebook: {{parameter: value}}`.")
        for notebook, values in changes.items():
            if notebook == "stages":
                if not isinstance(values, list) or not set(values) <= set(STAGES):
                    raise UserError(f"{where}: stages must be a list of {', '.join(STAGES)}, not {values!r}.")
                continue
            check_varied(where, notebook)
            check_values(f"{where}: {notebook}", notebook, values)


def check_varied(where: str, notebook: str) -> None:
    """Raise UserError for a notebook that does not run once per variant."""
    if notebook not in (PRETRAINING, TUNING):
        raise UserError(f"{where}: {notebook!r} cannot be varied{nearest(notebook, (PRETRAINING, TUNING))}. Only {PRETRAINING} and {TUNING} run once per variant.")


def check_once(where: str, values: list) -> None:
    """Raise UserError where a list holds a value twice (1 and 1.0 are one value)."""
    for i, value in enumerate(values):
        if value in values[:i]:
            raise UserError(f"{where}: {value!r} stands twice. Keep one.")


def check_variants(where: str, values: dict) -> None:
    """Raise UserError where `variants` or `remedies` of 05c name an unknown testbed or remedy, or a rate outside of 0 to 100 percent."""
    from cancerllm_utils.evaluation import perturb  # numpy and the word lists, which only this needs

    try:
        perturb.planned(values.get("variants", []), values.get("remedies", []))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def check_model(where: str, name) -> None:
    """Raise UserError for a model that is neither an entry of models.yaml nor a folder with a config.json."""
    known = yaml.safe_load((paths.PACKAGE / "modeling" / "models.yaml").read_text(encoding="utf-8"))
    if name not in known and not (Path(str(name)) / "config.json").is_file():
        raise UserError(f"{where}: model {name!r} is no entry of models.yaml{nearest(name, known)}, and no folder with a config.json.")
    if not re.fullmatch(r"[A-Za-z0-9._-]+", Path(str(name)).name):
        raise UserError(f"{where}: model {name!r}: a folder's name holds letters, digits, dot, _ and - only. Rename the folder.")


def nearest(word: str, known) -> str:
    """`: did you mean 'x'?` or nothing."""
    match = difflib.get_close_matches(str(word), list(known), n=1)
    return f": did you mean {match[0]!r}?" if match else ""


def check_type(where: str, key: str, value, type_name: str, default) -> None:
    """Raise UserError where a value is not of the declared type; an int may stand for a float, nothing may stand for a string."""
    expected = {"int": int, "float": (int, float), "str": str, "bool": bool, "list": list}.get(type_name, type(default))
    if isinstance(value, bool) != (expected is bool) or not isinstance(value, expected):
        remedy = ""
        if isinstance(value, str):
            try:
                number = float(value)
                mantissa, _, exponent = f"{number:e}".partition("e")
                remedy = f" YAML reads {value} as text: write {float(mantissa)}e{int(exponent):+d}." if "e" in value.lower() else " Write it without quotes."
            except ValueError:
                pass
        raise UserError(f"{where}: {key} must be {type_name or type(default).__name__}, not {type(value).__name__} ({value!r}).{remedy}")


def absolute(name: str, value: str) -> str:
    """A path of a profile as an absolute one: a relative path counts from the profile's own folder, in the profiles of params/ from the checkout."""
    folder = profile_path(name).parent
    return str((paths.ROOT if folder == paths.PARAMS else folder) / Path(value).expanduser()) if value else ""
