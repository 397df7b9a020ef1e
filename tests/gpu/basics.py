"""Rows on the card and on what a worker relies on: facts, speeds, OPT, a full memory, a killed process, equal bytes."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import torch

from espalier.diagnosis import classify
from espalier.messages import Message, PhaseStarted
from espalier.model import numerics
from espalier.model.safetensors_writer import sha256_of
from espalier.session import Session, limits
from tests.fixtures.library.tiny_models import write_tiny_model
from tests.gpu import roofline
from tests.gpu.jobs import Ended, run_job
from tests.gpu.setting import Setting
from tests.gpu.shapes import NARROW, tiny
from tests.gpu.table import Measured, Row

TRAINED: Final = {"steps": 4, "batch_size": 2, "learning_rate": 1e-3}
REFIT: Final = {"epochs": 1, "batch_size": 4, "learning_rate": 0.01}
SHORT: Final = {"samples": 12, "sequence_length": 32}
SLACK: Final = 64 * 2**20
"""Bytes that a driver may keep of a process that is gone."""
PRETEND_SLACK: Final = 2**16
FREED_SECONDS: Final = 30.0


def rows() -> list[Row]:
    """Return the rows, by their value."""
    return [
        Row("device", "a product of whole numbers", "the CPU's, to the last bit", 20, _device),
        Row("speeds", "matrix products and copies", "of a known card, half of its rates at least", 30, _speeds),
        Row("opt", "an OPT, all phases, deterministic mode", "the job ends, with a perplexity", 40, _opt),
        Row("memory", "a card that is full in mid-job", "`gpu_oom`, and the next attempt takes less", 60, _full),
        Row("kill", "SIGKILL to a process that fills the card", "its memory is free in seconds", 60, _killed),
    ]


def late_rows() -> list[Row]:
    """Return what is proved after the speeds of models."""
    return [Row("bytes", "the same job twice: prune, reconstruct, retrain", "equal sha256 of every file", 40, _twice)]


def _device(setting: Setting) -> Measured:
    with setting.card.computing():
        setting.facts |= setting.card.facts()
        draws = torch.Generator().manual_seed(0)
        # Every sum of products is a whole number below 2**24: float32 holds it in any order.
        left, right = torch.randint(-8, 9, (2, 512, 512), generator=draws).float()
        product = (left.to(setting.card.device) @ right.to(setting.card.device)).cpu()
    wrong = int((product != left @ right).sum())
    return Measured(f"{wrong} of {product.numel()} wrong", wrong == 0)


def _speeds(setting: Setting) -> Measured:
    pretend, device = setting.card.pretend, setting.card.device
    side, size = (128, 2**20) if pretend else (8192, 2**30)
    with setting.card.computing():
        factor = torch.randn(side, side, generator=torch.Generator().manual_seed(0))  # of ones it would be faster
        speeds = {
            name: 2 * side**3 / _seconds(device, _product(factor.to(device, dtype)))
            for name, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32))
        }
        on_card, on_host = torch.zeros(size, dtype=torch.uint8, device=device), torch.zeros(size, dtype=torch.uint8)
        into = torch.empty_like(on_card)
        speeds["memory"] = 2 * size / _seconds(device, lambda: into.copy_(on_card))  # read and written
        speeds["to_device"] = size / _seconds(device, lambda: into.copy_(on_host))
        speeds["to_host"] = size / _seconds(device, lambda: on_host.copy_(on_card))
        if not pretend:
            pinned = torch.zeros(size, dtype=torch.uint8, pin_memory=True)
            speeds["to_device_pinned"] = size / _seconds(device, lambda: into.copy_(pinned))
    setting.speeds |= speeds
    units = {"bfloat16": "FLOP", "float32": "FLOP"}
    text = ", ".join(
        f"{name.replace('_', ' ')} {rate / 1e9:.0f} G{units.get(name, 'B')}/s" for name, rate in speeds.items()
    )
    with suppress(LookupError):
        peak = roofline.peak_of(setting.facts.get("name", ""), {})
        reached = {name: round(speeds[name] / getattr(peak, name), 2) for name in ("bfloat16", "float32", "memory")}
        parts = ", ".join(f"{name} {fraction:.0%}" for name, fraction in reached.items())
        return Measured(
            f"{text}; of the datasheet: {parts}", min(reached.values()) >= 0.5, speeds | {"reached": reached}
        )
    return Measured(text, numbers=speeds)


def _product(factor: torch.Tensor) -> Callable[[], object]:
    return lambda: factor @ factor


def _seconds(device: torch.device, work: Callable[[], object], *, times: int = 5) -> float:
    """Return the mean seconds of a few runs, after two that warm up."""
    for _ in range(2):
        work()
    numerics.synchronize(device)
    began = time.monotonic()
    for _ in range(times):
        work()
    numerics.synchronize(device)
    return max(time.monotonic() - began, 1e-9) / times


def _perplexity(ended: Ended) -> float:
    return float(ended.report["compressed"]["perplexity"]["text"])


def _opt(setting: Setting) -> Measured:
    model = write_tiny_model(setting.folder / "opt", "opt")
    ended = run_job(
        setting,
        model,
        whole=True,
        calibration=_calibration(setting),
        prune={"method": "sparsegpt", "sparsity": 0.5},
        reconstruct=REFIT,
        retrain=TRAINED,
    )
    achieved, perplexity = float(ended.report["sparsity"]["achieved"]), _perplexity(ended)
    holds = abs(achieved - 0.5) < 0.02 and 1 < perplexity < 1e6
    return Measured(f"{sum(ended.seconds.values()):.1f} s, sparsity {achieved:.3f}, perplexity {perplexity:.1f}", holds)


def _calibration(setting: Setting, **fields: Any) -> dict[str, Any]:
    return {"dataset": {"kind": "local", "path": str(setting.texts / "train.txt")}} | SHORT | fields


def _full(setting: Setting) -> Measured:
    shape = tiny(NARROW) if setting.card.pretend else NARROW
    model, device, ballast, room = setting.model(shape), setting.card.device, list[torch.Tensor](), [0]
    calibration = _calibration(setting, samples=shape.windows, sequence_length=shape.length)
    valid = {"kind": "local", "path": str(setting.texts / "valid.txt")}
    scored = {"name": "text", "dataset": valid, "sequence_length": shape.length, "max_windows": 1}
    spec: dict[str, Any] = {"calibration": calibration, "evaluate": {"latency": False, "perplexity": [scored]}}

    def fill(session: Session, message: Message) -> None:
        """Leave what walking block by block takes, once it is decided that the model is held whole."""
        if isinstance(message, PhaseStarted) and message.phase == "baseline" and not ballast:
            needed = limits.measured(session)
            room[0] = 10 * max(need.bytes for need in needed.required_on_device(session.request.spec)) // 8
            if needed.model <= room[0]:
                raise AssertionError(
                    f"the model takes {needed.model} bytes, and would fit in the {room[0]} that are left"
                )
            free = numerics.free_bytes(device)
            numerics.release_device_memory(device)
            ballast.append(torch.empty(free - room[0], dtype=torch.uint8, device=device))

    try:
        run_job(setting, model, whole=True, hear=fill, **spec)
    except Exception as error:  # noqa: BLE001 - its class is what is proved
        info = classify(error, phase="baseline")
        error.__traceback__ = None  # its frames hold tensors
    else:
        return Measured(f"a job went through with {room[0]} bytes for more", holds=False)
    setting.clear()
    if (info.class_, info.retryable) != ("gpu_oom", True):
        return Measured(f"{info.class_}, retryable {info.retryable}: {info.message}", holds=False)
    ended = run_job(setting, model, whole=True, changes={"ran_out": {"baseline": 1}}, **spec)
    peak = max(ended.peaks.values()) - sum(each.nbytes for each in ballast)
    text = f"{info.class_}; the next attempt ended in {peak / 2**20:.0f} of {room[0] / 2**20:.0f} MiB, block by block"
    return Measured(f"{info.message} {text}", "smaller_attempt" in ended.warnings and _perplexity(ended) > 0)


def _killed(setting: Setting) -> Measured:
    device, slack = setting.card.device, PRETEND_SLACK if setting.card.pretend else SLACK
    with setting.card.computing():
        before = numerics.free_bytes(device)
        process = setting.card.holder(before // 10 * 8)
        try:
            assert process.stdout is not None
            if process.stdout.readline().strip() != "held":
                raise AssertionError(f"the process took no memory: it ended with {process.wait()}")
            held = before - numerics.free_bytes(device)
            process.send_signal(signal.SIGKILL)
            seconds = _until_free(setting, before - slack)
        finally:
            _end(process)
    text = f"{held / 2**30:.1f} GiB were held, and free {seconds:.2f} s after the signal"
    return Measured(text, held > before // 2 and seconds < FREED_SECONDS, {"held": held, "seconds": seconds})


def _until_free(setting: Setting, wanted: int) -> float:
    began = time.monotonic()
    while numerics.free_bytes(setting.card.device) < wanted:
        if time.monotonic() - began > FREED_SECONDS:
            return FREED_SECONDS
        time.sleep(0.02)
    return time.monotonic() - began


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


def _twice(setting: Setting) -> Measured:
    model = write_tiny_model(setting.folder / "small", hidden_size=64, intermediate_size=256)
    first, second = (_digests(setting, run_job(setting, model, whole=True, **_everything(setting))) for _ in range(2))
    different = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
    return Measured(f"{len(first)} files, {len(different)} differ", bool(first) and not different, {"sha256": first})


def _everything(setting: Setting) -> dict[str, Any]:
    prune = {"method": "wanda", "sparsity": 0.5, "optimizer": {"kind": "sparseswaps", "iterations": 4}}
    prune |= {"update": {"kind": "sparsegpt"}}
    return {"calibration": _calibration(setting), "prune": prune, "reconstruct": REFIT, "retrain": TRAINED}


def _digests(setting: Setting, ended: Ended) -> dict[str, str]:
    files = sorted(ended.artifact.rglob("*.safetensors"))
    return {path.relative_to(ended.artifact).as_posix(): sha256_of(path)[0] for path in files}
