"""Which GPUs there are, and which of them, with which cores, a worker has for itself."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from app.settings import Settings
from tests.fixtures.workers.cards import GIB, Cards
from workers import main
from workers.processes import cards, machine
from workers.processes.cards import NoCard
from workers.processes.placement import Placement, wanted
from workers.processes.process import environment

AUTO = Settings(device="auto", threads=4)


def uuids(gpus: str, settings: Settings = AUTO) -> list[str]:
    return [card.uuid for each in wanted(gpus, settings) for card in each.cards]


def test_each_card_has_a_worker_of_its_own(nvidia_smi: Cards) -> None:
    nvidia_smi.are(80, 80, 80)
    every = ["GPU-00000000", "GPU-00000001", "GPU-00000002"]
    assert uuids("auto") == uuids("3") == every
    assert uuids("1") == every[:1]
    assert uuids("GPU-00000002,GPU-00000000") == [every[2], every[0]]
    assert {each.memory_bytes for each in wanted("auto", AUTO)} == {80 * GIB}


def test_slices_are_cards(nvidia_smi: Cards) -> None:
    nvidia_smi.are(80, slices={0: ["3g.40gb", "3g.40gb"]})
    assert uuids("auto") == ["MIG-00000000", "MIG-00000001"]
    assert [each.memory_bytes for each in wanted("auto", AUTO)] == [40 * GIB] * 2


@pytest.mark.parametrize(
    ("gib", "slices", "gpus", "says"),
    [
        ((), {}, "auto", "this machine has no GPU to compute on: see `nvidia-smi -L`"),
        ((80,), {}, "2", "asks for 2 GPUs and this machine has 1"),
        ((80,), {}, "0", "ask for at most so many"),
        ((80,), {}, "GPU-77", r"GPU-77 is no GPU of this machine; there are GPU-00000000 \(NVIDIA H80, 80 GiB\)"),
        ((80, 80), {}, "GPU-0", "GPU-0 is more than one GPU"),
        ((80,), {}, "GPU-00000000,GPU-00000000", "named twice"),
        ((80,), {0: []}, "auto", r"a GPU in MIG mode takes slices \(nvidia-smi mig"),
        ((80, 24), {}, "auto", "these differ: .*80 GiB.*24 GiB.*start one worker for each size"),
        ((80,), {0: ["3g.40gb", "1g.10gb"]}, "auto", "these differ: .*3g.40gb.*1g.10gb"),
    ],
)
def test_cards_that_cannot_be_had_are_refused_with_what_to_do(
    gib: tuple[int, ...], slices: dict[int, list[str]], gpus: str, says: str, nvidia_smi: Cards
) -> None:
    nvidia_smi.are(*gib, slices=slices)
    with pytest.raises(NoCard, match=says):
        wanted(gpus, AUTO)
    with pytest.raises(SystemExit, match=says):
        main.main(["--gpus", gpus])


def test_cards_of_unequal_size_are_workers_of_their_own(nvidia_smi: Cards) -> None:
    nvidia_smi.are(80, 24)
    assert [wanted(f"GPU-0000000{number}", AUTO)[0].memory_bytes for number in (0, 1)] == [80 * GIB, 24 * GIB]


def test_a_driver_that_fails_is_told_in_its_words(nvidia_smi: Cards, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi.fail("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n")
    with pytest.raises(NoCard, match=r"communicate with the NVIDIA driver\.: mend the driver"):
        wanted("auto", AUTO)
    with capture_logs() as lines:
        assert Placement.of(AUTO) == Placement("cpu")
    assert [line["log_level"] for line in lines] == ["warning"], "a GPU that nobody uses is worth a word"
    assert Placement.of(Settings(device="cuda")) == Placement("cuda"), "its probe will tell"
    monkeypatch.setattr(cards, "PROGRAMS", ())
    with pytest.raises(NoCard, match="install the NVIDIA driver"):
        wanted("auto", AUTO)


@pytest.mark.parametrize(
    "words", [b"\xff\xfe\x00\n", b"<html>, a, b, c, d\n", b", , , , \n", b"No devices were found\n"]
)
def test_what_is_no_card_is_taken_for_none_and_told(words: bytes, nvidia_smi: Cards) -> None:
    nvidia_smi.say(words)
    with capture_logs() as lines:
        assert Placement.of(AUTO) == Placement("cpu")
    assert [line["event"] for line in lines] == ["nvidia-smi lists something that is no GPU"]
    with pytest.raises(NoCard, match="this machine has no GPU to compute on"):
        wanted("auto", AUTO)


def test_words_of_a_driver_need_no_encoding(nvidia_smi: Cards) -> None:
    nvidia_smi.fail(b"Ger\xe4t fehlt\n")
    with pytest.raises(NoCard, match="fehlt: mend the driver"):
        wanted("auto", AUTO)


def test_a_driver_that_the_kernel_keeps_is_not_waited_for(nvidia_smi: Cards, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi.hang()
    kept: list[subprocess.Popen[str]] = []

    def keep(process: subprocess.Popen[str]) -> None:
        kept.append(process)

    monkeypatch.setattr(cards, "ANSWER_SECONDS", 0.1)
    monkeypatch.setattr(cards, "KILL_SECONDS", 0.1)
    monkeypatch.setattr(subprocess.Popen, "kill", keep)
    with pytest.raises(NoCard, match="does not answer"):
        wanted("auto", AUTO)
    (process,) = kept
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_setting_that_forbids_gpus_is_not_passed_over(nvidia_smi: Cards) -> None:
    nvidia_smi.are(80)
    with pytest.raises(NoCard, match="ESPALIER_DEVICE=cpu forbids"):
        wanted("auto", Settings(device="cpu"))
    assert Placement.of(Settings(device="cpu")) == Placement("cpu")


def test_one_job_is_not_several_gpus(nvidia_smi: Cards) -> None:
    nvidia_smi.are(80, 80)
    with pytest.raises(SystemExit, match="--once works on one job, and --gpus auto are 2 GPUs"):
        main.main(["--once", "--gpus", "auto"])


@pytest.mark.parametrize(
    ("chosen", "left"),
    [
        ("1", ["GPU-00000001"]),
        ("GPU-00000001, 0", ["GPU-00000001", "GPU-00000000"]),
        ("", []),
        ("-1", []),
        ("1,-1,0", ["GPU-00000001"]),
    ],
)
def test_what_the_environment_hides_is_not_taken(
    chosen: str, left: list[str], nvidia_smi: Cards, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvidia_smi.are(80, 80)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert [card.uuid for card in cards.visible()] == left
    assert machine.device_of(AUTO) == ("cuda" if left else "cpu")


def test_a_worker_that_is_told_nothing_takes_the_first_card(nvidia_smi: Cards) -> None:
    nvidia_smi.are(80, 24)
    only = Placement.of(AUTO)
    assert (only.device, [card.uuid for card in only.cards], only.memory_bytes) == ("cuda", ["GPU-00000000"], 80 * GIB)


def test_a_class_of_cpus_leaves_the_gpu_to_the_others(nvidia_smi: Cards) -> None:
    nvidia_smi.are(80)
    classes = "cpu=16e9,slow=32e9:1e12,gpu=80e9"
    auto, cuda = (Settings.model_validate({"device": device, "worker_classes": classes}) for device in ("auto", "cuda"))
    assert [Placement.of(auto, name).device for name in ("cpu", "slow", "gpu")] == ["cpu", "cpu", "cuda"]
    assert Placement.of(cuda, "cpu").device == "cuda", "somebody has said so"
    assert [card.uuid for each in wanted("auto", auto) for card in each.cards] == ["GPU-00000000"]


def test_cores_are_divided_among_the_cards_of_a_node(nvidia_smi: Cards, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi.are(80, 80, 80)
    nodes = {"0000:01:00.0": {0, 1, 2, 3, 64}, "0000:02:00.0": {0, 1, 2, 3, 64}, "0000:03:00.0": {4, 5, 6, 7, 65}}
    monkeypatch.setattr(cards, "cpus_of", lambda card: nodes[card.bus_id])
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    placements = wanted("auto", AUTO)
    assert [sorted(each.cpus) for each in placements] == [[0, 1], [2, 3], [4, 5, 6, 7]]
    assert [each.settings(Settings(device="auto")).threads for each in placements] == [2, 2, 4]
    assert {each.settings(Settings(threads=3)).threads for each in placements} == {3}, "somebody has set them"
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert [sorted(each.cpus) for each in wanted("2", AUTO)] == [[0], [0]], "more cards than cores share them"


def test_the_node_of_a_card_is_read_where_linux_keeps_it(nvidia_smi: Cards, tmp_path: Path) -> None:
    nvidia_smi.are(80)
    (card,) = cards.visible()
    folder = tmp_path / "bus/pci/devices/0000:01:00.0"
    assert cards.cpus_of(card, tmp_path) == set()
    folder.mkdir(parents=True)
    (folder / "local_cpulist").write_text("0-3,8\n")
    assert cards.cpus_of(card, tmp_path) == {0, 1, 2, 3, 8}


def test_children_see_the_card_of_their_worker_by_its_uuid(
    nvidia_smi: Cards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvidia_smi.are(80, 80)
    bound: list[set[int]] = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cpus: bound.append(set(cpus)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    for name, value in {"NCCL_DEBUG": "INFO", "CUDA_MPS_PIPE_DIRECTORY": "/mps", "CUDA_CACHE_PATH": "/c"}.items():
        monkeypatch.setenv(name, value)
    wanted("GPU-00000001", AUTO)[0].enter()
    env = environment("compute", tmp_path, 1)
    assert (env["CUDA_VISIBLE_DEVICES"], env["CUDA_DEVICE_ORDER"]) == ("GPU-00000001", "PCI_BUS_ID")
    assert (env["NCCL_DEBUG"], env["CUDA_MPS_PIPE_DIRECTORY"], env["CUDA_CACHE_PATH"]) == ("INFO", "/mps", "/c")
    assert "NCCL_DEBUG" not in environment("fetch", tmp_path, 1)
    assert bound == [set(os.sched_getaffinity(0))]


def test_workers_of_a_class_of_several_cards_have_as_many_each(nvidia_smi: Cards) -> None:
    nvidia_smi.are(80, 80, 80, 80)
    pairs = AUTO.model_copy(update={"worker_classes": "gpu=80e9,gpu2=80e9x2"})
    placements = wanted("auto", pairs, "gpu2")
    assert [len(each.cards) for each in placements] == [2, 2]
    assert {card.uuid for each in placements for card in each.cards} == set(uuids("auto"))
    assert [len(each.cards) for each in wanted("auto", pairs, "gpu")] == [1] * 4
    assert len(Placement.of(pairs, "gpu2").cards) == 2, "a worker that is told none takes the first ones"
    with pytest.raises(NoCard, match=r"have 2 cards each .* and 3 are given: give a multiple of 2"):
        wanted("3", pairs, "gpu2")
