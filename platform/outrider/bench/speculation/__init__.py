"""Speculation against every baseline, in closed and open loop."""

from outrider.bench.speculation.arms import ARMS
from outrider.bench.speculation.closed import measure_speculation, planned
from outrider.bench.speculation.grid import Grid
from outrider.bench.speculation.opened import Load
from outrider.bench.speculation.page import write_page
from outrider.bench.speculation.tiers import OPEN_ARMS, measure_tiers

__all__ = ["ARMS", "OPEN_ARMS", "Grid", "Load", "measure_speculation", "measure_tiers", "planned", "write_page"]
