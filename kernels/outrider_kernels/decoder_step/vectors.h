// Sixteen floats at a time, and what a layer does with one row.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace {

constexpr int LANES = 16;  // floats of a vector

typedef float Vec __attribute__((vector_size(64)));
typedef int32_t IntVec __attribute__((vector_size(64)));
typedef uint32_t WideVec __attribute__((vector_size(64)));
typedef float LooseVec __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint32_t LooseWide __attribute__((vector_size(64), aligned(4), may_alias));

inline Vec load(const float* from) { return *reinterpret_cast<const LooseVec*>(from); }
inline void store(float* to, Vec value) { *reinterpret_cast<LooseVec*>(to) = value; }
inline Vec splat(float value) { return value - Vec{}; }  // 0 + value is an addition: −0 would become 0

inline float sum(Vec v) {
    float total = 0;
    for (int i = 0; i < LANES / 2; ++i) total += v[i] + v[i + LANES / 2];
    return total;
}

// exp within 2 ulp: 2^n · e^r with |r| ≤ ln2/2 (Cephes' polynomial); 0 below −87.
inline Vec exponential(Vec x) {
    const Vec floor = splat(-87.3f), shift = splat(12582912.f);
    x = x < floor ? floor : x;
    const Vec n = (x * 1.44269504f + shift) - shift;
    const Vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    Vec p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const IntVec power = (__builtin_convertvector(n, IntVec) + 127) << 23;
    return x > floor ? p * reinterpret_cast<Vec>(power) : Vec{};
}

// Sums of four vectors.
inline void sums(const Vec* v, float* to) {
    auto halves = [](Vec a, Vec b) {
        return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
               __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    };
    const Vec a = halves(v[0], v[1]), b = halves(v[2], v[3]);
    Vec t = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
            __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    t += __builtin_shufflevector(t, t, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    t += __builtin_shufflevector(t, t, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    for (int i = 0; i < 4; ++i) to[i] = t[4 * i];
}

void norm(const float* x, const float* weight, float* y, int64_t width, float eps) {
    Vec squares = {};
    for (int64_t i = 0; i < width; i += LANES) squares += load(x + i) * load(x + i);
    const Vec scale = splat(1.0f / std::sqrt(sum(squares) / width + eps));
    for (int64_t i = 0; i < width; i += LANES) store(y + i, load(x + i) * scale * load(weight + i));
}

// In place: norm, then the rotation of one position: `turn` holds D/2 cosines and D/2 sines.
void norm_rotate(float* x, const float* weight, const float* turn, int64_t width, float eps) {
    float normed[1024];
    norm(x, weight, normed, width, eps);
    const int64_t half = width / 2;
    const float *cosine = turn, *sine = turn + half;
    for (int64_t i = 0; i < half; ++i) {
        const float low = normed[i], high = normed[i + half];
        x[i] = low * cosine[i] - high * sine[i];
        x[i + half] = high * cosine[i] + low * sine[i];
    }
}

}  // namespace
