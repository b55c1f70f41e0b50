/* The layers of a Qwen2 / Qwen3 / Llama model on a batch of token rows: linear maps, RMS norm, rotary embedding.

   Roundings to bfloat16 happen where the trainer's forward pass under autocast rounds, so that the sampled tokens'
   log-probabilities are the trainer's. In float32 `rounded` does nothing. */

#ifndef LAYERS_H
#define LAYERS_H

#include "vectors.h"

typedef struct { /* y = W x + b, W stored as panels[ceil(outputs / NR)][steps][NR][PAIR], padded with zeros */
    const element *panels;
    const float *bias; /* padded to whole panels; NULL: none */
    int64_t outputs, inputs;
} matrix;

typedef struct {
    const float *input_norm, *mlp_norm, *q_norm, *k_norm; /* q_norm, k_norm: NULL but for Qwen3 */
    matrix qkv, out, gate_up, down;
} layer;

typedef struct {
    int64_t num_layers, hidden, heads, kv_heads, head_dim, ffn, vocab;
    double eps;
    const float *embedding, *norm, *cos, *sin; /* cos, sin: [positions][head_dim], sin's first half negated */
    matrix head;
    const layer *layers;
} model;

/* What one thread does: all phases for some rows, or a share of every phase (then threads meet between phases). */
typedef struct {
    long begin, end;   /* rows */
    long part, parts;  /* share of the columns, or of the rows where a phase has no columns */
} span;

static long pad(long n, long multiple) { return (n + multiple - 1) / multiple * multiple; }

static void meet(const span *s) {
    if (s->parts > 1) {
#pragma omp barrier
    }
}
static long row_begin(const span *s) { return s->begin + (s->end - s->begin) * s->part / s->parts; }
static long row_end(const span *s) { return s->begin + (s->end - s->begin) * (s->part + 1) / s->parts; }

enum after { KEEP, ADD, GATE }; /* what becomes of a product: stored, added to out, or gate and up joined */

INLINE void finish(enum after after, const float *sums, const float *bias, void *out) {
    vec left = load(sums), right = load(sums + VL);
    if (bias) left += load(bias), right += load(bias + VL);
    left = rounded(left), right = rounded(right);
    if (after == GATE) { /* silu(gate) * up, one vector of each in a panel */
        vec gate = rounded(left / (splat(1.0f) + exponential(-left)));
        store_elements(out, gate * right);
        return;
    }
    float *o = out;
    store(o, after == ADD ? load(o) + left : left);
    store(o + VL, after == ADD ? load(o + VL) + right : right);
}

/* The panel is the outer loop: it stays in the cache while all rows pass by. */
INLINE void linear(const span *s, enum after after, const matrix *w, const element *x, long ldx, void *out, long ldo) {
    float sums[MR * NR];
    long panels = pad(w->outputs, NR) / NR, steps = STEPS(w->inputs);
    long width = after == GATE ? VL : NR, size = after == GATE ? sizeof(element) : sizeof(float);
    for (long p = panels * s->part / s->parts; p < panels * (s->part + 1) / s->parts; p++) {
        const element *panel = w->panels + p * steps * NR * PAIR;
        const float *bias = w->bias ? w->bias + p * NR : NULL;
        for (long row = s->begin; row < s->end; row += MR) {
            long rows = s->end - row < MR ? s->end - row : MR;
            product(rows, steps, x + row * ldx, ldx, panel, sums, NR, 0);
            for (long r = 0; r < rows; r++)
                finish(after, sums + r * NR, bias, (char *)out + ((row + r) * ldo + p * width) * size);
        }
    }
}

static void linear_keep(const span *s, const matrix *w, const element *x, long ldx, float *out, long ldo) {
    linear(s, KEEP, w, x, ldx, out, ldo);
}
static void linear_add(const span *s, const matrix *w, const element *x, long ldx, float *out, long ldo) {
    linear(s, ADD, w, x, ldx, out, ldo);
}
static void linear_gate(const span *s, const matrix *w, const element *x, long ldx, element *out, long ldo) {
    linear(s, GATE, w, x, ldx, out, ldo);
}

static float root_mean_square_inverse(const float *x, long n, float eps) {
    vec squares = splat(0);
    float sum = 0;
    long i = 0;
    for (; i + VL <= n; i += VL) squares += load(x + i) * load(x + i);
    for (; i < n; i++) sum += x[i] * x[i];
    return 1.0f / sqrtf((total(squares) + sum) / (float)n + eps);
}

static void rms_norm(const float *x, const float *weight, long n, float eps, element *out) {
    float scale = root_mean_square_inverse(x, n, eps);
    long i = 0;
    for (; i + VL <= n; i += VL) store_elements(out + i, load(x + i) * splat(scale) * load(weight + i));
    for (; i < n; i++) out[i] = to_element(x[i] * scale * weight[i]);
}

static float rounded_scalar(float x) { return rounded(splat(x))[0]; }

/* Rotate one head's query or key, after its norm where there is one. Source: RoFormer (Su et al. 2021), halves. */
static void rotate(const float *x, const float *norm, const float *cos, const float *sin, long dim, float eps,
                   element *out) {
    float scale = norm ? root_mean_square_inverse(x, dim, eps) : 1.0f, normed[dim];
    long half = dim / 2;
    if (norm) {
        for (long d = 0; d < dim; d++) normed[d] = rounded_scalar(x[d] * scale) * norm[d];
        x = normed;
    }
    long d = 0;
    for (; half % VL == 0 && d < half; d += VL) {
        vec a = load(x + d), b = load(x + half + d);
        store_elements(out + d, a * load(cos + d) + b * load(sin + d));
        store_elements(out + half + d, b * load(cos + half + d) + a * load(sin + half + d));
    }
    for (; d < half; d++) {
        out[d] = to_element(x[d] * cos[d] + x[d + half] * sin[d]);
        out[d + half] = to_element(x[d + half] * cos[d + half] + x[d] * sin[d + half]);
    }
}

#endif
