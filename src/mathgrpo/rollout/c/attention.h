/* Attention of a batch of token rows: over a shared sequence (a prompt) and a row's own, in one softmax.

   Rows of one group stand next to each other; their queries pass over the prompt's pages together, so each page is
   read once for a tile of MR queries. While a prompt is computed its tokens are such rows too, each seeing the
   positions up to its own. */

#ifndef ATTENTION_H
#define ATTENTION_H

#include "memory.h"

typedef struct { /* where a token row reads and writes */
    const sequence *shared, *own; /* own: NULL while a prompt is computed */
    long visible, age;            /* positions of shared it sees; of own: 0..age */
    long position, row;           /* its place in the text; the caller's number of the row */
} place;

typedef struct { /* one thread's room for a tile of queries */
    float *scores;    /* [MR][columns] */
    element *weights; /* [MR][columns] */
    element *queries; /* [MR][pad(head_dim, PAIR)] */
    float *sums;      /* [MR][pad(head_dim, NR)] */
    long columns;
} desk;

typedef struct {
    const model *m;
    const pool *pool;
    const place *places;
    const element *q; /* [rows][heads * head_dim], rotated */
    element *out;     /* [rows][ld_out] */
    long ld_out, layer;
} attention;

INLINE long pages_of(long positions) { return (positions + PAGE - 1) / PAGE; }

/* Scores of `queries` queries against the first `length` positions of a sequence. */
static void score(const attention *a, const desk *d, const sequence *s, long head, long length, long first_query,
                  long queries, long column) {
    long steps = STEPS(a->m->head_dim), ldq = steps * PAIR;
    for (long at = 0; at < length; at += NR) {
        const element *keys = head_page(a->pool, a->m, s, at / PAGE, a->layer, head);
        product(queries, steps, d->queries + first_query * ldq, ldq, keys + at % PAGE / NR * (steps * NR * PAIR),
                d->scores + first_query * d->columns + column + at, d->columns, 0);
    }
}

/* Add the weighted values of the first `length` positions of a sequence to the queries' sums. */
static void gather(const attention *a, const desk *d, const sequence *s, long head, long length, long first_query,
                   long queries, long column) {
    long width = pad(a->m->head_dim, NR);
    for (long at = 0; at < length; at += PAGE) {
        const element *values = head_page(a->pool, a->m, s, at / PAGE, a->layer, head) + a->pool->key_size;
        long steps = STEPS(length - at < PAGE ? length - at : PAGE);
        for (long dim = 0; dim < width; dim += NR)
            product(queries, steps, d->weights + first_query * d->columns + column + at, d->columns,
                    values + dim * PAGE, d->sums + first_query * width + dim, width, 1);
    }
}

static float highest(float *x, long n) { /* also fills up to whole vectors with minus infinity */
    vec top = splat(-INFINITY);
    for (long i = n; i < pad(n, VL); i++) x[i] = -INFINITY;
    for (long i = 0; i < n; i += VL) top = maximum(top, load(x + i));
    return largest(top);
}

static vec exponentials(float *x, long n, float scale, float top, vec sum) {
    for (long i = 0; i < n; i += VL) {
        vec e = exponential((load(x + i) - splat(top)) * splat(scale));
        store(x + i, e);
        sum += e;
    }
    return sum;
}

static void write_weights(const float *x, long n, float factor, element *out) {
    long i = 0;
    for (; i < n; i += VL) store_elements(out + i, load(x + i) * splat(factor));
    for (; i < pad(n, PAGE); i += VL) store_elements(out + i, splat(0));
}

/* One softmax over `visible` shared columns and `own` columns that start at `column`. */
static void softmax(float *scores, element *weights, long visible, long own, long column, float scale, long width) {
    float top = highest(scores, visible), other = highest(scores + column, own);
    if (other > top) top = other;
    vec sum = exponentials(scores, visible, scale, top, splat(0));
    float factor = 1.0f / total(exponentials(scores + column, own, scale, top, sum));
    write_weights(scores, visible, factor, weights);
    for (long i = pad(visible, PAGE); i < width; i += VL) store_elements(weights + i, splat(0));
    write_weights(scores + column, own, factor, weights + column);
}

/* Queries first..first+count of a group's key-value head; query i is head i % share of row i / share. */
static void attend_tile(const attention *a, const desk *d, long first_row, long head, long first, long count) {
    const model *m = a->m;
    long share = m->heads / m->kv_heads, dim = m->head_dim, ldq = STEPS(dim) * PAIR, width = pad(dim, NR);
    const place *group = a->places + first_row;
    long shared = group[(first + count - 1) / share].visible, column = pages_of(shared) * PAGE;
    for (long i = 0; i < count; i++) {
        long row = first_row + (first + i) / share, query = head * share + (first + i) % share;
        memcpy(d->queries + i * ldq, a->q + (row * m->heads + query) * dim, dim * sizeof(element));
    }
    memset(d->sums, 0, count * width * sizeof(float));
    score(a, d, group->shared, head, shared, 0, count, 0);
    for (long i = 0, next; i < count; i = next) {
        const place *p = group + (first + i) / share;
        next = i + share - (first + i) % share < count ? i + share - (first + i) % share : count;
        long own = p->own ? p->age + 1 : 0;
        if (own) score(a, d, p->own, head, own, i, next - i, column);
        for (long j = i; j < next; j++)
            softmax(d->scores + j * d->columns, d->weights + j * d->columns, p->visible, own, column,
                    1.0f / sqrtf((float)dim), column);
    }
    gather(a, d, group->shared, head, shared, 0, count, 0);
    for (long i = 0, next; i < count; i = next) {
        const place *p = group + (first + i) / share;
        next = i + share - (first + i) % share < count ? i + share - (first + i) % share : count;
        if (p->own) gather(a, d, p->own, head, p->age + 1, i, next - i, column);
    }
    for (long i = 0; i < count; i++) {
        long row = first_row + (first + i) / share, query = head * share + (first + i) % share;
        element *out = a->out + row * a->ld_out + query * dim;
        for (long k = 0; k < dim; k++) out[k] = to_element(d->sums[i * width + k]);
    }
}

/* All rows of a span; threads that share the rows take turns at the groups' key-value heads. */
static void attend(const attention *a, const desk *d, const span *s) {
    long share = a->m->heads / a->m->kv_heads, turn = 0;
    for (long row = s->begin, stop; row < s->end; row = stop) {
        for (stop = row + 1; stop < s->end && a->places[stop].shared == a->places[row].shared; stop++) {}
        long queries = (stop - row) * share;
        for (long head = 0; head < a->m->kv_heads; head++)
            for (long first = 0; first < queries; first += MR)
                if (turn++ % s->parts == s->part)
                    attend_tile(a, d, row, head, first, queries - first < MR ? queries - first : MR);
    }
}

#endif
