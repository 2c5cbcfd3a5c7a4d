"""A sweep over every notebook: thin, clean, with typed and commented parameters, and calling only what exists."""

import ast
import os

import nbformat
import pytest

from cancerllm_utils import execute, params, paths
from cancerllm_utils.corpus import local

NOTEBOOKS = sorted(paths.NOTEBOOKS.glob("*.ipynb"))


def code_cells(path):
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


def test_every_notebook_is_a_step_and_every_step_a_notebook():
    assert {path.stem for path in NOTEBOOKS} == set(params.STEPS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_thin_and_holds_no_output(path):
    cells = code_cells(path)
    assert len(cells) <= 16
    assert sum(len([line for line in cell.source.splitlines() if line.strip()]) for cell in cells) <= 120
    for cell in cells:
        assert not cell.outputs and cell.execution_count is None, "an output in git: run nbstripout"
        assert not any(isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Lambda)) for node in ast.walk(ast.parse(cell.source))), "functions belong in the package"
        assert "/home/" not in cell.source and "open(" not in cell.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_first_code_cell_declares_typed_commented_parameters(path):
    first = code_cells(path)[0]
    assert first.metadata.get("tags") == ["parameters"]
    for line in first.source.splitlines():
        node = ast.parse(line).body[0]
        assert isinstance(node, ast.AnnAssign), f"{line}: one typed parameter per line"
        value = ast.literal_eval(node.value)
        assert type(value).__name__ == node.annotation.id, f"{line}: the default is a {type(value).__name__}"
        assert len(line.split("#", 1)[1].strip()) > 8, f"{line}: say what it is"
    declared = params.declared(path.stem)
    assert list(declared) == [ast.parse(line).body[0].target.id for line in first.source.splitlines()]
    for name, (kind, default, text) in declared.items():
        assert type(default).__name__ == kind and text, name


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_every_declared_parameter_is_used(path):
    rest = code_cells(path)[1:]
    used = {node.id for cell in rest for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Name)}
    rest = set(params.declared(path.stem)) - used - {"model", "seed", "report_text"}  # read from the step's record
    assert rest <= set(local.parameters()) if 'source=step["params"]' in "".join(cell.source for cell in code_cells(path)) else not rest


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_begins_and_ends_a_record(path):
    source = [cell.source for cell in code_cells(path)]
    assert f'record.start("{path.stem}", globals()' in source[1]
    assert source[-1].splitlines()[-1].startswith("print(record.finish(step")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_prose_types_no_result(path):
    prose = "\n".join(cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown")
    assert "Limits" in prose or "limits" in prose
    assert not any(char.isdigit() and unit in prose[i : i + 8] for i, char in enumerate(prose) for unit in (" F1", " points")), "numbers are printed from results"


def test_dependencies_follow_imports_and_word_lists():
    used = {str(p.relative_to(paths.PACKAGE)) for p in execute.modules_used("02_dataset_preparation") if p.is_relative_to(paths.PACKAGE)}
    assert {"tasks/build.py", "tasks/context.py", "tasks/task.py", "tasks/phenotype_extraction.yaml", "corpus/labels.yaml"} <= used
    assert "modeling/training.py" not in used and "modeling/generation.py" not in used


def test_the_tables_and_the_evaluation_stay_free_of_torch():
    for notebook in ("00_summary", "01_data_exploration"):
        for file in execute.modules_used(notebook):
            if file.suffix == ".py":
                top = [n for n in ast.parse(file.read_text()).body if isinstance(n, (ast.Import, ast.ImportFrom))]
                names = {a.name for n in top if isinstance(n, ast.Import) for a in n.names} | {n.module or "" for n in top if isinstance(n, ast.ImportFrom)}
                assert not any(name.split(".")[0] in ("torch", "transformers", "trl", "peft") for name in names), file


def test_threads_sleep_only_beside_other_programs_and_the_users_choice_stays(monkeypatch, capsys):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    execute.let_threads_sleep(0.2)
    assert "OMP_WAIT_POLICY" not in os.environ
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    execute.let_threads_sleep(1.5)
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE" and not capsys.readouterr().out
    monkeypatch.delenv("OMP_WAIT_POLICY")
    execute.let_threads_sleep(1.5)
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE" and "1.5 cores" in capsys.readouterr().out
