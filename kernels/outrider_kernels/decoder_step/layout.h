// What Python hands over; the ctypes structs in native.py mirror these.
//
// Shapes: B rows, d hidden size, H query heads, K key/value heads, D head size, I inner size, V vocabulary.

#pragma once

#include <cstdint>

extern "C" {

// A weight [columns, depth] as panels of 32 columns, [panels][depth][32], in fp32 or, where that loses nothing, bf16:
// there columns i and 16 + i of a panel lie side by side, as the halves of one 32-bit word.
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

// Rows [count, d] of which every layer's keys and values are stored at `slots`, as a drafter keeps its contexts: in
// planes [slots, K, D], one layer's `layer_stride` floats after the last's.
struct ContextRows {
    int64_t count, kv_stride, layer_stride;
    const float* rows;
    const int64_t *positions, *slots;
    float *keys, *values;
};

// The sequential head: bias W2·W1[previous], and the confidence w·[h; W1[previous]] + b.
struct DraftHead {
    int64_t rank, hidden, vocab, confidence_reads_previous;  // rank 0: no bias
    const float *w1, *confidence;
    float confidence_bias;
    Packed w2;
};

// R blocks of γ slots to propose: slot k of block r stands at positions[r] + k, sees the block's context rows, which
// start at first_slot[r] of planes as ContextRows has them, and chooses the token after it. temperature, seeds and
// choices [R] are null when all is greedy. Out: tokens and confidence [R, γ].
struct Proposal {
    int64_t blocks, slots, mask_token, kv_stride, layer_stride;
    const int64_t *anchors, *positions, *first_slot, *context;
    float *keys, *values;
    const float* temperature;
    const int64_t *seeds, *choices;
    int64_t* tokens;
    float* confidence;
};

// Rows of logits [count, V] of which one token each is chosen, to stand at `positions`. Out: tokens.
struct Choosing {
    int64_t count, vocab;
    const float *logits, *temperature;
    const int64_t *seeds, *choices, *positions;
    int64_t* tokens;
};

}  // extern "C"
