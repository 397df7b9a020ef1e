"""What a model refuses of a spec."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from espalier.probe import Matcher, ModelFacts, check, probe
from espalier.recipe.expressions import Selection, TimeBudget
from espalier.recipe.spec import CompressionSpec
from tests.espalier.probe.checkpoints import LLAMA, OPT, write_model
from tests.espalier.probe.generated import tiny

MAGNITUDE = {"method": "magnitude", "sparsity": 0.5}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ModelFacts:
    return probe(write_model(tmp_path_factory.mktemp("llama")))


@pytest.fixture(scope="module")
def opt(tmp_path_factory: pytest.TempPathFactory) -> ModelFacts:
    return probe(write_model(tmp_path_factory.mktemp("opt"), OPT))


def found(facts: ModelFacts, **spec: Any) -> list[tuple[str, str]]:
    parsed = CompressionSpec.model_validate({"prune": MAGNITUDE} | spec)
    return [(problem.pointer, problem.code) for problem in check(parsed, facts)]


ALL_TARGETS = "/spec/prune/0/targets"
TWO_OF_16 = {"method": "magnitude", "pattern": {"kind": "nm", "n": 2, "m": 16}}


def targets(*include: str, exclude: str | None = None) -> dict[str, Any]:
    return {"include": list(include), "exclude": [exclude] if exclude else []}


def by_hand(values: object) -> dict[str, Any]:
    return {"budget": {"kind": "per_layer", "values": values}}


MATRIX = {"window": "matrix"}
TRAINABLE = "/spec/reconstruct/trainable"
FLAP = {"method": "flap", "sparsity": 0.5}
HALVES = [{"method": "angular", "sparsity": 0.5}, FLAP]


CASES: list[tuple[dict[str, Any], list[tuple[str, str]]]] = [
    ({}, []),
    ({"calibration": {"sequence_length": 64}}, []),
    ({"calibration": {"sequence_length": 65}}, [("/spec/calibration/sequence_length", "sequence-too-long")]),
    ({"retrain": {"sequence_length": 65, "rank": 8}}, [("/spec/retrain/sequence_length", "sequence-too-long")]),
    (
        {"evaluate": {"perplexity": [{"name": "a"}, {"name": "b", "sequence_length": 65}]}},
        [("/spec/evaluate/perplexity/1/sequence_length", "sequence-too-long")],
    ),
    ({"prune": MAGNITUDE | {"targets": targets("lm_head")}}, [(f"{ALL_TARGETS}/include/0", "selects-nothing")]),
    ({"prune": MAGNITUDE | {"targets": targets("q_proj", "typo")}}, [(f"{ALL_TARGETS}/include/1", "selects-nothing")]),
    ({"prune": MAGNITUDE | {"targets": targets(exclude=".")}}, [(ALL_TARGETS, "selects-nothing")]),
    ({"prune": MAGNITUDE | {"targets": targets(r"layers\.0\.")}}, []),
    ({"prune": {"method": "magnitude", "pattern": {"kind": "nm", "n": 2, "m": 4}}}, []),
    ({"prune": TWO_OF_16}, [("/spec/prune/0/pattern", "pattern-does-not-fit")]),
    ({"prune": MAGNITUDE | by_hand([0.5])}, [("/spec/prune/0/budget", "budget-does-not-fit")]),
    ({"prune": MAGNITUDE | by_hand([0.4, 0.6])}, []),
    ({"prune": MAGNITUDE | by_hand({"typo": 0.5})}, [("/spec/prune/0/budget", "budget-does-not-fit")]),
    ({"prune": TWO_OF_16 | {"targets": targets(exclude="down_proj")}}, []),
    ({"prune": {"method": "angular", "pattern": {"count": 1000}}}, [("/spec/prune/0", "no-block-left")]),
    ({"prune": [{"method": "angular", "pattern": {"count": 1}}, TWO_OF_16]}, []),
    ({"retrain": {"trainable": ["biases"]}}, [("/spec/retrain/trainable", "no-biases")]),
    ({"retrain": {"trainable": ["biases", "norms"]}}, []),
    ({"reconstruct": {"trainable": ["biases"]}}, [("/spec/reconstruct/trainable", "no-biases")]),
    ({"reconstruct": {"trainable": ["biases", "weights"]}}, []),
    ({"reconstruct": MATRIX | {"trainable": ["norms"]}}, [(TRAINABLE, "nothing-in-a-matrix")]),
    ({"reconstruct": MATRIX | {"trainable": ["norms", "biases"]}}, [(TRAINABLE, "nothing-in-a-matrix")]),
    ({"reconstruct": MATRIX | {"trainable": ["norms", "mask_lora"], "rank": 8}}, []),
    ({"reconstruct": {"window": "auto", "trainable": ["norms"]}}, []),  # known in the run alone
    ({"reconstruct": {"window": {"blocks": 2}}}, []),
    ({"reconstruct": {"window": {"blocks": 3}}}, [("/spec/reconstruct/window/blocks", "too-many-blocks")]),
    ({"reconstruct": {"trainable": ["mask_lora"], "rank": 9}}, [("/spec/reconstruct/rank", "rank-too-large")]),
    ({"reconstruct": {"trainable": ["norms"], "rank": 9}}, []),
    ({"retrain": {"rank": 8}}, []),
    ({"retrain": {"rank": 9}}, [("/spec/retrain/rank", "rank-too-large")]),
    ({"retrain": {"rank": 9, "trainable": ["norms"]}}, []),
    ({"retrain": {"rank": 16, "trainable": ["head"]}}, []),
    ({"retrain": {"rank": 16}, "prune": MAGNITUDE | {"targets": targets("mlp")}}, []),
    ({"retrain": {"rank": 9}, "prune": [FLAP, MAGNITUDE]}, [("/spec/retrain/rank", "rank-too-large")]),
    ({"retrain": {"rank": 9}, "prune": [FLAP, MAGNITUDE | {"targets": targets("mlp")}]}, []),
    ({"retrain": {"rank": 8}, "prune": MAGNITUDE | {"sparsity": 0.0}}, [("/spec/retrain/trainable", "nothing-pruned")]),
    ({"retrain": {"rank": 8}, "prune": []}, []),
    ({"prune": FLAP | {"pattern": {"multiple_of": 32}}}, [("/spec/prune/0/pattern/multiple_of", "multiple-too-large")]),
    ({"prune": FLAP | {"pattern": {"kind": "kv_groups", "multiple_of": 2}}}, []),
    ({"prune": {"method": "reap", "sparsity": 0.5}}, [("/spec/prune/0/pattern", "no-such-part")]),
    ({"prune": HALVES, "objective": {"parameters": 4000}}, []),
    ({"prune": HALVES, "objective": {"parameters": 100}}, [("/spec/objective/parameters", "out-of-reach")]),
    ({"prune": HALVES, "objective": {"parameters": 5456}}, [("/spec/objective/parameters", "out-of-reach")]),
    ({"prune": HALVES, "objective": {"bytes": 100}}, [("/spec/objective/bytes", "out-of-reach")]),
    ({"prune": HALVES, "objective": {"seconds_per_token": 1e-9}}, []),
    (
        {"prune": [{"method": "angular", "sparsity": 0.9}, FLAP], "objective": {"parameters": 100}},
        [("/spec/prune/0", "no-block-left")],
    ),
]


@pytest.mark.parametrize(("spec", "problems"), CASES)
def test_a_spec_is_held_against_a_model(
    spec: dict[str, Any], problems: list[tuple[str, str]], llama: ModelFacts
) -> None:
    assert found(llama, **spec) == problems


def test_a_pattern_that_does_not_fit_names_the_module_and_its_inputs(llama: ModelFacts) -> None:
    (problem,) = check(CompressionSpec.model_validate({"prune": TWO_OF_16}), llama)
    assert problem.detail.startswith("model.layers.0.mlp.down_proj has 24 inputs: ")


def test_biases_alone_are_enough_where_there_are_some(opt: ModelFacts) -> None:
    assert found(opt, retrain={"trainable": ["biases"]}, reconstruct={"trainable": ["biases"]}) == []


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen2"])
def test_groups_of_heads_go_to_a_number_that_a_stock_configuration_carries(family: str, tmp_path: Path) -> None:
    heads = {"hidden_size": 24, "num_attention_heads": 12, "num_key_value_heads": 6, "head_dim": 2}
    facts = probe(write_model(tmp_path, tiny(family) | heads))
    for kept in range(1, 7):
        step = FLAP | {"sparsity": round(1 - kept / 6, 4), "pattern": {"kind": "kv_groups"}}
        fits = family == "qwen2" or 24 % (2 * kept) == 0
        assert found(facts, prune=step) == ([] if fits else [("/spec/prune/0/sparsity", "count-does-not-fit")]), kept
    problems = check(CompressionSpec.model_validate({"prune": FLAP | {"pattern": {"kind": "kv_groups"}}}), facts)
    assert problems == []
    spec = CompressionSpec.model_validate({"prune": FLAP | {"sparsity": 0.2, "pattern": {"kind": "kv_groups"}}})
    assert family == "qwen2" or "can have 1, 2, 3, 4, 6" in check(spec, facts)[0].detail


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_an_expert_cannot_be_fitted_by_itself(family: str, tmp_path: Path) -> None:
    facts = probe(write_model(tmp_path, tiny(family)))
    assert found(facts, reconstruct=MATRIX) == [("/spec/reconstruct/window", "experts-by-matrix")]
    assert found(facts, prune=MAGNITUDE | {"targets": targets(exclude="experts")}, reconstruct=MATRIX) == []
    for window in ("submodule", "block", "all", "auto", {"blocks": 2}):
        assert found(facts, reconstruct={"window": window}) == []


def test_a_matrix_window_moves_the_biases_of_pruned_matrices(opt: ModelFacts, tmp_path: Path) -> None:
    assert found(opt, reconstruct=MATRIX | {"trainable": ["norms", "biases"]}) == []
    assert found(opt, reconstruct=MATRIX | {"trainable": ["norms"]}) == [(TRAINABLE, "nothing-in-a-matrix")]
    biases = {"reconstruct": MATRIX | {"trainable": ["biases"]}}
    qwen = probe(write_model(tmp_path, LLAMA | {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}))
    assert found(qwen, **biases) == []
    without = {"prune": MAGNITUDE | {"targets": targets("mlp")}}  # queries, keys and values have biases, and no other
    assert found(qwen, **biases, **without) == [(TRAINABLE, "nothing-in-a-matrix")]
    older = [matrix.model_dump(exclude={"biased"}) for matrix in qwen.matrices]
    assert found(ModelFacts.model_validate(qwen.model_dump() | {"matrices": older}), **biases, **without) == []


def test_parts_that_a_stock_model_needs_stay(opt: ModelFacts, tmp_path: Path) -> None:
    heads = FLAP | {"pattern": {"kind": "kv_groups"}}
    assert found(opt, prune=heads) == [("/spec/prune/0/pattern", "part-stays-whole")]
    mixtral = LLAMA | {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"]}
    mixtral |= {"num_local_experts": 4, "num_experts_per_tok": 2}
    facts = probe(write_model(tmp_path, mixtral))
    assert found(facts, prune={"method": "reap", "sparsity": 0.75}) == [("/spec/prune/0/sparsity", "too-few-left")]
    assert found(facts, prune={"method": "reap", "sparsity": 0.5}) == []
    assert found(facts, prune=FLAP) == [("/spec/prune/0/pattern", "part-stays-whole")]
    assert found(facts, prune=heads | {"update": "bias_mean"}) == [("/spec/prune/0/update", "no-biases")]


def test_nothing_stands_in_for_a_block_behind_whose_matrices_a_norm_stands(opt: ModelFacts, tmp_path: Path) -> None:
    step = {"method": "angular", "sparsity": 0.5, "replace": "least_squares"}
    assert found(opt, prune=step) == []
    behind = probe(write_model(tmp_path, OPT | {"do_layer_norm_before": False}))
    assert found(behind, prune=step) == [("/spec/prune/0/replace", "nothing-stands-in")]


def test_a_target_out_of_reach_is_told_the_range(llama: ModelFacts) -> None:
    spec = CompressionSpec.model_validate({"prune": HALVES, "objective": {"parameters": 100}})
    (problem,) = check(spec, llama)
    # one block of 768 + 32 + 3 x 12 x 16, and 1,552 outside: all of both steps; one parameter less than the model
    assert problem.detail == "these steps reach 2,928 to 5,455 parameters: allow them to remove more"


def test_blocks_that_cannot_be_split_are_refitted_whole(opt: ModelFacts, tmp_path: Path) -> None:
    behind = probe(write_model(tmp_path, OPT | {"do_layer_norm_before": False}))
    for window, there in [("block", True), ("matrix", True), ("auto", True), ("all", True), ("submodule", False)]:
        refusals = [] if there else [("/spec/reconstruct/window", "no-submodules")]
        assert found(behind, reconstruct={"window": window}) == refusals
        assert found(opt, reconstruct={"window": window}) == []


def test_a_head_is_as_wide_as_the_embeddings_that_a_small_model_projects(tmp_path: Path) -> None:
    facts = probe(write_model(tmp_path, OPT | {"word_embed_proj_dim": 8, "tie_word_embeddings": False}))
    assert found(facts, retrain={"trainable": ["head"], "rank": 8}) == []
    assert found(facts, retrain={"trainable": ["head"], "rank": 9}) == [("/spec/retrain/rank", "rank-too-large")]


def test_norms_alone_need_norms_with_weights(tmp_path: Path) -> None:
    bare = probe(write_model(tmp_path, OPT | {"enable_bias": False, "layer_norm_elementwise_affine": False}))
    assert found(bare, retrain={"trainable": ["norms"]}) == [("/spec/retrain/trainable", "no-norms")]


def test_text_needs_a_tokenizer(tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    facts = probe(tmp_path)
    assert found(facts) == [("/source", "no-tokenizer")]
    assert found(facts, evaluate={"perplexity": []}) == []
    wanda = {"method": "wanda", "sparsity": 0.5}
    assert found(facts, prune=wanda, evaluate={"perplexity": []}) == [("/source", "no-tokenizer")]


def test_all_problems_are_told_at_once(llama: ModelFacts) -> None:
    assert len(found(llama, calibration={"sequence_length": 99}, retrain={"rank": 99, "sequence_length": 99})) == 3


RUNS_AWAY = (r"((\w|\.|[a-z])+)+[^\w.]", r"(?:(.)|(.)|(.)|(.))+[A-Z]{9}", r"(?:(?:(?:.?){10}){10}){9}X")


def test_patterns_share_one_budget_of_cpu_over_all_jobs_of_a_request(tmp_path: Path) -> None:
    facts = probe(write_model(tmp_path, LLAMA | {"num_hidden_layers": 40}))
    start = time.thread_time()  # not what others do on this machine
    matcher = Matcher()
    for number in range(64):
        include = [rf"{pattern}{number}" for pattern in RUNS_AWAY]
        spec = CompressionSpec.model_validate({"prune": {**MAGNITUDE, "targets": {"include": include}}})
        assert {problem.code for problem in check(spec, facts, matcher)} <= {"selects-nothing", "slow-regex"}
    assert time.thread_time() - start < 1
    spent = check(spec, facts, Matcher(TimeBudget(0)))
    assert [(problem.pointer, problem.code) for problem in spent] == [(ALL_TARGETS, "slow-regex")]


def test_many_slow_patterns_end_soon_after_their_budget(tmp_path: Path) -> None:
    facts = probe(write_model(tmp_path, LLAMA | {"num_hidden_layers": 40}))
    exclude = [rf"(?:[a-z]?|\.?|_?|\d?){{250}}zz${number}" for number in range(30)]
    spec = CompressionSpec.model_validate({"prune": {**MAGNITUDE, "targets": {"exclude": exclude}}})
    start = time.thread_time()
    assert [problem.code for problem in check(spec, facts, Matcher(TimeBudget(0.05)))] == ["slow-regex"]
    assert time.thread_time() - start < 0.3


def test_what_a_request_does_besides_costs_its_patterns_nothing(llama: ModelFacts) -> None:
    matcher, spec = Matcher(TimeBudget(0.05)), CompressionSpec.model_validate({"prune": MAGNITUDE})
    began = time.thread_time()
    while time.thread_time() - began < 0.1:
        pass  # a model is looked at, garbage is collected
    assert check(spec, llama, matcher) == []


def test_a_set_of_patterns_is_matched_once_a_request(llama: ModelFacts, monkeypatch: pytest.MonkeyPatch) -> None:
    matcher, spec = Matcher(), CompressionSpec.model_validate({"prune": MAGNITUDE | {"targets": targets("mlp")}})
    assert check(spec, llama, matcher) == []
    monkeypatch.setattr(Selection, "selects", lambda *_: pytest.fail("matched again"))
    assert check(spec.model_copy(), llama, matcher) == []


@pytest.mark.parametrize("pattern", [r"(?=q)q_proj", r"(a)\1", "(?:(?:(?:a?){99}){99}){99}", "(", "q{,3}"])
def test_what_re2_does_not_take_is_refused_where_it_stands(llama: ModelFacts, pattern: str) -> None:
    bad = MAGNITUDE | {"targets": targets("q_proj", exclude=pattern)}
    assert found(llama, prune=bad) == [(f"{ALL_TARGETS}/exclude/0", "bad-regex")]
    behind = "/spec/prune/1/targets/exclude/0"
    assert found(llama, prune=[FLAP, bad]) == [(behind, "bad-regex")]
