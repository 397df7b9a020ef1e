"""A job belongs to the smallest worker class that holds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.errors import InvalidRequest
from app.services.admission import routing
from app.services.admission.probe_cache import probe_cached
from app.settings import Settings
from espalier.memory import estimate
from espalier.memory.constants import LIBRARIES_BYTES
from espalier.probe import ModelFacts, probe
from espalier.recipe.spec import CompressionSpec
from tests.fixtures.library.demo_model import DEMO_MODEL

SPEC = CompressionSpec.model_validate(
    {"prune": {"method": "magnitude", "sparsity": 0.5}, "calibration": {"samples": 4, "sequence_length": 32}}
)


@pytest.fixture(scope="module")
def facts() -> ModelFacts:
    return probe(DEMO_MODEL)


def settings(classes: str) -> Settings:
    return Settings(worker_classes=classes)


def llama_3(facts: ModelFacts, *, width: int, feed_forward: int, blocks: int) -> ModelFacts:
    """The facts of a Llama 3: keys and values of 1,024 numbers, 128,256 tokens, head and embeddings apart."""
    shapes = {"self_attn.q_proj": (width, width), "self_attn.k_proj": (1024, width), "self_attn.v_proj": (1024, width)}
    shapes |= {"self_attn.o_proj": (width, width), "mlp.gate_proj": (feed_forward, width)}
    shapes |= {"mlp.up_proj": (feed_forward, width), "mlp.down_proj": (width, feed_forward)}
    matrices = [
        {"name": f"model.layers.{index}.{name}", "block": index, "num_outputs": outputs, "num_inputs": inputs}
        for index in range(blocks)
        for name, (outputs, inputs) in shapes.items()
    ]
    block = sum(outputs * inputs for outputs, inputs in shapes.values()) + 2 * width
    outer = {"num_blocks": blocks, "hidden_size": width, "vocab_size": 128_256, "matrices": matrices}
    parameters = blocks * block + (2 * 128_256 + 1) * width
    counts = {"block_parameters": [block] * blocks, "parameters": parameters, "bytes": 2 * parameters}
    return ModelFacts.model_validate(facts.model_dump() | outer | counts | {"max_positions": 131_072})


@pytest.fixture(scope="module")
def llama_8b(facts: ModelFacts) -> ModelFacts:
    return llama_3(facts, width=4096, feed_forward=14_336, blocks=32)


@pytest.fixture(scope="module")
def llama_70b(facts: ModelFacts) -> ModelFacts:
    return llama_3(facts, width=8192, feed_forward=28_672, blocks=80)


def job(**fields: Any) -> CompressionSpec:
    """A spec of 128 windows of 2,048 tokens, and the default measurement."""
    calibration = {"samples": 128, "sequence_length": 2048}
    return CompressionSpec.model_validate(
        {"prune": {"method": "wanda", "sparsity": 0.5}, "calibration": calibration, **fields}
    )


def peak(spec: CompressionSpec, facts: ModelFacts) -> int:
    """What the largest phase takes on a CPU."""
    needed = estimate(facts.shape, spec, device="cpu", itemsize=4, stored=2, text_bytes=0)
    return needed.largest_peak(spec, device="cpu")


def test_the_first_class_that_holds_a_job_takes_it(facts: ModelFacts) -> None:
    needed = peak(SPEC, facts) + 2**30  # where the model is held beside a block
    assert routing.worker_class(settings(f"cpu={needed},gpu={2 * needed}"), SPEC, facts) == "cpu"
    assert routing.worker_class(settings(f"cpu={2**20},gpu={2 * needed}"), SPEC, facts) == "gpu"
    assert routing.worker_class(settings("cpu=1,gpu=2"), None, None) == "cpu"
    assert routing.worker_class(settings("default"), SPEC, facts) == "default"


@pytest.mark.parametrize(
    ("retrain", "bytes_each"),
    [
        ({"trainable": ["norms"]}, 4),
        ({"trainable": ["norms"], "loss": "kl"}, 8),
        ({"method": "full"}, 21),
        ({"method": "full", "loss": "squarehead"}, 25),
    ],
)
def test_retraining_holds_the_whole_model_and_what_its_method_and_loss_keep(
    facts: ModelFacts, retrain: dict[str, Any], bytes_each: int
) -> None:
    spec = job(retrain=retrain, calibration=SPEC.calibration)
    needed = peak(spec, facts)
    assert needed > LIBRARIES_BYTES + bytes_each * facts.parameters
    assert routing.worker_class(settings(f"cpu={needed}"), spec, facts) == "cpu"
    with pytest.raises(routing.NoClassHolds, match="retraining, which holds the whole model") as refusal:
        routing.worker_class(settings(f"cpu={needed - 1}"), spec, facts)
    assert refusal.value.pointer == "/spec/retrain"
    assert str(needed) in refusal.value.message
    assert str(needed - 1) in refusal.value.message


@pytest.mark.parametrize("classes", ["cpu=16e9,gpu=80e9", "cpu=64e9,gpu=80e9", "slow=512e9:2e11,fast=600e9:2e14"])
@pytest.mark.parametrize("spec", [job(), job(prune={"method": "sparsegpt", "sparsity": 0.5})], ids=["wanda", "gpt"])
def test_eight_billion_parameters_never_go_to_a_cpu_by_memory_alone(
    spec: CompressionSpec, classes: str, llama_8b: ModelFacts
) -> None:
    assert routing.worker_class(settings(classes), spec, llama_8b) == settings(classes).classes[-1].name


def test_where_nothing_is_faster_a_slow_class_computes_for_days(llama_8b: ModelFacts) -> None:
    assert routing.worker_class(settings("cpu=64e9"), job(), llama_8b) == "cpu"
    assert routing.worker_class(settings("cpu=16e9,cpu2=64e9:9e11"), job(), llama_8b) == "cpu2"


def test_a_model_that_no_class_holds_whole_goes_block_by_block_where_its_blocks_fit(llama_70b: ModelFacts) -> None:
    classes = settings("cpu=16e9,gpu=80e9")
    assert routing.worker_class(classes, job(), llama_70b) == "gpu"
    assert routing.worker_class(classes, job(reconstruct={"window": "submodule"}), llama_70b) == "gpu"
    whole = settings("cpu=16e9,gpu=80e9,gpu2=200e9")
    assert routing.worker_class(whole, job(), llama_70b) == "gpu2", "held whole it is measured as stock loads it"


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"retrain": {"method": "full"}}, "/spec/retrain"),
        ({"retrain": {"trainable": ["norms"]}}, "/spec/retrain"),
        ({"evaluate": {"divergence": True}}, "/spec/evaluate/divergence"),
        ({"evaluate": {"tasks": ["piqa"]}}, "/spec/evaluate/tasks"),
    ],
    ids=str,
)
def test_what_no_class_holds_is_refused_with_pointer_and_numbers(
    fields: dict[str, Any], pointer: str, llama_70b: ModelFacts
) -> None:
    classes = settings("cpu=16e9,gpu=80e9")
    with pytest.raises(InvalidRequest) as refusal:
        routing.require_class(classes, job(**fields), llama_70b)
    (problem,) = refusal.value.items
    assert (problem.pointer, problem.code) == (pointer, "no-worker-class")
    assert "may take 72000000000 in the largest worker class (gpu)" in problem.detail
    with pytest.raises(routing.NoClassHolds):
        routing.larger_class(classes, "cpu", job(**fields), llama_70b)


def test_a_class_that_does_not_say_where_it_computes_may_have_a_gpu(llama_8b: ModelFacts) -> None:
    spec = job(retrain={"trainable": ["norms"], "loss": "kl", "batch_size": 1, "sequence_length": 512})
    assert peak(spec, llama_8b) > 60e9
    assert routing.worker_class(settings("small=16e9,large=60e9"), spec, llama_8b) == "large"
    with pytest.raises(routing.NoClassHolds):
        routing.worker_class(settings("small=16e9,large=60e9:1e11"), spec, llama_8b)


def test_a_class_says_its_speed_or_is_named_for_its_device() -> None:
    classes = settings("cpu=16e9,cpu2=32e9:4e12,x=40e9,gpu=80e9,big=141e9:8e14").classes
    assert [each.device for each in classes] == ["cpu", "cpu", None, "cuda", "cuda"]
    assert [each.seconds(8e14) for each in classes] == [8000, 200, 0, 0, 1]


@pytest.mark.parametrize("classes", ["", "cpu=2,gpu=1", "=5", "cpu=x", "cpu=1:x", "cpu=1:0", "cpu=1:-2"])
def test_classes_that_make_no_sense_are_refused(classes: str) -> None:
    with pytest.raises(ValueError, match=r"smallest first|number of|name of its own"):
        settings(classes)


def test_a_job_moves_on_when_its_model_turns_out_larger(facts: ModelFacts) -> None:
    classes = settings("cpu=1,gpu=2e12")
    assert routing.larger_class(classes, "cpu", SPEC, facts) == "gpu"
    assert routing.larger_class(classes, "gpu", SPEC, facts) is None
    assert routing.larger_class(classes, "by-hand", SPEC, facts) is None
    assert routing.larger_class(settings("cpu=1e12,gpu=2e12"), "cpu", SPEC, facts) is None


def test_a_folder_is_probed_again_when_a_file_is_another(tmp_path: Path) -> None:
    for file in DEMO_MODEL.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    first = probe_cached(tmp_path)
    assert probe_cached(tmp_path) is first
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    assert probe_cached(tmp_path).licence == "mit"


PERP = {"method": "perp", "steps": 1000, "batch_size": 8, "sequence_length": 2048}


def test_a_job_goes_to_a_class_with_the_cards_that_it_names(llama_8b: ModelFacts, llama_70b: ModelFacts) -> None:
    classes = settings("cpu=16e9,gpu=80e9:2e14,gpu2=80e9x2:2e14,gpu8=80e9x8:2e14")
    assert [each.cards for each in classes.classes] == [1, 1, 2, 8]
    assert routing.worker_class(classes, job(), llama_8b) == "gpu", "none is named: one card"
    assert routing.worker_class(classes, job(), llama_8b, gpus=1) == "gpu"
    assert routing.worker_class(classes, job(), llama_8b, gpus=2) == "gpu2"
    assert routing.worker_class(classes, None, None, gpus=8) == "gpu8"
    assert routing.larger_class(classes, "gpu8", job(), llama_8b, gpus=8) is None
    with pytest.raises(routing.NoClassHolds):
        routing.worker_class(classes, job(retrain=PERP), llama_70b)
    assert routing.worker_class(classes, job(retrain=PERP), llama_70b, gpus=8) == "gpu8"
    older = settings("cpu=16e9,gpu=141e9:4e14,gpu8=80e9x8:2e14")  # smallest first, each number of cards for itself
    assert routing.worker_class(older, job(), llama_8b, gpus=8) == "gpu8"


def test_cards_that_no_class_has_are_refused_with_those_that_are(llama_8b: ModelFacts) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        routing.require_class(settings("cpu=16e9,gpu8=80e9x8:2e14"), job(), llama_8b, gpus=4)
    (problem,) = refusal.value.items
    assert problem.pointer == "/limits/gpus"
    assert "cpu (1), gpu8 (8)" in problem.detail
    assert "name=bytesxCARDS:flops" in problem.detail
