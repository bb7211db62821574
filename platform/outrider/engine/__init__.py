"""Target side: sequences, paged KV blocks, continuous batching, the step loop."""

from outrider.engine.costing import Profile
from outrider.engine.engine import Engine, RoundTimes
from outrider.engine.loop import EngineLoop, TargetInfo
from outrider.engine.profile import measure_steps
from outrider.engine.settings import EngineSettings
from outrider.engine.subject import cost_subject, cpu_name, role
from outrider.engine.target import TargetModel

__all__ = [
    "Engine",
    "EngineLoop",
    "EngineSettings",
    "Profile",
    "RoundTimes",
    "TargetInfo",
    "TargetModel",
    "cost_subject",
    "cpu_name",
    "measure_steps",
    "role",
]
