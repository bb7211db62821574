// One step of a Qwen3-shaped decoder over rows of tokens, in one call: embeddings to logits.
//
// Plain C++17 with the vector extensions of GCC and Clang, so one source serves AVX-512, AVX2 and NEON. Built by
// build.py with the flags of the host; the structs mirror the ctypes ones in native.py.
//
// Invariant: a row's numbers do not depend on the rows beside it. Every sum runs in one fixed order whatever the tile,
// the number of rows or of threads, so depth 0 and depth 7 agree bit for bit.
//
// Shapes: B rows, d hidden size, H query heads, K key/value heads, D head size, I inner size, V vocabulary.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include <omp.h>
#include <sched.h>

namespace {

constexpr int LANES = 16;  // floats of a vector
constexpr int PANEL = 32;  // columns of a weight panel: two vectors
#if defined(__AVX512F__)
constexpr int MOST_ROWS = 12;  // rows of a tile: 24 of 32 registers accumulate
#else
constexpr int MOST_ROWS = 3;
#endif

typedef float Vec __attribute__((vector_size(64)));
typedef int32_t IntVec __attribute__((vector_size(64)));
typedef uint32_t WideVec __attribute__((vector_size(64)));
typedef float LooseVec __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint16_t LooseHalf __attribute__((vector_size(32), aligned(2), may_alias));

inline Vec load(const float* from) { return *reinterpret_cast<const LooseVec*>(from); }
inline Vec load(const uint16_t* from) {  // bf16: the upper half of a float
    return reinterpret_cast<Vec>(__builtin_convertvector(*reinterpret_cast<const LooseHalf*>(from), WideVec) << 16);
}
inline void store(float* to, Vec value) { *reinterpret_cast<LooseVec*>(to) = value; }
inline Vec splat(float value) { return Vec{} + value; }

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

}  // namespace

extern "C" {

// A weight [columns, depth] as panels of 32 columns, [panels][depth][32], in fp32 or, where that loses nothing, bf16.
struct Packed {
    const void* data;
    int64_t columns, depth, is_bf16;
};

struct Layer {
    const float *input_norm, *qk_norm, *post_norm;
    Packed qkv, out, gate, up, down;
};

struct Model {
    int64_t layers, hidden, heads, kv_heads, head_dim, inner;
    float eps, scaling, rotation_scale, projection_eps;
    const float *embedding, *frequencies, *final_norm, *projection_norm;
    const Layer* layer;
    Packed head, projection;      // projection.data null: nothing is tapped
    const int64_t* tapped;        // layers tapped, −1 for the embedding, in the order of projection's depth
    int64_t tapped_count;
};

// Rows come as spans of one sequence each. Context row j of span r lies at slot slots[r][j], or at first_slot[r] + j
// where slots is null; `writes` says that the rows' own keys and values are stored at the slots that follow.
struct Batch {
    int64_t rows, spans, causal, writes, kv_stride, wanted_rows;
    const int64_t *token_ids, *positions;
    const int64_t *first_row, *context, *first_slot;  // [spans + 1], [spans], [spans]
    const int64_t* const* slots;
    float* const* keys;
    float* const* values;
    float* features;          // plane of projected rows [slots, d], null without a projection
    const int64_t* wanted;    // rows of which hidden states and logits are wanted
    float *hidden, *logits;   // [wanted, d] after the final norm, [wanted, V]; null when not wanted
};

}  // extern "C"

