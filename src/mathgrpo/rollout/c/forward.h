/* A session's memory, and a batch of token rows going through the whole model.

   Threads split the rows and run each its own through the whole model, so they never wait for each other inside a
   step; with too few rows for that they split the columns of every matrix instead. */

#ifndef FORWARD_H
#define FORWARD_H

#include "attention.h"

#define ROWS_EACH 8   /* rows a thread must have before threads split rows */
#define CHUNK 256     /* prompt tokens computed at once, at most */
#define NO_MEMORY (-1)

typedef struct {
    sequence pages;
    long length;
} prompt;

typedef struct {
    sequence own;
    long prompt, age;
} row;

typedef struct {
    const model *m;
    pool pool;
    prompt *prompts;
    row *rows;
    long num_prompts, num_rows, threads, columns, room; /* room: token rows that the buffers below hold */
    place *places;
    float *x, *qkv, *logits, *last;
    element *h, *q, *attended, *act;
    int64_t *tokens;
    desk *desks;
    double *blocks;
    void *buffers[16];
    int num_buffers;
} session;

static void *buffer(session *s, size_t bytes) { /* zeroed, aligned; NULL without memory */
    char *p = calloc(bytes + 64, 1);
    s->buffers[s->num_buffers++] = p;
    return p ? (void *)(((uintptr_t)p + 63) / 64 * 64) : NULL;
}

static long qkv_width(const model *m) { return pad((m->heads + 2 * m->kv_heads) * m->head_dim, NR); }

static int make_desks(session *s) {
    long dim = s->m->head_dim, n = s->threads * MR;
    float *scores = buffer(s, n * s->columns * sizeof(float)), *sums = buffer(s, n * pad(dim, NR) * sizeof(float));
    element *weights = buffer(s, n * s->columns * sizeof(element)), *q = buffer(s, n * STEPS(dim) * PAIR * sizeof(element));
    s->desks = buffer(s, s->threads * sizeof *s->desks);
    if (!scores || !sums || !weights || !q || !s->desks) return NO_MEMORY;
    for (long t = 0; t < s->threads; t++)
        s->desks[t] = (desk){scores + t * MR * s->columns, weights + t * MR * s->columns,
                             q + t * MR * STEPS(dim) * PAIR, sums + t * MR * pad(dim, NR), s->columns};
    return 0;
}

static int make_buffers(session *s) {
    const model *m = s->m;
    long n = s->room;
    s->places = buffer(s, n * sizeof *s->places);
    s->tokens = buffer(s, n * sizeof *s->tokens);
    s->x = buffer(s, n * pad(m->hidden, NR) * sizeof(float));
    s->last = buffer(s, n * pad(m->hidden, NR) * sizeof(float));
    s->h = buffer(s, n * pad(m->hidden, NR) * sizeof(element));
    s->qkv = buffer(s, n * qkv_width(m) * sizeof(float));
    s->q = buffer(s, n * m->heads * m->head_dim * sizeof(element));
    s->attended = buffer(s, n * pad(m->heads * m->head_dim, NR) * sizeof(element));
    s->act = buffer(s, n * pad(m->ffn, NR) * sizeof(element));
    s->logits = buffer(s, n * pad(m->vocab, NR) * sizeof(float));
    s->blocks = buffer(s, n * 1024 * sizeof(double));
    return s->places && s->tokens && s->x && s->last && s->h && s->qkv && s->q && s->attended && s->act && s->logits &&
                   s->blocks ? make_desks(s) : NO_MEMORY;
}

void mg_close(session *s) {
    if (!s) return;
    for (long i = 0; s->prompts && i < s->num_prompts; i++) free(s->prompts[i].pages.page);
    for (long i = 0; s->rows && i < s->num_rows; i++) free(s->rows[i].own.page);
    for (int i = 0; i < s->num_buffers; i++) free(s->buffers[i]);
    pool_close(&s->pool);
    free(s->prompts);
    free(s->rows);
    free(s);
}

