"""A compiled step that is there when it is ready: nothing waits for a compiler."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from outrider_kernels.decoder_step.build import BuildError, built, library
from outrider_kernels.decoder_step.native import NativeStep, native_fits
from outrider_kernels.decoder_step.weights import DecoderWeights

__all__ = ["PendingStep"]

_log = logging.getLogger(__name__)


class PendingStep:
    """`step` is None until a NativeStep of the given weights is ready, and for good where it cannot be made.

    Ready at once when this machine has compiled the library before; else a thread compiles it, seconds, while the
    caller goes on with what it has. `weights` may be called on that thread.
    """

    def __init__(self, weights: Callable[[], DecoderWeights]) -> None:
        self.step: NativeStep | None = None
        self._weights = weights
        self._thread: threading.Thread | None = None
        if built():
            self._prepare()
        else:
            self._thread = threading.Thread(target=self._prepare, name="compile-step", daemon=True)
            self._thread.start()

    def wait(self) -> NativeStep | None:
        """The step once that is settled. Never called while serving."""
        if self._thread is not None:
            self._thread.join()
        return self.step

    def _prepare(self) -> None:
        try:
            weights = self._weights()
            if native_fits(weights):
                self.step = NativeStep(library(), weights)
        except BuildError as error:
            _log.warning("no compiled step on this machine, going on without: %s", error)
