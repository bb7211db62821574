"""YAML that people edit, read with line numbers and checked against a pydantic model, every problem at once."""

from outrider.documents.loading import check_model, load_model, parse_model, read_text
from outrider.documents.problems import Path, Problem, dotted, kind_of, shown, unknown
from outrider.documents.reader import Document, read_document
from outrider.documents.validation import schema_problems

__all__ = [
    "Document",
    "Path",
    "Problem",
    "check_model",
    "dotted",
    "kind_of",
    "load_model",
    "parse_model",
    "read_document",
    "read_text",
    "schema_problems",
    "shown",
    "unknown",
]
