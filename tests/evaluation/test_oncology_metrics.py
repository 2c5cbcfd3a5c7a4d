"""The metrics through `evaluate.load`, in a process without a network and with a cache of its own."""

import json
import os
import re
import subprocess
import sys

import pytest

from cancerllm_utils import paths
from cancerllm_utils.evaluation import metrics

FOLDER = paths.PACKAGE / "evaluation" / "oncology_metrics"
PREDICTIONS = ["ER-", "2.5 cm", "T2", "not stated", "T1"]
REFERENCES = [["ER+"], ["2.5cm"], ["T3"], ["T4"], ["not stated"]]

SCRIPT = """
import json, socket, sys

class NoNetwork(socket.socket):
    def __init__(self, family=-1, *rest, **named):
        if family != socket.AF_UNIX:
            raise OSError("the network was asked for")
        super().__init__(family, *rest, **named)

socket.socket = NoNetwork
def refuse(*arguments, **named): raise OSError("the network was asked for")
socket.create_connection = socket.getaddrinfo = refuse

import evaluate
folder, predictions, references = json.loads(sys.argv[1])
found = {}
for name in (None, "clinical_exact_match", "paper_rouge1", "accuracy", "miss", "false_answer", "macro_f1", "quadratic_kappa_pT"):
    found[name or "default"] = evaluate.load(folder, name).compute(predictions=predictions, references=references)
found["plain strings"] = evaluate.load(folder, "paper_average").compute(predictions=["a"], references=["a"])
try:
    evaluate.load(folder, "clinical_bleu4")
except ValueError as error:
    found["unknown"] = str(error)
print("FOUND" + json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    cache = str(tmp_path_factory.mktemp("huggingface"))
    environment = {**os.environ, "HF_HOME": cache, "HF_MODULES_CACHE": cache + "/modules", "OMP_NUM_THREADS": "1"}
    arguments = json.dumps([str(FOLDER), PREDICTIONS, REFERENCES])
    done = subprocess.run([sys.executable, "-c", SCRIPT, arguments], cwd=cache, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.rsplit("FOUND", 1)[1])


def test_every_number_is_that_of_the_package(found):
    eight = [f"{family}_{name}" for family in ("paper", "clinical") for name in (*metrics.AVERAGED, "average")]
    assert [name for name in found["default"] if not name.endswith(("_precision", "_recall"))] == eight
    for name in eight:
        family, metric = name.split("_", 1)
        expected = [100 * sum(metrics.SCORERS[family](a, p)[metric][i] for a, p in zip(REFERENCES, PREDICTIONS)) / 5 for i in range(3)]
        assert [found["default"][name + end] for end in ("_precision", "_recall", "")] == pytest.approx(expected)


def test_single_metrics_by_hand(found):
    assert found["clinical_exact_match"]["clinical_exact_match"] == 20  # "2.5 cm" alone
    assert found["paper_rouge1"]["paper_rouge1"] == pytest.approx(20)  # "er" equals "er", "25 cm" against "25cm" shares no word
    assert found["accuracy"] == {"accuracy": 20} and found["miss"] == {"miss": 25} and found["false_answer"] == {"false_answer": 100}
    assert found["macro_f1"]["macro_f1"] == 0  # string against string, five classes
    assert found["quadratic_kappa_pT"]["answered"] == 50  # T3 got T2, T4 got "not stated"
    assert found["plain strings"]["paper_average"] == pytest.approx(100 * (1 + 0.001 + 1) / 3, abs=1e-4)


def test_an_unknown_metric_is_named_with_what_there_is(found):
    assert "clinical_bleu4" in found["unknown"] and "clinical_bleu2" in found["unknown"]


def test_imports_stand_one_per_line():
    # `evaluate` reads the imports line by line and takes the first name of each only
    for line in (FOLDER / "oncology_metrics.py").read_text(encoding="utf-8").splitlines():
        if re.match(r"(import|from) ", line):
            assert "," not in line and "(" not in line, line
