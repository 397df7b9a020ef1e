"""What counts as a difference, what a job must ask for, and whose code a service runs; without a service."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.bodies.job import JobRequest
from tests.same_bytes import trees
from tests.same_bytes.__main__ import show
from tests.same_bytes.compare import Result, differences, digests, normalised
from tests.same_bytes.coverage import uncovered
from tests.same_bytes.jobs import bodies
from tests.same_bytes.runs import Kept, amid, phase_to_kill_in
from tests.same_bytes.trees import ForeignCode, Installation, Tree, commit, working_tree

RESULT: Result = {
    "files": {"model.safetensors": "aa", "masks.safetensors": "bb", "config.json": "cc"},
    "report": {
        "compressed": {"perplexity": {"text": 20.5}, "latency": {"prompt": 3.0}, "packed_bytes": 7},
        "phases": [{"name": "pruning", "seconds": 1.5, "peak_memory_bytes": 10, "perplexity": None}],
        "environment": {"engine": "5", "host": "here", "network_isolated": True},
        "warnings": ["job_01M8PQW5VXBQ2SVFKJKGC9BE6Z is a member"],
    },
    "engine": "5",
}


def changed(change: Callable[[Any], None]) -> Result:
    other = copy.deepcopy(RESULT)
    change(other)
    return other


def test_results_of_two_runs_are_equal_but_for_what_tells_of_the_run() -> None:
    def run_again(result: Any) -> None:
        report = result["report"]
        report["phases"][0] |= {"seconds": 9.0, "peak_memory_bytes": 11}
        report["environment"]["host"] = "there"
        report["compressed"]["latency"] = None
        report["warnings"] = ["job_01M8PQXN4Q0FH8N9V8Y8MJGH03 is a member"]

    assert differences(RESULT, changed(run_again)) == []
    assert normalised(RESULT["report"]) == {
        "compressed": {"perplexity": {"text": 20.5}, "packed_bytes": 7},
        "phases": [{"name": "pruning", "perplexity": None}],
        "environment": {"engine": "5", "network_isolated": True},
        "warnings": ["job_* is a member"],
    }


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda result: result["files"].update({"masks.safetensors": "b0"}), "masks.safetensors"),
        (lambda result: result["files"].update({"config.json": "c0"}), "config.json"),
        (lambda result: result["files"].update({"model-2.safetensors": "dd"}), "model-2.safetensors"),
        (lambda result: result["files"].pop("model.safetensors"), "model.safetensors"),
        (lambda result: result.update(engine="6"), "engine 5 and 6"),
        (
            lambda result: result["report"]["compressed"]["perplexity"].update(text=20.500000001),
            "report/compressed/perplexity/text: 20.5 and 20.500000001",
        ),
        (
            lambda result: result["report"].update(phases=[{"name": "merging"}, {"name": "fetching"}]),
            "report/phases: [{'name': 'pruning', 'perplexity': None}] and [{'name': 'fetching'}, {'name': 'merging'}]",
        ),
        (
            lambda result: result["report"]["environment"].update(network_isolated=1),
            "report/environment/network_isolated: True and 1",
        ),
        (lambda result: result.update(error="failed: numerical"), "new: failed: numerical"),
    ],
)
def test_every_other_difference_is_told(change: Callable[[Any], None], expected: str) -> None:
    assert differences(RESULT, changed(change)) == [expected]


def test_a_result_without_weights_is_none() -> None:
    empty = changed(lambda result: result.update(files={}))
    assert differences(empty, empty) == ["no safetensors"]


def test_all_files_are_compared_but_those_that_tell_of_the_run() -> None:
    kinds = {"model.safetensors": "model", "tokenizer.json": "tokenizer", "report.json": "report", "README.md": "card"}
    rows = {name: {"kind": kind, "sha256": name.upper()} for name, kind in kinds.items()}
    assert digests(rows) == {"model.safetensors": "MODEL.SAFETENSORS", "tokenizer.json": "TOKENIZER.JSON"}


def test_the_sums_say_what_differs_and_so_does_the_exit_status() -> None:
    killed = {"job": "job_1", "phase": "pruning", "checkpoint": "block-00000", "amid": True}
    other = changed(lambda result: result["files"].update({"config.json": "c0", "model.safetensors": "a0"}))
    late, lines = RESULT | {"killed": killed}, list[str]()
    assert show({"a": RESULT, "b": RESULT}, {"a": RESULT, "b": RESULT}, {"a": late}, lines.append) == 0
    assert show({"a": RESULT, "b": RESULT}, {"a": RESULT, "b": other}, {}, lines.append) == 1
    assert show({"a": RESULT}, {"a": RESULT}, {"a": other | {"killed": killed}}, lines.append) == 1
    assert show({"a": RESULT}, {"a": RESULT}, {"a": {"error": "did not resume"}}, lines.append) == 1
    assert show({}, {}, {}, lines.append) == 1, "nothing was compared"
    assert lines == [
        "2 jobs, 6 files: 0 differ; 1 resumed: 0 differ",
        "b: config.json",
        "b: model.safetensors",
        "2 jobs, 6 files: 1 differ; 0 resumed: 0 differ",
        "a, resumed: config.json",
        "a, resumed: model.safetensors",
        "1 jobs, 3 files: 0 differ; 1 resumed: 1 differ",
        "a, resumed: did not resume",
        "1 jobs, 3 files: 0 differ; 1 resumed: 1 differ",
        "0 jobs, 0 files: 0 differ; 0 resumed: 0 differ",
    ]


def test_a_result_is_kept_for_the_same_request_and_an_error_never(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "results")
    kept.put("a", {"spec": 1}, RESULT)
    kept.put("b", {"spec": 1}, {"error": "failed"})
    assert kept.get("a", {"spec": 1}) == RESULT | {"body": {"spec": 1}}
    assert kept.get("a", {"spec": 2}) is None
    assert kept.get("b", {"spec": 1}) is None


def test_a_job_is_killed_in_a_heavy_phase_that_goes_on_behind_its_first_checkpoint() -> None:
    stored = [["baseline", "result"], ["pruning", "block-0"], ["pruning", "result"], ["retraining", "trained"]]
    assert {phase_to_kill_in(f"job {number}", stored) for number in range(20)} == {"pruning"}
    both = [*stored, ["retraining", "result"]]
    assert {phase_to_kill_in(f"job {number}", both) for number in range(20)} == {"pruning", "retraining"}
    assert phase_to_kill_in("job", [["retraining", "trained"]]) == "retraining"


def test_a_job_is_killed_behind_the_first_checkpoint_of_its_phase_and_before_the_end_of_it() -> None:
    def event(kind: str, phase: str, name: str = "") -> dict[str, Any]:
        return {"type": f"job.{kind}", "phase": phase, "data": {"name": name}}

    begun = [event("checkpoint", "baseline", "result"), event("phase_started", "pruning")]
    stored = [*begun, event("checkpoint", "pruning", "block-0")]
    over = [*stored, event("phase_completed", "pruning"), event("checkpoint", "pruning", "result")]
    assert amid({"a": begun}, "pruning", late=True) is None
    killed = {"job": "a", "phase": "pruning", "checkpoint": "block-0", "amid": True}
    assert amid({"parent": over, "a": stored}, "pruning", late=False) == killed
    assert amid({"a": over}, "pruning", late=False) is None
    assert amid({"a": over}, "pruning", late=True) == killed | {"checkpoint": "result", "amid": False}


def test_every_field_and_word_of_a_spec_is_asked_for_and_a_new_one_is_missed() -> None:
    schema = JobRequest.model_json_schema()
    jobs = bodies(Path("/inputs"))
    assert len(jobs) >= 60
    assert uncovered({}, schema, jobs) == []
    schema["$defs"]["Retrain"]["properties"]["momentum"] = {"type": "number"}
    schema["$defs"]["Output"]["properties"]["format"]["enum"].append("gguf")
    catalogue = {"criteria": [{"name": "wanda"}, {"name": "alice"}], "families": [{"model_type": "bert"}]}
    assert uncovered(catalogue, schema, jobs) == [
        "/output/format=gguf",
        "/retrain/momentum",
        "methods: alice",
        "methods: bert",
    ]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A source of another layout, with a package of a name that is installed and one that is not."""
    for name in ("app", "elsewhere"):
        (tmp_path / "tree" / name).mkdir(parents=True)
        (tmp_path / "tree" / name / "__init__.py").touch()
    (tmp_path / "tree" / "pyproject.toml").write_text('[project.scripts]\nespalier = "elsewhere.door:run"\n')
    return Tree(tmp_path / "tree")