/* -> a session, or NULL without memory. longest: positions of the longest prompt and completion together. */
session *mg_open(const model *m, int64_t max_rows, int64_t longest, int64_t threads) {
    session *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    s->m = m, s->threads = threads, s->num_prompts = max_rows + 1;
    s->room = max_rows > CHUNK ? max_rows : CHUNK;
    s->columns = pad(longest, PAGE) + 2 * PAGE;
    pool_shape(&s->pool, m);
    s->prompts = calloc(s->num_prompts, sizeof *s->prompts);
    s->rows = calloc(max_rows, sizeof *s->rows);
    if (s->prompts && s->rows && !make_buffers(s)) return s;
    mg_close(s);
    return NULL;
}

/* Norm, or embed, a thread's rows. */
static void norm_rows(const session *s, const span *p, const float *x, const float *weight) {
    long ld = pad(s->m->hidden, NR);
    for (long r = row_begin(p); r < row_end(p); r++)
        rms_norm(x + r * ld, weight, s->m->hidden, (float)s->m->eps, s->h + r * ld);
    meet(p);
}

static void embed(const session *s, const span *p) {
    for (long r = row_begin(p); r < row_end(p); r++)
        memcpy(s->x + r * pad(s->m->hidden, NR), s->m->embedding + s->tokens[r] * s->m->hidden,
               s->m->hidden * sizeof(float));
}

/* Rotate queries and keys of a thread's rows and write keys and values into their pages. */
static void place_rows(const session *s, const span *p, long l) {
    const model *m = s->m;
    const layer *w = m->layers + l;
    long dim = m->head_dim;
    element key[dim];
    for (long r = row_begin(p); r < row_end(p); r++) {
        const place *at = s->places + r;
        const float *x = s->qkv + r * qkv_width(m), *cos = m->cos + at->position * dim, *sin = m->sin + at->position * dim;
        for (long h = 0; h < m->heads; h++)
            rotate(x + h * dim, w->q_norm, cos, sin, dim, (float)m->eps, s->q + (r * m->heads + h) * dim);
        const sequence *target = at->own ? at->own : at->shared;
        long position = at->own ? at->age : at->position;
        for (long h = 0; h < m->kv_heads; h++) {
            element *head = head_page(&s->pool, m, target, position / PAGE, l, h);
            rotate(x + (m->heads + h) * dim, w->k_norm, cos, sin, dim, (float)m->eps, key);
            write_key(m, head, position, key);
            write_value(&s->pool, m, head, position, x + (m->heads + m->kv_heads + h) * dim);
        }
    }
}

/* Run a thread's share of a batch through all layers; x holds the result. */
static void run_layers(const session *s, const span *p, const desk *d) {
    const model *m = s->m;
    long ldx = pad(m->hidden, NR), lda = pad(m->heads * m->head_dim, NR), ldf = pad(m->ffn, NR);
    embed(s, p);
    for (long l = 0; l < m->num_layers; l++) {
        const layer *w = m->layers + l;
        norm_rows(s, p, s->x, w->input_norm);
        linear_keep(p, &w->qkv, s->h, ldx, s->qkv, qkv_width(m));
        meet(p);
        place_rows(s, p, l);
        if (p->parts > 1 || !s->places->own) { /* a prompt's tokens read each other's keys */
#pragma omp barrier
        }
        attend(&(attention){m, &s->pool, s->places, s->q, s->attended, lda, l}, d, p);
        meet(p);
        linear_add(p, &w->out, s->attended, lda, s->x, ldx);
        meet(p);
        norm_rows(s, p, s->x, w->mlp_norm);
        linear_gate(p, &w->gate_up, s->h, ldx, s->act, ldf);
        meet(p);
        linear_add(p, &w->down, s->act, ldf, s->x, ldx);
        meet(p);
    }
}

static void head(const session *s, const span *p, const float *x, float *out, long ld) {
    norm_rows(s, p, x, s->m->norm);
    linear_keep(p, &s->m->head, s->h, pad(s->m->hidden, NR), out, ld);
    meet(p);
}

static span share_of(long rows, long threads, long thread) {
    if (rows < ROWS_EACH * threads) return (span){0, rows, thread, threads};
    return (span){rows * thread / threads, rows * (thread + 1) / threads, 0, 1};
}

#endif
