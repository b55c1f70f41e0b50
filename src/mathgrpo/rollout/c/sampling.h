/* Drawing one token from a row of logits: the same draw as `rollout/sampling.py` without truncations. */

#ifndef SAMPLING_H
#define SAMPLING_H

#include "vectors.h"

typedef struct {
    float temperature; /* 0: the most likely token */
    const int64_t *keys; /* [rows], the rows' streams of uniform numbers */
} draw;

static uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* The uniform number of a stream at a position, in [0, 1). Source: SplitMix64, see `rollout/noise.py`. */
static double uniform(int64_t key, int64_t position) {
    return (double)(mix((uint64_t)key + (uint64_t)(position + 1) * 0x9E3779B97F4A7C15u) >> 11) * 0x1p-53;
}

/* exp(logits - top) in place, zeros up to a whole vector; -> their sum over each block of `size` in `blocks`. */
static double weigh(float *x, long vocab, float top, long size, double *blocks) {
    double all = 0;
    for (long i = vocab; i % VL; i++) x[i] = -INFINITY;
    for (long first = 0, b = 0; first < vocab; first += size, b++) {
        vec sum = splat(0);
        for (long i = first; i < first + size && i < vocab; i += VL) {
            vec e = exponential(load(x + i) - splat(top));
            store(x + i, e);
            sum += e;
        }
        all += blocks[b] = total(sum);
    }
    return all;
}

/* The first bin whose cumulative weight exceeds the target, and how far into it the target lies. */
static long locate(const double *weights, long n, double *fraction, double whole) {
    double target = *fraction * whole, below = 0, above = 0;
    long i = 0, last = 0;
    for (; i < n; i++) {
        if (!(weights[i] > 0)) continue;
        last = i;
        below = above, above += weights[i];
        if (above > target) break;
    }
    double inside = (target - below) / (above - below);
    *fraction = inside < 0 ? 0 : inside > 1 - 0x1p-53 ? 1 - 0x1p-53 : inside;
    return last;
}

/* -> the token and its log-probability. Overwrites the logits; `blocks` has room for 2 * sqrt(vocab) + 16 numbers. */
static int64_t sample(float *x, long vocab, float temperature, double u, double *blocks, float *logprob) {
    long best = 0, size = 16, bits = 0;
    if (temperature != 0 && temperature != 1)
        for (long i = 0; i < vocab; i++) x[i] /= temperature;
    vec high = splat(-INFINITY);
    for (long i = vocab; i % VL; i++) x[i] = -INFINITY;
    for (long i = 0; i < vocab; i += VL) high = maximum(high, load(x + i));
    float top = largest(high);
    if (temperature == 0) {
        while (best < vocab - 1 && x[best] != top) best++;
    }
    for (long v = vocab; v; v >>= 1) bits++;
    while (size < 1L << ((bits + 1) / 2)) size *= 2;
    double all = weigh(x, vocab, top, size, blocks);
    if (temperature != 0) {
        long block = locate(blocks, (vocab + size - 1) / size, &u, all), first = block * size;
        double tokens[size], inside = 0;
        long count = vocab - first < size ? vocab - first : size;
        for (long i = 0; i < count; i++) inside += tokens[i] = x[first + i];
        best = first + locate(tokens, count, &u, inside);
    }
    *logprob = (float)(log(x[best]) - log(all));
    return best;
}

#endif
