/* Vectors, their exponential, the two precisions, and the one matrix product that everything is built from.

   The compiler's vector extensions make this the same text on AVX-512, AVX2 and NEON; only the bfloat16 product needs
   instructions of its own. An `element` is one number of a matrix product's inputs: a float, or a bfloat16 of which
   two neighbours (a PAIR) are multiplied in one go. */

#ifndef VECTORS_H
#define VECTORS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) /* VL: floats in a vector. MR: rows of a tile; 2 * MR sums must fit into the registers. */
#define VL 16
#define MR 8
#define CPU_NAME "AVX-512"
#elif defined(__AVX2__)
#define VL 8
#define MR 6
#define CPU_NAME "AVX2"
#else
#define VL 4
#define MR 8
#define CPU_NAME "128-bit vectors"
#endif
#define NR (2 * VL) /* columns of a tile: matrices are stored in panels of NR columns */

#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * VL)));
typedef int32_t ivec __attribute__((vector_size(4 * VL)));
typedef float unaligned_vec __attribute__((vector_size(4 * VL), aligned(4), may_alias));

INLINE vec load(const float *p) { return *(const unaligned_vec *)p; }
INLINE void store(float *p, vec v) { *(unaligned_vec *)p = v; }
INLINE vec splat(float x) { return x - (vec){0}; }

#ifdef BF16
#ifndef __AVX512BF16__
#error this CPU has no AVX512-BF16 instructions
#endif
#include <immintrin.h>
#define PAIR 2
typedef uint16_t element;

INLINE element to_element(float x) { /* round to nearest, ties to even; NaN stays NaN */
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return (element)((bits >> 16) | 64);
    return (element)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
INLINE void store_elements(element *p, vec v) {
    _mm256_storeu_si256((__m256i *)p, (__m256i)_mm512_cvtneps_pbh((__m512)v));
}
INLINE vec rounded(vec v) {
    __m512i wide = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)v));
    return (vec)_mm512_slli_epi32(wide, 16);
}
INLINE vec dot(vec sum, const element *x, __m512i w) {
    int32_t pair;
    memcpy(&pair, x, 4);
    return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)w);
}
#define LOAD_PANEL(p) _mm512_loadu_si512(p)
typedef __m512i panel_vec;
#else
#define PAIR 1
typedef float element;

INLINE element to_element(float x) { return x; }
INLINE void store_elements(element *p, vec v) { store(p, v); }
INLINE vec rounded(vec v) { return v; }
INLINE vec dot(vec sum, const element *x, vec w) { return sum + splat(*x) * w; }
#define LOAD_PANEL(p) load(p)
typedef vec panel_vec;
#endif

/* Without this gcc reads a panel's vectors from memory again for every row, which halves the speed of 1 to 4 rows. */
#if defined(__x86_64__)
#define IN_REGISTERS(a, b) __asm__("" : "+v"(a), "+v"(b))
#else
#define IN_REGISTERS(a, b) (void)0
#endif

#define STEPS(inputs) (((inputs) + PAIR - 1) / PAIR) /* multiply-adds for one sum over `inputs` numbers */

INLINE float largest(vec v) {
    float m = v[0];
    for (int i = 1; i < VL; i++) m = v[i] > m ? v[i] : m;
    return m;
}
INLINE float total(vec v) { /* halves added pairwise: the same order for every caller */
    float t[VL];
    store(t, v);
    for (int n = VL / 2; n; n /= 2)
        for (int i = 0; i < n; i++) t[i] += t[i + n];
    return t[0];
}
INLINE vec maximum(vec a, vec b) {
    ivec greater = a > b;
    return (vec)((greater & (ivec)a) | (~greater & (ivec)b));
}

/* e^x within 2 units in the last place for x <= 88; 0 below -87. Cephes' polynomial after taking out powers of 2. */
INLINE vec exponential(vec x) {
    const vec shift = splat(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer in the low bits */
    vec t = x * splat(1.44269504088896341f) + shift;
    vec n = t - shift;
    vec r = x - n * splat(0.693359375f) - n * splat(-2.12194440e-4f);
    vec p = splat(1.9875691500e-4f);
    p = p * r + splat(1.3981999507e-3f);
    p = p * r + splat(8.3334519073e-3f);
    p = p * r + splat(4.1665795894e-2f);
    p = p * r + splat(1.6666665459e-1f);
    p = p * r + splat(5.0000001201e-1f);
    p = p * r * r + r + splat(1.0f);
    ivec scaled = (ivec)p + (((ivec)t - (ivec)shift) << 23);
    return (vec)(scaled & (x > splat(-87.0f)));
}

/* out[r][0..NR) (+)= sum over k of x[r][k] * panel[k][0..NR), for `rows` rows.

   Every sum runs over k in order, whatever the number of rows: a row's result is the same bits in every batch. */
INLINE void tile(const int rows, long steps, const element *x, long ldx, const element *panel, float *out, long ldo,
                 int add) {
    vec sum[MR][2];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        sum[r][0] = add ? load(out + r * ldo) : splat(0);
        sum[r][1] = add ? load(out + r * ldo + VL) : splat(0);
    }
    for (long s = 0; s < steps; s++, x += PAIR, panel += NR * PAIR) {
        panel_vec left = LOAD_PANEL(panel), right = LOAD_PANEL(panel + VL * PAIR);
        IN_REGISTERS(left, right);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            sum[r][0] = dot(sum[r][0], x + r * ldx, left);
            sum[r][1] = dot(sum[r][1], x + r * ldx, right);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        store(out + r * ldo, sum[r][0]);
        store(out + r * ldo + VL, sum[r][1]);
    }
}

/* `tile` for a number of rows, 1..MR, known only now. */
static void product(long rows, long steps, const element *x, long ldx, const element *panel, float *out, long ldo,
                    int add) {
#define CASE(n) case n: tile(n, steps, x, ldx, panel, out, ldo, add); break;
    switch (rows) {
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#if MR > 6
        CASE(7) CASE(8)
#endif
    }
#undef CASE
}

#endif
