"""Alembic's folder: `versions/NNNN_what.py`, one line of history. Run by `open_database`, never by hand."""
