"""The publisher process: `python -m workers.publisher < request.json` sends one result to one target.

It has the network and the credentials of the project. Sent again, an equal result is recognised by its manifest.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx

from app.errors import AppError
from app.integrations.shared.targets import PublicFile, PublishRequest, TargetRefused
from espalier.messages import ErrorInfo, Failed
from workers.messages import Published
from workers.processes.pipe import MessageWriter, take_stdout


def gather(files: list[PublicFile], folder: Path) -> None:
    """Collect the files of a result in a folder: links to local files, downloads of the others."""
    for file in files:
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        url = urlsplit(file.url)
        if url.scheme == "file":
            path.symlink_to(unquote(url.path))
            continue
        with httpx.stream("GET", file.url, timeout=60) as answer:
            answer.raise_for_status()
            with path.open("wb") as target:
                for chunk in answer.iter_bytes(2**20):
                    target.write(chunk)


def describe(error: Exception) -> ErrorInfo:
    """Return the contract's error for an exception of the publisher."""
    if isinstance(error, TargetRefused):
        message, hint, retryable = error.message, error.hint, error.retryable
    elif isinstance(error, OSError | httpx.HTTPError | AppError):
        message, hint, retryable = f"The result could not be read ({type(error).__name__}).", "It is tried again.", True
    else:
        message, hint, retryable = f"Unexpected {type(error).__name__}.", "This is a fault of the service.", False
    return ErrorInfo(class_="publish_failed", retryable=retryable, phase="publishing", message=message, hint=hint)


def main() -> int:
    """Read one request from standard input, publish, and say how it went."""
    pipe = MessageWriter(take_stdout())
    answer: Published | Failed
    try:
        request = PublishRequest.model_validate_json(sys.stdin.readline())
        folder = Path(request.workspace) / "publish" / request.job_id / "files"
        gather(request.files, folder)
        reference = request.target.publish(request, folder)
        answer = Published(target=request.target.model_dump(mode="json"), reference=reference)
    except Exception as error:  # noqa: BLE001 (the one place where every failure becomes a message)
        if not isinstance(error, TargetRefused):
            traceback.print_exc()
        answer = Failed(error=describe(error))
    pipe.send(answer)
    return 0 if isinstance(answer, Published) else 1


if __name__ == "__main__":
    sys.exit(main())
