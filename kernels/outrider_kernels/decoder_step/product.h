// y = x·Wᵀ for packed weights, tile by tile.

#pragma once

#include "layout.h"
#include "vectors.h"

namespace {

constexpr int PANEL = 32;  // columns of a weight panel: two vectors
#if defined(__AVX512F__)
constexpr int MOST_ROWS = 12;  // rows of a tile: 24 of 32 registers accumulate
#else
constexpr int MOST_ROWS = 3;
#endif

// One row of a panel. Two bf16, each the upper half of a float, widen with a shift and a mask: unzipping adjacent
// columns instead cost one row twice the time.
inline void load_panel(const float* from, Vec* to) { to[0] = load(from), to[1] = load(from + LANES); }
inline void load_panel(const uint16_t* from, Vec* to) {
    const WideVec pairs = *reinterpret_cast<const LooseWide*>(from);
    to[0] = reinterpret_cast<Vec>(pairs << 16);
    to[1] = reinterpret_cast<Vec>(pairs & 0xffff0000u);
}

int64_t panels(const Packed& weight) { return (weight.columns + PANEL - 1) / PANEL; }

// y[m][c] (+)= Σ_i x[m][i]·w[i][c] for M rows and P adjacent panels.
template <int M, int P, class W>
void tile(const float* x, int64_t x_stride, const W* w, int64_t depth, float* y, int64_t y_stride, int64_t columns,
          bool add) {
    Vec total[M][2 * P] = {};
    for (int64_t i = 0; i < depth; ++i) {
        Vec weight[2 * P];
#pragma GCC unroll 8
        for (int p = 0; p < P; ++p) load_panel(w + (p * depth + i) * PANEL, weight + 2 * p);
#pragma GCC unroll 12
        for (int m = 0; m < M; ++m) {
            const Vec value = splat(x[m * x_stride + i]);
#pragma GCC unroll 8
            for (int p = 0; p < 2 * P; ++p) total[m][p] += value * weight[p];
        }
    }
    for (int m = 0; m < M; ++m) {
        for (int p = 0; p < 2 * P; ++p) {
            float* to = y + m * y_stride + p * LANES;
            const int64_t left = columns - p * LANES;
            if (left >= LANES) {
                store(to, add ? load(to) + total[m][p] : total[m][p]);
            } else {
                for (int64_t c = 0; c < left; ++c) to[c] = add ? to[c] + total[m][p][c] : total[m][p][c];
            }
        }
    }
}

template <class W>
using Tile = void (*)(const float*, int64_t, const W*, int64_t, float*, int64_t, int64_t, bool);

// Few rows take several panels at once: one panel's two sums would wait for each other.
template <class W, int P>
Tile<W> tile_of(int64_t rows) {
    if constexpr (P == 4) return tile<1, 4, W>;
    if constexpr (P == 2) return rows == 1 ? tile<1, 2, W> : rows == 2 ? tile<2, 2, W> : tile<3, 2, W>;
    switch (rows) {
        case 1: return tile<1, 1, W>;
        case 2: return tile<2, 1, W>;
        case 3: return tile<3, 1, W>;
#if defined(__AVX512F__)
        case 4: return tile<4, 1, W>;
        case 5: return tile<5, 1, W>;
        case 6: return tile<6, 1, W>;
        case 7: return tile<7, 1, W>;
        case 8: return tile<8, 1, W>;
        case 9: return tile<9, 1, W>;
        case 10: return tile<10, 1, W>;
        case 11: return tile<11, 1, W>;
        default: return tile<12, 1, W>;
#else
        default: return tile<3, 1, W>;
#endif
    }
}

template <class W>
void multiply(const Packed& weight, int64_t from, int64_t to, const float* x, int64_t rows, int64_t x_stride, float* y,
              int64_t y_stride, bool add) {
    const W* data = static_cast<const W*>(weight.data);
    const int64_t blocks = (rows + MOST_ROWS - 1) / MOST_ROWS, each = blocks ? (rows + blocks - 1) / blocks : 0;
    for (int64_t panel = from; panel < to;) {
        const int64_t left = to - panel;
        const int64_t width = each == 1 && left >= 4 ? 4 : each <= 3 && left >= 2 ? 2 : 1;
        for (int64_t row = 0; row < rows; row += each) {
            const int64_t count = std::min(each, rows - row);
            const Tile<W> run = width == 4 && count == 1 ? tile_of<W, 4>(count)
                                : width == 2             ? tile_of<W, 2>(count)
                                                         : tile_of<W, 1>(count);
            run(x + row * x_stride, x_stride, data + panel * weight.depth * PANEL, weight.depth,
                y + row * y_stride + panel * PANEL, y_stride, weight.columns - panel * PANEL, add);
        }
        panel += width;
    }
}

// Panels from…to of y [rows, columns] (+)= x·Wᵀ.
void product(const Packed& weight, int64_t from, int64_t to, const float* x, int64_t rows, int64_t x_stride, float* y,
             int64_t y_stride, bool add = false) {
    const auto run = weight.is_bf16 ? multiply<uint16_t> : multiply<float>;
    run(weight, from, to, x, rows, x_stride, y, y_stride, add);
}

}  // namespace
