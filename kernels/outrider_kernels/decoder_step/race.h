// Choosing a token: argmax, or the exponential race whose noise is a pure function of seed, choice, position and token.

#pragma once

#include "layout.h"
#include "vectors.h"

namespace {

// The two 32-bit keys of a row: SplitMix64 (Steele et al., 2014) chained over seed, choice and position.
struct RowKey {
    uint32_t low, high;
};

inline uint64_t splitmix64(uint64_t state) {
    uint64_t z = state + 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

inline RowKey row_key(int64_t seed, int64_t choice, int64_t position) {
    uint64_t key = splitmix64(static_cast<uint64_t>(seed));
    key = splitmix64(key ^ static_cast<uint64_t>(choice));
    key = splitmix64(key ^ static_cast<uint64_t>(position));
    return {static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)};
}

inline WideVec mix32(WideVec x) {  // lowbias32 (Wellons)
    x ^= x >> 16;
    x *= 0x7FEB352Du;
    x ^= x >> 15;
    x *= 0x846CA68Bu;
    return x ^ (x >> 16);
}

// Functions whose products are rounded before anything is added to them, as every device's definition has it.
#if defined(__clang__)
#define EXACT inline
#define NO_FUSION _Pragma("clang fp contract(off)")
#else
#define EXACT __attribute__((optimize("fp-contract=off"))) inline
#define NO_FUSION
#endif

// −log(1 − u) for 0 < u < 1, to the bit as counter_noise/reference.py defines it.
EXACT Vec minus_log1m(Vec u) {
    NO_FUSION
    const Vec rest = 1.0f - u, lost = (1.0f - rest) - u;
    const IntVec bits = reinterpret_cast<IntVec>(rest);
    const IntVec power = (bits - 0x3f3504f3) >> 23;  // mantissas from √½ to √2
    const Vec n = __builtin_convertvector(power, Vec);
    const Vec f = reinterpret_cast<Vec>(bits - (power << 23)) - 1.0f;
    Vec p = f * 7.0376836292e-2f;
    p = (p - 1.1514610310e-1f) * f;
    p = (p + 1.1676998740e-1f) * f;
    p = (p - 1.2420140846e-1f) * f;
    p = (p + 1.4249322787e-1f) * f;
    p = (p - 1.6668057665e-1f) * f;
    p = (p + 2.0000714765e-1f) * f;
    p = (p - 2.4999993993e-1f) * f;
    p = p + 3.3333331174e-1f;
    p = p * f * f * f - n * 2.12194440e-4f;
    p = p - f * 0.5f * f;
    p = p + lost * (u + 1.0f);
    return -((f + p) + n * 0.693359375f);
}

inline WideVec numbered(int64_t first) {
    WideVec tokens;
    for (int i = 0; i < LANES; ++i) tokens[i] = static_cast<uint32_t>(first + i);
    return tokens;
}

// E of tokens first…first+15: counter_noise has the definition and its reasons.
EXACT Vec exponential_noise(RowKey key, WideVec tokens) {
    NO_FUSION
    const WideVec integers = mix32(mix32((tokens * 0x9E3779B1u) ^ key.low) ^ key.high);
    const Vec uniform = (__builtin_convertvector(integers, Vec) + 0.5f) * 0x1p-32f, largest = splat(1.0f - 0x1p-24f);
    return minus_log1m(uniform > largest ? largest : uniform);
}

inline Vec load_part(const float* from, int64_t count, float beyond) {
    if (count >= LANES) return load(from);
    Vec part = splat(beyond);
    for (int64_t i = 0; i < count; ++i) part[i] = from[i];
    return part;
}

// First token of the highest logit; 0 where all are NaN.
int64_t argmax(const float* logits, int64_t vocab, float* most) {
    Vec highest = splat(-INFINITY);
    for (int64_t v = 0; v < vocab; v += LANES) {
        const Vec here = load_part(logits + v, vocab - v, -INFINITY);
        highest = here > highest ? here : highest;
    }
    *most = -INFINITY;
    for (int i = 0; i < LANES; ++i) *most = std::max(*most, highest[i]);
    const int64_t best = std::find(logits, logits + vocab, *most) - logits;
    return best == vocab ? 0 : best;
}

// argmax of softmax(logits / T) / E, the first of equals; argmax of the logits where T is 0.
int64_t winner(const float* logits, int64_t vocab, float temperature, RowKey key) {
    float most;
    const int64_t best = argmax(logits, vocab, &most);
    if (temperature <= 0) return best;
    const float inverse = 1.0f / temperature;
    const WideVec step = WideVec{} + LANES;
    WideVec tokens = numbered(0), leaders = WideVec{} + static_cast<uint32_t>(best);
    Vec highest = splat(-1);
    for (int64_t v = 0; v < vocab; v += LANES, tokens += step) {
        const Vec chance = exponential((load_part(logits + v, vocab - v, -INFINITY) - most) * inverse);
        const Vec score = chance / exponential_noise(key, tokens);
        leaders = score > highest ? tokens : leaders;
        highest = score > highest ? score : highest;
    }
    int first = 0;
    for (int i = 1; i < LANES; ++i)
        if (highest[i] > highest[first] || (highest[i] == highest[first] && leaders[i] < leaders[first])) first = i;
    return leaders[first];
}

}  // namespace
