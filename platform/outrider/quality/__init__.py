"""What a prompt is about and which models would get it right, from its text alone; NumPy only.

The gateway asks `Assessor.assess(prompt_text(messages), tags, known)` once per request and hands domain and success to
the router. Without a file fitted for the models it serves, `by_tags` has the same signature and estimates nothing.
"""

from outrider.quality.assessment import Assessment, Assessor, by_tags, prompt_text
from outrider.quality.domains import OTHER
from outrider.quality.files import SHIPPED, fingerprint, load_assessor, save_assessor
from outrider.quality.fitting import Pair, fit_assessor, held_out
from outrider.quality.judging import Judgement, judge

__all__ = [
    "OTHER",
    "SHIPPED",
    "Assessment",
    "Assessor",
    "Judgement",
    "Pair",
    "by_tags",
    "fingerprint",
    "fit_assessor",
    "held_out",
    "judge",
    "load_assessor",
    "prompt_text",
    "save_assessor",
]
