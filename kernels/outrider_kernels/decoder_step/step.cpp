// One step of a Qwen3-shaped decoder over rows of tokens, in one call: embeddings to logits.
//
// Plain C++17 with the vector extensions of GCC and Clang, so one source serves AVX-512, AVX2 and NEON; build.py
// compiles it with the flags of the host.
//
// Invariant: a row's numbers do not depend on the rows beside it. Every sum runs in one fixed order whatever the tile,
// the number of rows or of threads, so depth 0 and depth 7 agree bit for bit.

#include <atomic>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include <omp.h>
#include <sched.h>

#include "attention.h"
#include "draft.h"
#include "layout.h"
#include "product.h"

namespace {

// All threads of a step meet here. They spin, then let others run; sleeping took ten times a small step to wake from.
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
        const int64_t per_row =
            m_.hidden * (1 + taps) + qkv_width_ + m_.heads * m_.head_dim + 2 * m_.inner + m_.head_dim;
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
    Share share(int64_t items, int thread) const {
        return {items * thread / threads_, items * (thread + 1) / threads_};
    }

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
        for (int64_t row = rows.from; row < rows.to; ++row) {
            const float* embedded = m_.embedding + b_.token_ids[row] * m_.hidden;
            std::memcpy(hidden_ + row * m_.hidden, embedded, m_.hidden * sizeof(float));
            rotation(m_, b_.positions[row], rotation_ + row * m_.head_dim);
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
            const float* turn = rotation_ + row * width;
            for (int64_t head = 0; head < m_.heads + m_.kv_heads; ++head)
                norm_rotate(heads + head * width, layer.qk_norm + head * width, turn, width, m_.eps);
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
                        const int64_t row = (place + n) / groups;
                        const int64_t column = (head * groups + (place + n) % groups) * width;
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

void run_step(const Model& model, const Batch& batch, int threads) {
    if (threads == 1) return Step(model, batch, 1).run(0);
    std::optional<Step> step;
#pragma omp parallel num_threads(threads)
    {
#pragma omp single
        step.emplace(model, batch, omp_get_num_threads());  // may be fewer than asked for
        step->run(omp_get_thread_num());
    }
}

// Threads take runs of independent items.
template <class Run>
void in_parts(int64_t items, int threads, Run run) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int part = 0; part < threads; ++part) run(items * part / threads, items * (part + 1) / threads);
}

}  // namespace

extern "C" {

void outrider_step(const Model* model, const Batch* batch, int threads) { run_step(*model, *batch, threads); }

void outrider_context(const Model* model, const ContextRows* rows, int threads) {
    in_parts(rows->count, threads, [&](int64_t from, int64_t to) { store_context(*model, *rows, from, to); });
}

void outrider_propose(const Model* model, const DraftHead* head, const Proposal* all, int threads) {
    static thread_local BlockRows kept;
    BlockRows& rows = kept;  // the calling thread's, whichever draws
    run_step(*model, rows.batch(*model, *all), threads);
    in_parts(all->blocks, threads, [&](int64_t from, int64_t to) { draw(*head, *all, rows, from, to); });
}

void outrider_choose(const Choosing* all, int threads) {
    in_parts(all->count, threads, [&](int64_t from, int64_t to) {
        for (int64_t row = from; row < to; ++row)
            all->tokens[row] = winner(all->logits + row * all->vocab, all->vocab, all->temperature[row],
                                      row_key(all->seeds[row], all->choices[row], all->positions[row]));
    });
}

// The race's noise E of tokens 0 to vocab: for tests of its parity with the definition.
void outrider_noise(int64_t seed, int64_t choice, int64_t position, int64_t vocab, float* to) {
    for (int64_t v = 0; v < vocab; v += LANES) {
        const Vec noise = exponential_noise(row_key(seed, choice, position), numbered(v));
        for (int64_t i = v; i < std::min(v + LANES, vocab); ++i) to[i] = noise[i - v];
    }
}

}  // extern "C"
