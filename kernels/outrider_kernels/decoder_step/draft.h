// A drafter's own parts: contexts that grow, and the head that draws a block left to right.

#pragma once

#include <cstring>
#include <vector>

#include "layout.h"
#include "product.h"
#include "race.h"

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
            std::memcpy(all.keys + number * all.layer_stride + at, keys, kv_width * sizeof(float));
            std::memcpy(all.values + number * all.layer_stride + at, keys + kv_width, kv_width * sizeof(float));
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

// The rows of blocks, each its anchor and masks after it, and what they come out as; kept between rounds.
struct BlockRows {
    std::vector<int64_t> token_ids, positions, first_row, wanted;
    std::vector<float*> keys, values;
    std::vector<float> hidden, logits;

    Batch batch(const Model& model, const Proposal& all) {
        const int64_t rows = all.blocks * all.slots;
        token_ids.assign(rows, all.mask_token);
        positions.resize(rows);
        wanted.resize(rows);
        first_row.resize(all.blocks + 1);
        for (int64_t row = 0; row < rows; ++row) {
            if (row % all.slots == 0) token_ids[row] = all.anchors[row / all.slots];
            positions[row] = all.positions[row / all.slots] + row % all.slots;
            wanted[row] = row;
        }
        for (int64_t block = 0; block <= all.blocks; ++block) first_row[block] = block * all.slots;
        planes(keys, all.keys, model.layers, all.layer_stride);
        planes(values, all.values, model.layers, all.layer_stride);
        hidden.resize(rows * model.hidden);
        logits.resize(rows * model.head.columns);
        Batch batch = {};
        batch.rows = batch.wanted_rows = rows, batch.spans = all.blocks, batch.kv_stride = all.kv_stride;
        batch.token_ids = token_ids.data(), batch.positions = positions.data(), batch.first_row = first_row.data();
        batch.context = all.context, batch.first_slot = all.first_slot;
        batch.keys = keys.data(), batch.values = values.data();
        batch.wanted = wanted.data(), batch.hidden = hidden.data(), batch.logits = logits.data();
        return batch;
    }

    static void planes(std::vector<float*>& to, float* first, int64_t layers, int64_t stride) {
        to.resize(layers);
        for (int64_t number = 0; number < layers; ++number) to[number] = first + number * stride;
    }
};

// Blocks from…to, slot after slot: all of them share a product. The logits take the biases in.
void draw(const DraftHead& head, const Proposal& all, BlockRows& rows, int64_t from, int64_t to) {
    const int64_t count = to - from, row_width = all.slots * head.vocab;
    static thread_local std::vector<float> latents;
    latents.resize(count * head.rank);
    for (int64_t slot = 0; slot < all.slots; ++slot) {
        float* logits = &rows.logits[from * row_width + slot * head.vocab];
        for (int64_t block = from; block < to && head.rank; ++block) {
            const int64_t previous = slot ? all.tokens[block * all.slots + slot - 1] : all.anchors[block];
            std::memcpy(&latents[(block - from) * head.rank], head.w1 + previous * head.rank,
                        head.rank * sizeof(float));
        }
        if (head.rank)
            product(head.w2, 0, panels(head.w2), latents.data(), count, head.rank, logits, row_width, true);
        for (int64_t block = from; block < to; ++block) {
            const int64_t place = block * all.slots + slot;
            const float temperature = all.temperature ? all.temperature[block] : 0.0f;
            const RowKey key = temperature > 0 ? row_key(all.seeds[block], all.choices[block],
                                                         all.positions[block] + slot + 1)
                                               : RowKey{};
            all.tokens[place] = winner(&rows.logits[place * head.vocab], head.vocab, temperature, key);
            float confidence = head.confidence_bias;
            confidence += dot(&rows.hidden[place * head.hidden], head.confidence, head.hidden);
            if (head.confidence_reads_previous)
                confidence += dot(&latents[(block - from) * head.rank], head.confidence + head.hidden, head.rank);
            all.confidence[place] = std::isnan(confidence) ? -INFINITY : confidence;
        }
    }
}

}  // namespace
