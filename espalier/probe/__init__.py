"""Probe an untrusted model without torch: config.json and safetensors headers."""

from espalier.probe.checks import bad_patterns, check
from espalier.probe.config import sanitised_config
from espalier.probe.facts import Matrix, ModelFacts, probe
from espalier.probe.matching import Matcher

__all__ = ["Matcher", "Matrix", "ModelFacts", "bad_patterns", "check", "probe", "sanitised_config"]
