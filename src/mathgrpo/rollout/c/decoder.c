/* The functions that `rollout/c/c_decoder.py` calls: prompts in, sampled tokens out, one call for many steps. */

#include "forward.h"
#include "sampling.h"

#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num(void) { return 0; }
static int omp_get_num_threads(void) { return 1; }
#endif

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
            span p = share_of(rows, omp_get_num_threads(), t);
            run_layers(s, &p, s->desks + t);
        }
        for (long k = 0; k < ended; k++) memcpy(s->last + k * ldx, s->x + ends[k] * ldx, ldx * sizeof(float));
#pragma omp parallel num_threads(s->threads)
        {
            span p = share_of(ended, omp_get_num_threads(), omp_get_thread_num());
            head(s, &p, s->last, s->logits, ldv);
        }
        for (long k = 0; k < ended; k++, done++)
            memcpy(logits + done * m->vocab, s->logits + k * ldv, m->vocab * sizeof(float));
    }
    return 0;
}

/* Append rows that read these prompts. */
void mg_admit(session *s, int64_t n, const int64_t *prompts) {
    for (long i = 0; i < n; i++) s->rows[s->num_rows++] = (row){{0}, prompts[i], 0};
}

/* No row reads this prompt; its number may come again. */
void mg_release(session *s, int64_t i) { give_back(&s->pool, &s->prompts[i].pages); }

/* Leave only these rows: new row i is old row rows[i] >= i, each at most once. No key or value moves. */
void mg_keep(session *s, int64_t n, const int64_t *rows) {
    for (long i = 0; i < s->num_rows; i++) s->places[i].row = 0;
    for (long i = 0; i < n; i++) s->places[rows[i]].row = 1;
    for (long i = 0; i < s->num_rows; i++)
        if (!s->places[i].row) give_back(&s->pool, &s->rows[i].own);
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

/* This thread's share of the rows, taken through the layers to their logits. */
static span run_share(session *s, long ldv) {
    span p = share_of(s->num_rows, omp_get_num_threads(), omp_get_thread_num());
    run_layers(s, &p, s->desks + omp_get_thread_num());
    head(s, &p, s->x, s->logits, ldv);
    return p;
}

/* Up to `steps` tokens for every row, stopping after the step in which a row ends.

   tokens[i] is row i's last token, to be appended first, and then sampled ones; the token sampled in step k by row i
   goes to ids[i * steps + k], drawn at position ages[i] + k of its stream. A row of negative temperature is not drawn
   for: its logits go to logits[i * vocab]; steps is 1 then. -> steps made, or NO_MEMORY. */
int64_t mg_advance(session *s, int64_t *tokens, const int64_t *keys, const int64_t *ages, const double *temperatures,
                   int64_t steps, const int64_t *ends, int64_t num_ends, int64_t *ids, float *logprobs,
                   float *logits) {
    long vocab = s->m->vocab, ldv = pad(vocab, NR), k = 0, ended = 0;
    while (k < steps && !ended) {
        if (place_step(s)) return NO_MEMORY;
        for (long r = 0; r < s->num_rows; r++) s->tokens[r] = tokens[s->places[r].row];
#pragma omp parallel num_threads(s->threads)
        {
            span p = run_share(s, ldv);
            double *blocks = s->blocks + omp_get_thread_num() * 1024;
            for (long r = row_begin(&p); r < row_end(&p); r++) {
                long i = s->places[r].row;
                if (temperatures[i] < 0)
                    memcpy(logits + i * vocab, s->logits + r * ldv, vocab * sizeof(float));
                else
                    ids[i * steps + k] = tokens[i] = sample(s->logits + r * ldv, vocab, (float)temperatures[i],
                                                            uniform(keys[i], ages[i] + k), blocks,
                                                            logprobs + i * steps + k);
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

#define SQUARE 16 /* inputs turned at once: a row's next numbers are read together, not one a cache line */

/* Turn `count` rows of a weight into neighbouring columns of a panel. */
static void pack_columns(const float *weight, long count, long inputs, element *panel) {
    element rows[NR][SQUARE];
    for (long k = 0; k < inputs; k += SQUARE) {
        long width = inputs - k < SQUARE ? inputs - k : SQUARE;
        memset(rows, 0, sizeof rows);
        for (long i = 0; i < count; i++) {
            const float *from = weight + i * inputs + k;
            if (width == SQUARE)
                for (long j = 0; j < SQUARE; j += VL) store_elements(rows[i] + j, load(from + j));
            else
                for (long j = 0; j < width; j++) rows[i][j] = to_element(from[j]);
        }
        for (long s = 0; s < STEPS(width); s++)
            for (long i = 0; i < count; i++)
                memcpy(panel + ((k / PAIR + s) * NR + i) * PAIR, rows[i] + s * PAIR, PAIR * sizeof(element));
    }
}

/* Lay rows of a weight [outputs][inputs] into panels: row n becomes column c = first + n, or with group = VL
   (gate and up joined) lane shift + c % VL of panel c / VL. */
void mg_pack(const float *weight, int64_t outputs, int64_t inputs, element *panels, int64_t first, int64_t group,
             int64_t shift, int64_t threads) {
    long steps = STEPS(inputs), blocks = (first + outputs - 1) / group - first / group + 1;
    (void)threads;
#pragma omp parallel for num_threads(threads)
    for (long b = 0; b < blocks; b++) {
        long c = b ? (first / group + b) * group : first, n = c - first;
        long count = group - c % group < outputs - n ? group - c % group : outputs - n;
        pack_columns(weight + n * inputs, count, inputs,
                     panels + (c / group * steps * NR + shift + c % group) * PAIR);
    }
}

/* Columns of a panel, floats of a vector, bytes of an element, elements multiplied in one go. */
void mg_layout(int64_t out[4]) {
    out[0] = NR, out[1] = VL, out[2] = sizeof(element), out[3] = PAIR;
}

const char *mg_name(void) { return CPU_NAME; }
