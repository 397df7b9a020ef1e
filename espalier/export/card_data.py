"""Metadata of a model card, which registries read: lineage, licence (`license`), data and numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from huggingface_hub import EvalResult, ModelCardData

from espalier.export.outputs import OUTPUT_TAG, front_matter
from espalier.recipe.steps.dataset import KNOWN, Dataset, HuggingFaceDataset, dataset_name
from espalier.session import Session

_WORD: Final = re.compile(r"[A-Za-z0-9][\w.+-]{0,63}")
"""A licence by its identifier."""
_NOTICE: Final = re.compile(r"licen[cs]e([._-].*)?", re.IGNORECASE)


def front(session: Session, report: Mapping[str, Any], *, title: str) -> str:
    """Render the YAML front matter."""
    spec = session.request.spec
    data = ModelCardData(
        base_model=session.request.source_name,
        datasets=list(dict.fromkeys(_public_name(dataset) for dataset in _read(session))) or None,
        eval_results=list(_results(session, report)) or None,
        library_name="transformers",
        model_name=title,
        pipeline_tag="text-generation",
        tags=[OUTPUT_TAG, "pruned" if spec.prune else "retrained"],
        **licence(front_matter(session.source_dir / "README.md"), session.artifact_dir),
    )
    return f"---\n{data.to_yaml()}\n---"


def _read(session: Session) -> Iterator[Dataset]:
    """The texts that the result was made with."""
    spec = session.request.spec
    yield spec.calibration.dataset
    if spec.retrain is not None and spec.retrain.dataset is not None:
        yield spec.retrain.dataset


def _public_name(dataset: Dataset) -> str:
    """A repository of the Hub as a whole; of other text the name alone, without its place."""
    if isinstance(dataset, HuggingFaceDataset):
        return KNOWN[dataset.name][0] if dataset.name in KNOWN else dataset.name
    return dataset_name(dataset)


def licence(source: Mapping[str, Any], artifact: Path) -> dict[str, Any]:
    """Return the source's licence, which binds what is made of it; `other` where it names none that can be read."""
    declared = source.get("license")
    identifier = declared if isinstance(declared, str) and _WORD.fullmatch(declared) else "other"
    fields = {"license": identifier}
    name, link = (source.get(key) for key in ("license_name", "license_link"))
    if isinstance(name, str) and _WORD.fullmatch(name):
        fields["license_name"] = name
    elif identifier == "other":
        fields["license_name"] = "unknown"
    notice = next((file.name for file in sorted(artifact.iterdir()) if _NOTICE.fullmatch(file.name)), None)
    if isinstance(link, str) and re.fullmatch(r"https?://[!-~]{1,300}", link):
        fields["license_link"] = link
    elif notice is not None:
        fields["license_link"] = notice
    return fields


def _results(session: Session, report: Mapping[str, Any]) -> Iterator[EvalResult]:
    """Yield the measurements of the result, each number with its text."""
    texts = {item.key: item.dataset for item in session.request.spec.evaluate.perplexity}
    for name, value in report["compressed"]["perplexity"].items():
        dataset = texts[name]
        yield EvalResult(
            task_type="text-generation",
            dataset_type=_public_name(dataset),
            dataset_name=name,
            dataset_split=getattr(dataset, "split", None),
            metric_type="perplexity",
            metric_value=value,
        )
    for task, numbers in report["compressed"].get("tasks", {}).items():
        for metric, value in numbers.items():
            yield EvalResult(
                task_type="text-generation",
                dataset_type=task,
                dataset_name=task,
                metric_type=metric,
                metric_value=value,
            )
