/* Keys and values in pages of PAGE positions: a prompt's pages are read by all its rows, a row's own are its alone.

   A page holds all layers and key-value heads of its positions, in the panels that the matrix product reads: keys as
   [PAGE / NR][head_dim / PAIR][NR][PAIR] (queries times keys), values as [head_dim / NR][PAGE / PAIR][NR][PAIR]
   (weights times values). Pages of finished rows go to the next ones, so memory follows the live tokens. */

#ifndef MEMORY_H
#define MEMORY_H

#include <stdlib.h>

#include "layers.h"

#define PAGE 32
#define SLAB 16 /* pages taken from the system at once */

typedef struct {
    long count, room; /* pages in use, entries of `page` */
    element **page;
} sequence;

typedef struct {
    long key_size, head_size, page_size; /* elements of a head's keys in a page, of its keys and values, of a page */
    long num_free, num_slabs;
    element **free_pages;
    void **slabs;
} pool;

static void pool_shape(pool *p, const model *m) {
    p->key_size = PAGE * STEPS(m->head_dim) * PAIR;
    p->head_size = p->key_size + PAGE * pad(m->head_dim, NR);
    p->page_size = m->num_layers * m->kv_heads * p->head_size;
}

/* Zeroed pages: what lies behind a sequence's end is multiplied by 0, and must be finite for that. */
static int pool_grow(pool *p) {
    long pages = (p->num_slabs + 1) * SLAB;
    void **slabs = realloc(p->slabs, (p->num_slabs + 1) * sizeof *slabs);
    if (slabs) p->slabs = slabs;
    element **list = realloc(p->free_pages, pages * sizeof *list);
    if (list) p->free_pages = list;
    char *slab = slabs && list ? calloc(SLAB * p->page_size + 64, sizeof(element)) : NULL;
    if (!slab) return -1;
    p->slabs[p->num_slabs++] = slab;
    element *first = (element *)(((uintptr_t)slab + 63) / 64 * 64);
    for (long i = SLAB; i-- > 0;) p->free_pages[p->num_free++] = first + i * p->page_size;
    return 0;
}

static void pool_close(pool *p) {
    for (long i = 0; i < p->num_slabs; i++) free(p->slabs[i]);
    free(p->slabs);
    free(p->free_pages);
}

/* Make room for `length` positions; -1 without memory. */
static int reserve(pool *p, sequence *s, long length) {
    long pages = (length + PAGE - 1) / PAGE;
    if (pages > s->room) {
        long room = pages > 2 * s->room ? pages : 2 * s->room;
        element **list = realloc(s->page, room * sizeof *list);
        if (!list) return -1;
        s->page = list, s->room = room;
    }
    while (s->count < pages) {
        if (!p->num_free && pool_grow(p)) return -1;
        s->page[s->count++] = p->free_pages[--p->num_free];
    }
    return 0;
}

static void give_back(pool *p, sequence *s) {
    while (s->count) p->free_pages[p->num_free++] = s->page[--s->count];
    free(s->page);
    *s = (sequence){0};
}

static element *head_page(const pool *p, const model *m, const sequence *s, long page, long layer, long head) {
    return s->page[page] + (layer * m->kv_heads + head) * p->head_size;
}

static void write_key(const model *m, element *head, long position, const element *key) {
    long column = position % NR, dims = m->head_dim;
    element *panel = head + position % PAGE / NR * (STEPS(dims) * NR * PAIR);
    for (long d = 0; d < dims; d++) panel[(d / PAIR * NR + column) * PAIR + d % PAIR] = key[d];
}

static void write_value(const pool *p, const model *m, element *head, long position, const float *value) {
    long at = position % PAGE;
    for (long d = 0; d < m->head_dim; d++) {
        element *panel = head + p->key_size + d / NR * (PAGE * NR);
        panel[(at / PAIR * NR + d % NR) * PAIR + at % PAIR] = to_element(value[d]);
    }
}

#endif
