"""The arithmetic of deciding what to verify: step-cost curves and prefix schedulers. NumPy only."""

from outrider.scheduling.algorithm1 import algorithm1
from outrider.scheduling.curve import StepCostCurve

__all__ = ["StepCostCurve", "algorithm1"]
