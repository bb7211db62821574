"""`outrider …`, thin: each module is one command group and is imported only when it is called."""