def test_the_command_is_the_one_of_the_tree(tree: Tree) -> None:
    (tree.folder / "elsewhere" / "door.py").write_text("import sys\ndef run(): print(*sys.argv)\n")
    command, environment = [*tree.command, "serve"], {"PYTHONPATH": str(tree.folder)}
    assert subprocess.check_output(command, env=environment, text=True) == "espalier serve\n"


@pytest.mark.parametrize("path", ["tree", "", "app first"])
def test_a_service_of_other_code_than_its_tree_is_found_out(tree: Tree, tmp_path: Path, path: str) -> None:
    (tmp_path / "app").mkdir()
    service = Installation.of(tree, tmp_path / "home")
    folder = tmp_path if path == "app first" else service.home
    environment = {"PYTHONPATH": str(tree.folder) if path else ""}
    program = [sys.executable, "-c", "print(flush=True); input()"]
    service.process = subprocess.Popen(
        program, env=environment, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert service.process.stdout is not None
        service.process.stdout.readline()
        if path == "tree":
            assert [process.pid for process in service.look()] == [service.process.pid]
            assert service.look(), "known by now, and still a process that serves no job"
        else:
            with pytest.raises(ForeignCode, match="/app"):
                service.look()
    finally:
        service.process.communicate()


def test_trees_are_named_by_what_is_in_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "repository"
    root.mkdir()
    monkeypatch.setattr(trees, "ROOT", root)
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@example.com"]
    (root / "code.py").write_text("one")
    for command in (["init", "--quiet"], ["add", "code.py"], ["commit", "--quiet", "--message", "one"]):
        subprocess.run([*git, *command], check=True)
    clean = working_tree(tmp_path)
    (root / "code.py").write_text("two")
    (root / "new.py").write_text("not yet added")
    old, new = commit("HEAD", tmp_path), working_tree(tmp_path)
    assert (old.folder / "code.py").read_text() == "one"
    assert {path.name: path.read_text() for path in new.folder.iterdir()} == {
        "code.py": "two",
        "new.py": "not yet added",
    }
    assert len({clean.name, old.name, new.name}) == 3
    assert working_tree(tmp_path) == new
    with pytest.raises(ValueError, match="nowhere is no commit"):
        commit("nowhere", tmp_path)
    assert json.dumps(sorted(path.name for path in tmp_path.iterdir())).count("half") == 0
