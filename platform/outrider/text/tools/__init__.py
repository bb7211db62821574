"""Tool calls as models write them: which format a chat template teaches, how to force it, how to read it back."""

from outrider.text.tools.formats import FORMATS, ToolFormat, detect
from outrider.text.tools.parser import CallDelta, CallParser

__all__ = ["FORMATS", "CallDelta", "CallParser", "ToolFormat", "detect"]
