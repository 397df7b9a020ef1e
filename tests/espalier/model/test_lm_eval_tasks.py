"""Tasks of lm-eval with data of this machine; the package itself is optional."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from espalier.errors import MissingExtraError
from espalier.model.lm_eval_tasks import Tasks
from tests.fixtures.library.tiny_models import write_tiny_model

TASK = """
task: tiny_choice
dataset_path: json
dataset_kwargs:
  data_files:
    validation: {data}
output_type: multiple_choice
validation_split: validation
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
target_delimiter: ""
metric_list:
  - metric: acc
"""


def write_task(folder: Path) -> Path:
    """A task of 12 questions, and one whose data nobody has."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"question": f"{n} and", "choices": [" one", " two", " three"], "answer": n % 3} for n in range(12)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "tiny.yaml").write_text(TASK.format(data=folder / "rows.jsonl"))
    away = (
        TASK.format(data="/nowhere").replace("tiny_choice", "tiny_away").replace("path: json", "path: nobody/nothing")
    )
    (folder / "away.yaml").write_text(away)
    return folder


def test_a_worker_without_the_extra_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError) as caught:
        Tasks(["piqa"], folder=None, scratch=tmp_path)
    assert ".[worker,tasks]" in caught.value.hint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pytest.importorskip("lm_eval", reason="needs the extra `tasks`")
    return write_task(tmp_path / "tasks")


# In a process of its own: lm-eval and its libraries change the logging and the warnings of the one that loads them.
CHILD = """
import json, sys
from pathlib import Path
from transformers import AutoModelForCausalLM, AutoTokenizer
from espalier.errors import DatasetError
from espalier.model.lm_eval_tasks import Tasks
folder, scratch, model_dir = map(Path, sys.argv[1:])
said = []
for name in ("tiny_away", "no_such_task"):
    try:
        Tasks([name], folder=folder, scratch=scratch)
    except DatasetError as error:
        said.append(f"{error} {error.hint}")
found = Tasks(["tiny_choice"], folder=folder, scratch=scratch)
model = AutoModelForCausalLM.from_pretrained(model_dir).eval()
scores = [found.score(model, AutoTokenizer.from_pretrained(model_dir)) for _ in range(2)]
print(json.dumps([said, scores, found.versions()]))
"""


def test_a_local_task_is_scored_and_what_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    model_dir = write_tiny_model(tmp_path / "model")
    command = [sys.executable, "-c", CHILD, str(folder), str(tmp_path / "scratch"), str(model_dir)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    errors, scores, versions = json.loads(done.stdout.splitlines()[-1])
    assert ["data of the task tiny_away" in errors[0], "no task no_such_task" in errors[1]] == [True, True]
    assert all("ESPALIER_TASKS_DIR" in text for text in errors)
    assert scores[0] == scores[1]
    assert scores[0]["tiny_choice"]["acc"] * 12 == pytest.approx(_right(model_dir), abs=1e-9)
    assert versions["lm_eval"]


@torch.no_grad()
def _right(model_dir: Path) -> int:
    """Questions answered right, by hand: the choice whose tokens are the likeliest, normalised by nothing."""
    model = AutoModelForCausalLM.from_pretrained(model_dir).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    right = 0
    for number in range(12):
        scores = []
        for choice in (" one", " two", " three"):
            context = tokenizer(f"{number} and", return_tensors="pt")["input_ids"]
            whole = tokenizer(f"{number} and{choice}", return_tensors="pt")["input_ids"]
            logits = model(input_ids=whole).logits.log_softmax(dim=-1)[0]
            scores.append(sum(float(logits[at - 1, whole[0, at]]) for at in range(context.shape[1], whole.shape[1])))
        right += scores.index(max(scores)) == number % 3
    return right
