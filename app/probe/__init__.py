"""What can be known of a model without torch: config.json and safetensors headers, all of it untrusted."""

from app.probe.checks import bad_patterns, check
from app.probe.config import sanitised_config
from app.probe.facts import Matrix, ModelFacts, probe
from app.probe.matching import Matcher
from app.probe.remembered import probe_again

__all__ = [
    "Matcher", "Matrix", "ModelFacts", "bad_patterns", "check", "probe", "probe_again", "sanitised_config",
]  # fmt: skip
