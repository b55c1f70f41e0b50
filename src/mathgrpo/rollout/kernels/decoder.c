/* A decoding session in C: prompts in, sampled tokens out, one call for many steps. Called by `rollout/compiled.py`.

   Threads split the rows and run each its own through the whole model, so they never wait for each other inside a
   step; with too few rows for that they split the columns of every matrix instead. */

#include "attention.h"
#include "sampling.h"

#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num(void) { return 0; }
#endif

#define ROWS_EACH 8   /* rows a thread must have before threads split rows */
#define CHUNK 256     /* prompt tokens computed at once, at most */
#define NO_MEMORY (-1)

typedef struct {
    sequence pages;
    long length, readers, released;
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
session *mg_open(const model *m, int64_t num_prompts, int64_t max_rows, int64_t longest, int64_t threads) {
    session *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    s->m = m, s->threads = threads, s->num_prompts = num_prompts;
    s->room = max_rows > CHUNK ? max_rows : CHUNK;
    s->columns = pad(longest, PAGE) + 2 * PAGE;
    pool_shape(&s->pool, m);
    s->prompts = calloc(num_prompts, sizeof *s->prompts);
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

/* Compute n prompts whose ids stand one after another in tokens; logits: [n][vocab]. -> 0 or NO_MEMORY. */
int mg_prefill(session *s, int64_t n, const int64_t *which, const int64_t *lengths, const int64_t *tokens,
               float *logits) {
    const model *m = s->m;
    long ldx = pad(m->hidden, NR), ldv = pad(m->vocab, NR), i = 0, at = 0, ended = 0, done = 0;
    for (long k = 0; k < n; k++) {
        s->prompts[which[k]].length = lengths[k];
        if (reserve(&s->pool, &s->prompts[which[k]].pages, lengths[k])) return NO_MEMORY;
    }
    while (i < n) {
        long rows = 0;
        ended = 0;
        long ends[CHUNK];
        for (; rows < CHUNK && i < n; rows++) {
            const prompt *p = s->prompts + which[i];
            s->tokens[rows] = *tokens++;
            s->places[rows] = (place){&p->pages, NULL, at + 1, 0, at, 0};
            if (++at == lengths[i]) ends[ended++] = rows, at = 0, i++;
        }
#pragma omp parallel num_threads(s->threads)
        {
            long t = omp_get_thread_num();
            span p = share_of(rows, s->threads, t);
            run_layers(s, &p, s->desks + t);
        }
        for (long k = 0; k < ended; k++) memcpy(s->last + k * ldx, s->x + ends[k] * ldx, ldx * sizeof(float));
#pragma omp parallel num_threads(s->threads)
        {
            span p = share_of(ended, s->threads, omp_get_thread_num());
            head(s, &p, s->last, s->logits, ldv);
        }
        for (long k = 0; k < ended; k++, done++)
            memcpy(logits + done * m->vocab, s->logits + k * ldv, m->vocab * sizeof(float));
    }
    return 0;
}

/* Append rows that read these prompts. */
void mg_admit(session *s, int64_t n, const int64_t *prompts) {
    for (long i = 0; i < n; i++) {
        s->rows[s->num_rows++] = (row){{0}, prompts[i], 0};
        s->prompts[prompts[i]].readers++;
    }
}

static void leave(session *s, prompt *p) {
    if (!p->readers && p->released) give_back(&s->pool, &p->pages);
}

/* No further row will read this prompt. */
void mg_release(session *s, int64_t i) {
    s->prompts[i].released = 1;
    leave(s, s->prompts + i);
}

/* Leave only these rows: new row i is old row rows[i] >= i, each at most once. No key or value moves. */
void mg_keep(session *s, int64_t n, const int64_t *rows) {
    for (long i = 0; i < s->num_rows; i++) s->places[i].row = 0;
    for (long i = 0; i < n; i++) s->places[rows[i]].row = 1;
    for (long i = 0; i < s->num_rows; i++)
        if (!s->places[i].row) {
            prompt *p = s->prompts + s->rows[i].prompt;
            give_back(&s->pool, &s->rows[i].own);
            p->readers--;
            leave(s, p);
        }
    for (long i = 0; i < n; i++) s->rows[i] = s->rows[rows[i]];
    s->num_rows = n;
}

/* Order the rows by prompt and say where each reads and writes next. -> 0 or NO_MEMORY. */
static int place_step(session *s) {
    long n = 0;
    for (long i = 0; i < s->num_rows; i++)
        if (reserve(&s->pool, &s->rows[i].own, s->rows[i].age + 1)) return NO_MEMORY;
    for (long i = 0; i < s->num_rows; i++) { /* insertion: rows mostly are in order already */
        const row *r = s->rows + i;
        const prompt *p = s->prompts + r->prompt;
        long at = n++;
        for (; at && s->rows[s->places[at - 1].row].prompt > r->prompt; at--) s->places[at] = s->places[at - 1];
        s->places[at] = (place){&p->pages, &r->own, p->length, r->age, p->length + r->age, i};
    }
    return 0;
}

static void run_step(session *s, const int64_t *tokens) {
    for (long r = 0; r < s->num_rows; r++) s->tokens[r] = tokens[s->places[r].row];
}

/* One token for every row; logits: [rows][vocab]. -> 0 or NO_MEMORY. */
int mg_step(session *s, const int64_t *tokens, float *logits) {
    long vocab = s->m->vocab, ldv = pad(vocab, NR);
    if (place_step(s)) return NO_MEMORY;
    run_step(s, tokens);
#pragma omp parallel num_threads(s->threads)
    {
        long t = omp_get_thread_num();
        span p = share_of(s->num_rows, s->threads, t);
        run_layers(s, &p, s->desks + t);
        head(s, &p, s->x, s->logits, ldv);
        for (long r = row_begin(&p); r < row_end(&p); r++)
            memcpy(logits + s->places[r].row * vocab, s->logits + r * ldv, vocab * sizeof(float));
    }
    for (long i = 0; i < s->num_rows; i++) s->rows[i].age++;
    return 0;
}

/* Up to `steps` tokens for every row, stopping after the step in which a row ends.

   tokens[i] is row i's last token, to be appended first, and then sampled ones; the token sampled in step k by row i
   goes to ids[i * ld + k], drawn at position ages[i] + k of its stream. -> steps made, or NO_MEMORY. */
int64_t mg_advance(session *s, int64_t *tokens, const int64_t *keys, const int64_t *ages, int64_t steps,
                   double temperature, const int64_t *ends, int64_t num_ends, int64_t *ids, float *logprobs,
                   int64_t ld) {
    long vocab = s->m->vocab, ldv = pad(vocab, NR), k = 0, ended = 0;
    while (k < steps && !ended) {
        if (place_step(s)) return NO_MEMORY;
        run_step(s, tokens);
#pragma omp parallel num_threads(s->threads)
        {
            long t = omp_get_thread_num();
            span p = share_of(s->num_rows, s->threads, t);
            run_layers(s, &p, s->desks + t);
            head(s, &p, s->x, s->logits, ldv);
            for (long r = row_begin(&p); r < row_end(&p); r++) {
                long i = s->places[r].row;
                ids[i * ld + k] = tokens[i] = sample(s->logits + r * ldv, vocab, (float)temperature,
                                                     uniform(keys[i], ages[i] + k), s->blocks + t * 1024,
                                                     logprobs + i * ld + k);
            }
        }
        for (long i = 0; i < s->num_rows; i++) {
            s->rows[i].age++;
            for (long e = 0; e < num_ends; e++) ended |= tokens[i] == ends[e];
        }
        k++;
    }
    return k;
}

/* Lay rows of a weight [outputs][inputs] into panels: row n becomes column c = first + n, or with group = VL
   (gate and up joined) lane shift + c % VL of panel c / VL. */
void mg_pack(const float *weight, int64_t outputs, int64_t inputs, element *panels, int64_t first, int64_t group,
             int64_t shift) {
    long steps = STEPS(inputs);
    for (long n = 0; n < outputs; n++) {
        long c = first + n;
        element *to = panels + (c / group * steps * NR + shift + c % group) * PAIR;
        for (long k = 0; k < inputs; k++) to[k / PAIR * NR * PAIR + k % PAIR] = to_element(weight[n * inputs + k]);
    }
}

/* Columns of a panel, floats of a vector, bytes of an element, elements multiplied in one go. */
void mg_layout(int64_t out[4]) {
    out[0] = NR, out[1] = VL, out[2] = sizeof(element), out[3] = PAIR;
}

const char *mg_name(void) { return CPU_NAME; }
