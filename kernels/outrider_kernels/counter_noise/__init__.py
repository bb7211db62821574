"""Counter-based exponential noise: a pure function of a row's counters and the token, the same bits on every device.

Draft and target evaluate the same function, so nothing random crosses the wire, and a restarted process or another
device draws the same numbers.

    key(row)   = splitmix64 chained over the row's counters           → two 32-bit halves k0, k1
    i(row, v)  = mix32(mix32(v·φ ^ k0) ^ k1)                          32-bit integer
    u          = (i + ½)·2⁻³², at most 1 − 2⁻²⁴
    E(row, v)  = −log1p(−u)                                           Exp(1)

−log1p(−u) rather than −log(u): the latter rounds to zero in fp32 for u near one and then any token would win. fp32
rounds the largest i up to u = 1, where E is infinite: the only token of a one-token nucleus would then lose to token 0.

The logarithm is spelled out as fp32 additions and products that are rounded one by one, because libraries' own differ
in the last bits: `reference.py` (torch), `triton.py` (to be launched without fused multiply-add) and
`decoder_step/race.h` (C++) give the same E to the bit, within 2 ulp of the true value.
"""

from __future__ import annotations

from outrider_kernels.counter_noise.reference import exponential, row_keys, splitmix64, uniform

__all__ = ["exponential", "row_keys", "splitmix64", "uniform"]
