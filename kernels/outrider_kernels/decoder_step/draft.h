// A drafter's own parts: contexts that grow, and the head that draws a block left to right.

#pragma once

#include <cstring>
#include <vector>

#include "layout.h"
#include "product.h"

namespace {

// D/2 cosines and D/2 sines of one position.
void rotation(const Model& model, int64_t position, float* to) {
    const int64_t half = model.head_dim / 2;
    for (int64_t i = 0; i < half; ++i) {
        const float angle = static_cast<float>(position) * model.frequencies[i];
        to[i] = std::cos(angle) * model.rotation_scale;
        to[half + i] = std::sin(angle) * model.rotation_scale;
    }
}

// Keys and values of rows from…to; the part of qkv that makes them starts at a panel.
void store_context(const Model& model, const ContextRows& all, int64_t from, int64_t to) {
    const int64_t width = model.head_dim, queries = model.heads * width, kv_width = model.kv_heads * width;
    const int64_t row_width = queries + 2 * kv_width, count = to - from;
    static thread_local std::vector<float> projected, turns;
    projected.resize(count * row_width);
    turns.resize(count * width);
    for (int64_t row = 0; row < count; ++row) rotation(model, all.positions[from + row], &turns[row * width]);
    for (int64_t number = 0; number < model.layers; ++number) {
        const Layer& layer = model.layer[number];
        product(layer.qkv, queries / PANEL, panels(layer.qkv), all.rows + from * model.hidden, count, model.hidden,
                projected.data(), row_width);
        for (int64_t row = 0; row < count; ++row) {
            float* keys = &projected[row * row_width + queries];
            for (int64_t head = 0; head < model.kv_heads; ++head)
                norm_rotate(keys + head * width, layer.qk_norm + queries + head * width, &turns[row * width], width,
                            model.eps);
            const int64_t at = all.slots[from + row] * all.kv_stride;
            std::memcpy(all.keys[number] + at, keys, kv_width * sizeof(float));
            std::memcpy(all.values[number] + at, keys + kv_width, kv_width * sizeof(float));
        }
    }
}

float dot(const float* a, const float* b, int64_t width) {
    Vec total = {};
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES) total += load(a + i) * load(b + i);
    float rest = 0;
    for (; i < width; ++i) rest += a[i] * b[i];
    return sum(total) + rest;
}

// argmax, or under a temperature the winner of the exponential race: argmax softmax(logits / T) / noise.
int64_t winner(const float* logits, const float* noise, float temperature, int64_t vocab) {
    Vec highest_seen = splat(-INFINITY);
    int64_t v = 0;
    for (; v + LANES <= vocab; v += LANES) {
        const Vec here = load(logits + v);
        highest_seen = here > highest_seen ? here : highest_seen;
    }
    float most = -INFINITY;
    for (int i = 0; i < LANES; ++i) most = std::max(most, highest_seen[i]);
    for (; v < vocab; ++v) most = std::max(most, logits[v]);
    int64_t best = std::find(logits, logits + vocab, most) - logits;
    if (best == vocab) return 0;  // nothing but NaN
    if (!noise || temperature <= 0) return best;
    const float inverse = 1.0f / temperature;
    float highest = -1;
    for (v = 0; v < vocab; v += LANES) {
        float chance[LANES] = {};
        const int64_t count = std::min<int64_t>(LANES, vocab - v);
        for (int64_t i = 0; i < count; ++i) chance[i] = (logits[v + i] - most) * inverse;
        store(chance, exponential(load(chance)));
        for (int64_t i = 0; i < count; ++i) {
            const float score = chance[i] / noise[v + i];
            if (score > highest) highest = score, best = v + i;
        }
    }
    return best;
}

// Blocks from…to, slot after slot: all of them share a product.
void draw(const DraftHead& head, const DraftBlocks& all, int64_t from, int64_t to) {
    const int64_t count = to - from, row_width = all.slots * head.vocab;
    static thread_local std::vector<float> latents;
    latents.resize(count * head.rank);
    for (int64_t slot = 0; slot < all.slots; ++slot) {
        float* logits = all.logits + from * row_width + slot * head.vocab;
        for (int64_t block = from; block < to && head.rank; ++block) {
            const int64_t previous = slot ? all.tokens[block * all.slots + slot - 1] : all.anchors[block];
            std::memcpy(&latents[(block - from) * head.rank], head.w1 + previous * head.rank,
                        head.rank * sizeof(float));
        }
        if (head.rank)
            product(head.w2, 0, panels(head.w2), latents.data(), count, head.rank, logits, row_width, true);
        for (int64_t block = from; block < to; ++block) {
            const int64_t place = block * all.slots + slot;
            const float* scores = all.logits + place * head.vocab;
            const float* noise = all.noise ? all.noise + place * head.vocab : nullptr;
            all.tokens[place] = winner(scores, noise, all.noise ? all.temperature[block] : 0.0f, head.vocab);
            float confidence = head.confidence_bias;
            confidence += dot(all.hidden + place * head.hidden, head.confidence, head.hidden);
            if (head.confidence_reads_previous)
                confidence += dot(&latents[(block - from) * head.rank], head.confidence + head.hidden, head.rank);
            all.confidence[place] = std::isnan(confidence) ? -INFINITY : confidence;
        }
    }
}

}  // namespace