namespace {

int64_t panels(const Packed& weight) { return (weight.columns + PANEL - 1) / PANEL; }

// y[m][c] (+)= Σ_i x[m][i]·w[i][c] for M rows and P adjacent panels.
template <int M, int P, class W>
void tile(const float* x, int64_t x_stride, const W* w, int64_t depth, float* y, int64_t y_stride, int64_t columns,
          bool add) {
    Vec total[M][2 * P] = {};
    for (int64_t i = 0; i < depth; ++i) {
        Vec weight[2 * P];
#pragma GCC unroll 8
        for (int p = 0; p < 2 * P; ++p) weight[p] = load(w + ((p / 2) * depth + i) * PANEL + (p % 2) * LANES);
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

void norm(const float* x, const float* weight, float* y, int64_t width, float eps) {
    Vec squares = {};
    for (int64_t i = 0; i < width; i += LANES) squares += load(x + i) * load(x + i);
    const Vec scale = splat(1.0f / std::sqrt(sum(squares) / width + eps));
    for (int64_t i = 0; i < width; i += LANES) store(y + i, load(x + i) * scale * load(weight + i));
}

// In place: norm, then x·cos + roll(x, D/2)·sin with sin's first half negated.
void norm_rotate(float* x, const float* weight, const float* cosine, const float* sine, int64_t width, float eps) {
    float normed[1024];
    norm(x, weight, normed, width, eps);
    const int64_t half = width / 2;
    for (int64_t i = 0; i < half; ++i) {
        const float low = normed[i], high = normed[i + half];
        x[i] = low * cosine[i] - high * sine[i];
        x[i + half] = high * cosine[i] + low * sine[i];
    }
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

// All threads of a step meet here. It spins only briefly: the other core may belong to the drafter.
class Meeting {
   public:
    explicit Meeting(int threads) : threads_(threads) {}
    void wait() {
        if (threads_ == 1) return;
        const int round = round_.load();
        if (arrived_.fetch_add(1) == threads_ - 1) {
            arrived_.store(0);
            round_.store(round + 1);
            return;
        }
        for (int spins = 0; round_.load(std::memory_order_acquire) == round; ++spins)
            if (spins > 4000) sched_yield();
    }

   private:
    std::atomic<int> arrived_{0}, round_{0};
    const int threads_;
};

struct Share {
    int64_t from, to;
};

class Step {
   public:
    Step(const Model& model, const Batch& batch, int threads)
        : m_(model), b_(batch), threads_(threads), meeting_(threads) {
        qkv_width_ = (m_.heads + 2 * m_.kv_heads) * m_.head_dim;
        static thread_local std::vector<float> memory;  // kept between steps; the calling thread's
        const int64_t taps = m_.projection.data ? m_.tapped_count + 1 : 0;
        const int64_t per_row = m_.hidden * (1 + taps) + qkv_width_ + m_.heads * m_.head_dim + 2 * m_.inner + m_.head_dim;
        memory.resize(b_.rows * per_row + 8 * LANES);
        float* next = memory.data();
        auto take = [&](int64_t width) { return std::exchange(next, next + b_.rows * width); };
        hidden_ = take(m_.hidden);
        taps_ = take(m_.hidden * std::max<int64_t>(0, taps - 1));
        projected_ = take(taps ? m_.hidden : 0);
        qkv_ = take(qkv_width_);
        mixed_ = take(m_.heads * m_.head_dim);
        gate_ = take(m_.inner);
        up_ = take(m_.inner);
        rotation_ = take(m_.head_dim);
        for (int64_t r = 0; r < b_.spans; ++r)
            for (int64_t row = b_.first_row[r]; row < b_.first_row[r + 1]; ++row) span_of_.push_back(r);
    }

    void run(int thread) {
        static thread_local std::vector<float> memory;
        memory.resize(b_.rows * m_.hidden);
        float* normed = memory.data();
        const Share rows = share(b_.rows, thread);
        embed(rows);
        meeting_.wait();
        tap(-1, rows);
        for (int64_t number = 0; number < m_.layers; ++number) {
            const Layer& layer = m_.layer[number];
            norm_rows(layer.input_norm, normed);
            split(layer.qkv, thread, normed, m_.hidden, qkv_, qkv_width_);
            meeting_.wait();
            place(layer, number, rows);
            meeting_.wait();
            attention(number, thread);
            meeting_.wait();
            split(layer.out, thread, mixed_, m_.heads * m_.head_dim, hidden_, m_.hidden, true);
            meeting_.wait();
            norm_rows(layer.post_norm, normed);
            split(layer.gate, thread, normed, m_.hidden, gate_, m_.inner);
            split(layer.up, thread, normed, m_.hidden, up_, m_.inner);
            activate(share(panels(layer.gate), thread));
            meeting_.wait();
            split(layer.down, thread, gate_, m_.inner, hidden_, m_.hidden, true);
            meeting_.wait();
            tap(number, rows);
        }
        project(thread, rows);
        answer(thread, normed);
    }

   private:
    Share share(int64_t items, int thread) const { return {items * thread / threads_, items * (thread + 1) / threads_}; }

    void split(const Packed& weight, int thread, const float* x, int64_t x_stride, float* y, int64_t y_stride,
               bool add = false) const {
        const Share mine = share(panels(weight), thread);
        product(weight, mine.from, mine.to, x, b_.rows, x_stride, y, y_stride, add);
    }

    void norm_rows(const float* weight, float* to) const {
        for (int64_t row = 0; row < b_.rows; ++row)
            norm(hidden_ + row * m_.hidden, weight, to + row * m_.hidden, m_.hidden, m_.eps);
    }

    void embed(Share rows) const {
        const int64_t half = m_.head_dim / 2;
        for (int64_t row = rows.from; row < rows.to; ++row) {
            std::memcpy(hidden_ + row * m_.hidden, m_.embedding + b_.token_ids[row] * m_.hidden, m_.hidden * sizeof(float));
            float* rotation = rotation_ + row * m_.head_dim;
            for (int64_t i = 0; i < half; ++i) {
                const float angle = static_cast<float>(b_.positions[row]) * m_.frequencies[i];
                rotation[i] = std::cos(angle) * m_.rotation_scale;
                rotation[half + i] = std::sin(angle) * m_.rotation_scale;
            }
        }
    }

    void tap(int64_t number, Share rows) const {
        if (!m_.projection.data) return;
        for (int64_t place = 0; place < m_.tapped_count; ++place) {
            if (m_.tapped[place] != number) continue;
            for (int64_t row = rows.from; row < rows.to; ++row)
                std::memcpy(taps_ + (row * m_.tapped_count + place) * m_.hidden, hidden_ + row * m_.hidden,
                            m_.hidden * sizeof(float));
        }
    }

    int64_t slot(int64_t span, int64_t place) const {
        return b_.slots ? b_.slots[span][place] : b_.first_slot[span] + place;
    }
    int64_t slot_of_row(int64_t row) const {
        const int64_t span = span_of_[row];
        return slot(span, b_.context[span] + row - b_.first_row[span]);
    }

    // Norms and turns queries and keys, and stores keys and values where the step writes.
    void place(const Layer& layer, int64_t number, Share rows) const {
        const int64_t width = m_.head_dim, kv_width = m_.kv_heads * width;
        for (int64_t row = rows.from; row < rows.to; ++row) {
            float* heads = qkv_ + row * qkv_width_;
            const float* rotation = rotation_ + row * width;
            for (int64_t head = 0; head < m_.heads + m_.kv_heads; ++head)
                norm_rotate(heads + head * width, layer.qk_norm + head * width, rotation, rotation + width / 2, width, m_.eps);
            if (!b_.writes) continue;
            const float* keys = heads + m_.heads * width;
            const int64_t at = slot_of_row(row) * b_.kv_stride;
            std::memcpy(b_.keys[number] + at, keys, kv_width * sizeof(float));
            std::memcpy(b_.values[number] + at, keys + kv_width, kv_width * sizeof(float));
        }
    }

    // Spans and heads in turn over the threads; the query heads of a key/value head share its keys.
    void attention(int64_t number, int thread) const {
        static thread_local Context context;
        static thread_local std::vector<float> scores;
        const int64_t width = m_.head_dim, groups = m_.heads / m_.kv_heads;
        const auto two = attend_of<2>(width), one = attend_of<1>(width);
        int64_t item = 0;
        for (int64_t span = 0; span < b_.spans; ++span) {
            const int64_t first = b_.first_row[span], length = b_.first_row[span + 1] - first;
            for (int64_t head = 0; head < m_.kv_heads; ++head, ++item) {
                if (item % threads_ != thread) continue;
                gather(context, number, span, head);
                for (int64_t place = 0; place < length * groups; place += 2) {
                    const float* query[2];
                    float* out[2];
                    int64_t limit[2];
                    const int count = static_cast<int>(std::min<int64_t>(2, length * groups - place));
                    for (int n = 0; n < count; ++n) {
                        const int64_t row = (place + n) / groups, column = (head * groups + (place + n) % groups) * width;
                        query[n] = qkv_ + (first + row) * qkv_width_ + column;
                        out[n] = mixed_ + (first + row) * m_.heads * width + column;
                        limit[n] = b_.context[span] + (b_.causal ? row + 1 : length);
                    }
                    (count == 2 ? two : one)(query, out, limit, context, m_.scaling, scores);
                }
            }
        }
    }

    void gather(Context& context, int64_t number, int64_t span, int64_t head) const {
        const int64_t first = b_.first_row[span], length = b_.first_row[span + 1] - first, column = head * m_.head_dim;
        context.near = b_.context[span];
        context.far_values = b_.values[number] - b_.keys[number];
        context.near_values = m_.kv_heads * m_.head_dim;
        context.keys.resize(context.near + length);
        for (int64_t j = 0; j < context.near; ++j)
            context.keys[j] = b_.keys[number] + slot(span, j) * b_.kv_stride + column;
        for (int64_t i = 0; i < length; ++i)
            context.keys[context.near + i] = qkv_ + (first + i) * qkv_width_ + m_.heads * m_.head_dim + column;
    }

    void activate(Share mine) const {
        const int64_t from = mine.from * PANEL, to = std::min(mine.to * PANEL, m_.inner);
        for (int64_t row = 0; row < b_.rows; ++row)
            for (int64_t i = row * m_.inner + from; i < row * m_.inner + to; i += LANES) {
                const Vec gate = load(gate_ + i);
                store(gate_ + i, gate / (1.0f + exponential(-gate)) * load(up_ + i));
            }
    }

    void project(int thread, Share rows) {
        if (!m_.projection.data) return;
        meeting_.wait();  // taps of the last layer
        split(m_.projection, thread, taps_, m_.tapped_count * m_.hidden, projected_, m_.hidden);
        meeting_.wait();
        for (int64_t row = rows.from; row < rows.to; ++row)
            norm(projected_ + row * m_.hidden, m_.projection_norm, b_.features + slot_of_row(row) * m_.hidden, m_.hidden,
                 m_.projection_eps);
    }

    void answer(int thread, float* normed) {
        const int64_t count = b_.wanted_rows;
        for (int64_t place = 0; place < count; ++place)
            norm(hidden_ + b_.wanted[place] * m_.hidden, m_.final_norm, normed + place * m_.hidden, m_.hidden, m_.eps);
        if (b_.hidden && thread == 0) std::memcpy(b_.hidden, normed, count * m_.hidden * sizeof(float));
        if (!b_.logits) return;
        const Share mine = share(panels(m_.head), thread);
        product(m_.head, mine.from, mine.to, normed, count, m_.hidden, b_.logits, m_.head.columns);
    }

    const Model& m_;
    const Batch& b_;
    const int threads_;
    Meeting meeting_;
    int64_t qkv_width_;
    float *hidden_, *taps_, *projected_, *qkv_, *mixed_, *gate_, *up_, *rotation_;
    std::vector<int64_t> span_of_;
};

}  // namespace

extern "C" {

void outrider_step(const Model* model, const Batch* batch, int threads) {
    if (threads == 1) return Step(*model, *batch, 1).run(0);
    std::optional<Step> step;
#pragma omp parallel num_threads(threads)
    {
#pragma omp single
        step.emplace(*model, *batch, omp_get_num_threads());  // may be fewer than asked for
        step->run(omp_get_thread_num());
    }
}

}  // extern "C"
