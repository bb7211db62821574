// A few queries over the keys and values of one sequence, wherever its rows lie.

#pragma once

#include <vector>

#include "vectors.h"

namespace {

// Where the keys of one span and head lie: `near` onwards they are the step's own rows.
struct Context {
    std::vector<const float*> keys;
    int64_t near, far_values, near_values;  // distance from a row's key to its value
};

// N queries of D = 16·S over the first limit[n] keys; out[n] = Σ softmax(q·k·scaling)·v.
template <int S, int N>
void attend(const float* const* queries, float* const* out, const int64_t* limit, const Context& context,
            float scaling, std::vector<float>& scores) {
    const int64_t count = limit[N - 1], padded = (count + LANES - 1) / LANES * LANES;
    scores.resize(N * padded);
    Vec query[N][S];
    for (int n = 0; n < N; ++n)
        for (int s = 0; s < S; ++s) query[n][s] = load(queries[n] + s * LANES) * scaling;
    for (int64_t j = 0; j < count; j += 4) {
        Vec dots[N][4] = {};
#pragma GCC unroll 4
        for (int c = 0; c < 4; ++c) {
            const float* key = context.keys[std::min(j + c, count - 1)];
#pragma GCC unroll 16
            for (int s = 0; s < S; ++s) {
                const Vec part = load(key + s * LANES);
                for (int n = 0; n < N; ++n) dots[n][c] += query[n][s] * part;
            }
        }
        for (int n = 0; n < N; ++n) sums(dots[n], &scores[n * padded + j]);
    }
    float inverse[N];
    for (int n = 0; n < N; ++n) {
        float* score = &scores[n * padded];
        for (int64_t j = limit[n]; j < padded; ++j) score[j] = -INFINITY;
        float most = -INFINITY;
        for (int64_t j = 0; j < limit[n]; ++j) most = std::max(most, score[j]);
        Vec total = {};
        for (int64_t j = 0; j < padded; j += LANES) {
            const Vec weight = exponential(load(score + j) - most);
            store(score + j, weight);
            total += weight;
        }
        inverse[n] = 1.0f / sum(total);
    }
    Vec mixed[N][S] = {};
    for (int64_t j = 0; j < count; ++j) {
        const float* value = context.keys[j] + (j < context.near ? context.far_values : context.near_values);
#pragma GCC unroll 16
        for (int s = 0; s < S; ++s) {
            const Vec part = load(value + s * LANES);
            for (int n = 0; n < N; ++n) mixed[n][s] += scores[n * padded + j] * part;
        }
    }
    for (int n = 0; n < N; ++n)
        for (int s = 0; s < S; ++s) store(out[n] + s * LANES, mixed[n][s] * inverse[n]);
}

using Attend = void (*)(const float* const*, float* const*, const int64_t*, const Context&, float, std::vector<float>&);

template <int N>
Attend attend_of(int64_t head_dim) {
    switch (head_dim) {
        case 16: return attend<1, N>;
        case 32: return attend<2, N>;
        case 64: return attend<4, N>;
        case 128: return attend<8, N>;
        default: return attend<16, N>;
    }
}

}  // namespace
