"""The arithmetic of deciding what to verify: step-cost curves and prefix schedulers. NumPy only."""

from outrider.scheduling.algorithm1 import algorithm1
from outrider.scheduling.calibration import Calibration, prefix_survival
from outrider.scheduling.curve import StepCostCurve

__all__ = ["Calibration", "StepCostCurve", "algorithm1", "prefix_survival"]
