"""Probe an untrusted model without torch: config.json and safetensors headers."""

from espalier.probe.checks import bad_patterns, check
from espalier.probe.config import sanitised_config
from espalier.probe.facts import ModelFacts, ProbedMatrix, probe
from espalier.probe.matching import Matcher

__all__ = ["Matcher", "ModelFacts", "ProbedMatrix", "bad_patterns", "check", "probe", "sanitised_config"]
