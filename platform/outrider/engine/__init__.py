"""Target side: sequences, paged KV blocks, continuous batching, the step loop."""

from outrider.engine.engine import Engine, RoundTimes
from outrider.engine.loop import EngineLoop, TargetInfo
from outrider.engine.profile import measure_step_curve
from outrider.engine.settings import EngineSettings
from outrider.engine.target import TargetModel

__all__ = [
    "Engine",
    "EngineLoop",
    "EngineSettings",
    "RoundTimes",
    "TargetInfo",
    "TargetModel",
    "measure_step_curve",
]
