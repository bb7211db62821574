"""Does the answer still do the job, with intervals, and what did it cost; speaks to endpoints over HTTP."""

from outrider.evals.checks import Check, Verdict
from outrider.evals.compare import Comparison, compare
from outrider.evals.endpoint import Endpoint
from outrider.evals.loading import check_suite, find_suite, load_suite, shipped_suites
from outrider.evals.model import Answer, AnswerFailed, Model, Prices
from outrider.evals.outcomes import Outcome, OutcomeLog
from outrider.evals.quality import Quality, measured_quality, quality_yaml, with_quality
from outrider.evals.result import Result, Summary, load_result, summarise, write_json, write_text
from outrider.evals.run import configuration, evaluate
from outrider.evals.suite import Item, Sampling, Suite, json_schemas

__all__ = [
    "Answer",
    "AnswerFailed",
    "Check",
    "Comparison",
    "Endpoint",
    "Item",
    "Model",
    "Outcome",
    "OutcomeLog",
    "Prices",
    "Quality",
    "Result",
    "Sampling",
    "Suite",
    "Summary",
    "Verdict",
    "check_suite",
    "compare",
    "configuration",
    "evaluate",
    "find_suite",
    "json_schemas",
    "load_result",
    "load_suite",
    "measured_quality",
    "quality_yaml",
    "shipped_suites",
    "summarise",
    "with_quality",
    "write_json",
    "write_text",
]
