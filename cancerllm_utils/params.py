"""The way of a parameter: declared in a notebook, overridden by a profile, checked by name and type before anything runs."""

import difflib
import warnings
from functools import lru_cache
from pathlib import Path

import yaml

from cancerllm_utils import paths
from cancerllm_utils.errors import UserError

# Which job a notebook is run as. Notebooks with a `stage` parameter run once per stage of `study: stages`.
STEPS = ("01_data_exploration", "02_dataset_preparation", "03_continued_pretraining", "04_instruction_tuning", "05_prediction", "06_evaluation", "00_summary", "A1_tiny_base")
PER_STAGE = "04_instruction_tuning"
FILES = ("data_dir", "labels_file", "adjudicated_csv")  # parameters that name files outside of the run
STUDY_DEFAULTS = {"stages": ["sft", "cpt-sft"], "steps": list(STEPS), "description": ""}


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


def load_profile(name: str) -> dict:
    """The profile's YAML, checked: {"study": {...}, "shared": {...}, <notebook>: {...}}. Raises UserError naming the nearest right name."""
    path = profile_path(name)
    if not path.is_file():
        raise UserError(f"There is no profile {name!r}{nearest(name, profiles())}. Profiles are the files of {paths.PARAMS}: {', '.join(profiles())}; or give the path of a .yaml file of your own.")
    try:
        profile = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        place = f", line {error.problem_mark.line + 1}" if getattr(error, "problem_mark", None) else ""
        raise UserError(f"{path}{place}: this is not valid YAML ({getattr(error, 'problem', 'unreadable')}).") from None
    if not isinstance(profile, dict) or any(not isinstance(v, dict) for v in profile.values()):
        raise UserError(f"{path}: the file must hold blocks (study, shared, or a notebook's name), each with `name: value` lines.")
    for block, values in profile.items():
        if block == "study":
            check_study(path, values)
        elif block == "shared":
            for key, value in values.items():
                users = [n for n in STEPS if key in declared(n)]
                if not users:
                    raise UserError(f"{path}: shared: no notebook declares {key!r}{nearest(key, {k for n in STEPS for k in declared(n)})}.")
                for notebook in users:
                    check_type(f"{path}: shared", key, value, *declared(notebook)[key][:2])
        elif block in STEPS:
            for key, value in values.items():
                if key not in declared(block):
                    raise UserError(f"{path}: {block} has no parameter {key!r}{nearest(key, declared(block))}.")
                check_type(f"{path}: {block}", key, value, *declared(block)[key][:2])
        else:
            raise UserError(f"{path}: there is no notebook {block!r}{nearest(block, STEPS)}.")
    return profile


def check_study(path: Path, study: dict) -> None:
    """Raise UserError where the `study:` block names an unknown key, stage or step."""
    for key, value in study.items():
        if key not in STUDY_DEFAULTS:
            raise UserError(f"{path}: study has no key {key!r}{nearest(key, STUDY_DEFAULTS)}.")
        if key == "steps" and set(value) - set(STEPS):
            raise UserError(f"{path}: study: steps: unknown {sorted(set(value) - set(STEPS))}; steps are {', '.join(STEPS)}.")


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


def jobs(name: str, profile: dict | None = None) -> dict[str, dict]:
    """{job: all parameter values} of a profile, in running order; a job is a notebook's name, with `.stage` where it runs per stage."""
    profile = load_profile(name) if profile is None else profile
    study = STUDY_DEFAULTS | profile.get("study", {})
    result = {}
    for notebook in STEPS:
        if notebook not in study["steps"]:
            continue
        known = declared(notebook)
        values = {key: default for key, (_, default, _) in known.items()}
        values |= {key: value for key, value in profile.get("shared", {}).items() if key in known} | profile.get(notebook, {})
        values["run_dir"] = str(run_dir(name))
        values |= {key: absolute(name, values[key]) for key in FILES if key in values}
        values = {key: float(v) if known[key][0] == "float" else v for key, v in values.items()}
        if notebook == PER_STAGE:
            for stage in study["stages"]:
                result[f"{notebook}.{stage}"] = values | {"stage": stage}
        else:
            result[notebook] = values
    return result


def write_flat(name: str, all_jobs: dict[str, dict]) -> None:
    """Write runs/<profile>/params/<job>.yaml for every job, so that `papermill NOTEBOOK OUT -f FILE` reproduces it."""
    folder = run_dir(name) / "params"
    folder.mkdir(parents=True, exist_ok=True)
    for job, values in all_jobs.items():
        # safe_dump writes 1.0e-05, which YAML reads back as a number; json.dumps writes 1e-05, which it reads as text
        (folder / f"{job}.yaml").write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")
