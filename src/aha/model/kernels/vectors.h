/* Vectors as wide as the processor's registers, and exp and sigmoid that compilers vectorise. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

/* LANES: floats in a register. PANEL_LANES and DOT_ROWS: how many a product keeps sums in, see
 * products.h. AVX2 has 16 registers, AVX-512 and NEON have 32. */
#if defined(__AVX512F__)
enum { LANES = 16, PANEL_LANES = 4, DOT_ROWS = 6 };
#elif defined(__AVX2__)
enum { LANES = 8, PANEL_LANES = 2, DOT_ROWS = 3 };
#else
enum { LANES = 4, PANEL_LANES = 4, DOT_ROWS = 6 };
#endif

/* A register; and the same in memory, at any address that a float may have. */
typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef float lanes_at __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float quad __attribute__((vector_size(16)));
typedef float quad_at __attribute__((vector_size(16), aligned(4), may_alias));

#define INLINE inline __attribute__((always_inline))
#ifdef _WIN32
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

static INLINE lanes load(const float *x) { return *(const lanes_at *)x; }
static INLINE void put(float *x, lanes value) { *(lanes_at *)x = value; }

/* The sums of four registers, side by side. */
static INLINE quad four_sums(lanes a, lanes b, lanes c, lanes d) {
    union { lanes all; quad part[LANES / 4]; } in[4] = {{a}, {b}, {c}, {d}};
    quad sum[4];
    for (int i = 0; i < 4; i++) {
        sum[i] = in[i].part[0];
        for (int p = 1; p < LANES / 4; p++) sum[i] += in[i].part[p];
    }
#if defined(__x86_64__) && defined(__SSE3__)
    return (quad)_mm_hadd_ps(_mm_hadd_ps((__m128)sum[0], (__m128)sum[1]),
                             _mm_hadd_ps((__m128)sum[2], (__m128)sum[3]));
#elif defined(__aarch64__)
    return (quad)vpaddq_f32(vpaddq_f32((float32x4_t)sum[0], (float32x4_t)sum[1]),
                            vpaddq_f32((float32x4_t)sum[2], (float32x4_t)sum[3]));
#else
    quad total;
    for (int i = 0; i < 4; i++) total[i] = (sum[i][0] + sum[i][1]) + (sum[i][2] + sum[i][3]);
    return total;
#endif
}

/* exp for x <= 88, to 2 units in the last place; plain arithmetic, so that loops vectorise. */
static INLINE float exp_small(float x) {
    x = x < -87.0f ? -87.0f : x;
    float n = rintf(x * 1.44269504f);
    float r = fmaf(n, -0.693145752f, x);
    r = fmaf(n, -1.42860677e-6f, r);
    float p = 1.98756915e-4f;
    p = fmaf(p, r, 1.39819995e-3f);
    p = fmaf(p, r, 8.33345187e-3f);
    p = fmaf(p, r, 4.16657962e-2f);
    p = fmaf(p, r, 1.66666657e-1f);
    p = fmaf(p, r, 0.5f);
    p = fmaf(p * r, r, r + 1.0f);
    union { int32_t i; float f; } power;
    power.i = ((int32_t)n + 127) << 23;
    return p * power.f;
}

static INLINE float sigmoid(float x) {
    return 1.0f / (1.0f + exp_small(x < -80.0f ? 80.0f : (x > 80.0f ? -80.0f : -x)));
}
