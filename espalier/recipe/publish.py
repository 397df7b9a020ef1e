"""Where results go: a repository of the Hugging Face Hub, a registered model at MLflow, a prefix of an S3 bucket."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from espalier.recipe.base import Spec
from espalier.recipe.source import MlflowAlias, MlflowName, RepoId, S3Uri


class HubTarget(Spec):
    """A model repository of the Hugging Face Hub; it is made when it is not there. Takes the project's Hub token."""

    kind: Literal["huggingface"] = "huggingface"
    repo: RepoId = Field(description="owner/name")
    revision: str = Field("main", min_length=1, max_length=200, pattern=r"^[\w./-]+$", description="Branch.")
    private: bool = Field(True, description="Of a repository that is made.")


class S3Target(Spec):
    """A prefix of a bucket; takes the project's S3 keys. The server is AWS, or ESPALIER_PUBLISH_S3_ENDPOINT_URL."""

    kind: Literal["s3"] = "s3"
    uri: S3Uri


class MlflowTarget(Spec):
    """A new version of a model registered at ESPALIER_MLFLOW_TRACKING_URI; the model is made when it is not there.

    Takes the project's MLflow login, or the service's where the project shares it.
    """

    kind: Literal["mlflow"] = "mlflow"
    name: MlflowName | None = Field(None, description="Null: the registered model that the job's source is of.")
    alias: MlflowAlias | None = Field(None, description="Set on the new version.")
    experiment: str = Field(
        "espalier", min_length=1, max_length=256, pattern=r"^[^\x00-\x1f'\x7f]+$", description="Holds the run."
    )


AnyTarget = HubTarget | S3Target | MlflowTarget
Target = Annotated[AnyTarget, Field(discriminator="kind")]
