/* Small float32 operations of a Llama-like block on a CPU, each one pass over memory.
 *
 * PyTorch's operations are as fast one by one; a block of a small model has forty of them, and
 * what lies between two large products costs more than the products. Compiled on first use with
 * the machine's C compiler (see build.py); every function has a PyTorch twin that serves where
 * there is none, and tests compare the two.
 *
 * Matrices are row-major. `stride` counts floats from one row to the next.
 */

#include <math.h>
#include <stdint.h>
#include <string.h>

/* Below this many floats a second thread costs more than it saves. */
#define PARALLEL 8192
#define BLOCK 64

/* exp for x <= 88, to 2 units in the last place; plain arithmetic, so that loops vectorise. */
static inline float exp_small(float x) {
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

static inline float sigmoid(float x) {
    return 1.0f / (1.0f + exp_small(x < -80.0f ? 80.0f : (x > 80.0f ? -80.0f : -x)));
}

/* y = x * inverse * weight, inverse = 1 / sqrt(mean(x^2) + eps). */
void rms_norm(const float *x, const float *weight, float *y, float *inverse,
              int64_t rows, int64_t width, float eps) {
#pragma omp parallel for schedule(static) if (rows * width > PARALLEL)
    for (int64_t r = 0; r < rows; r++) {
        const float *xr = x + r * width;
        float *yr = y + r * width;
        float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (int64_t c = 0; c < width; c++) sum += xr[c] * xr[c];
        float scale = 1.0f / sqrtf(sum / width + eps);
        inverse[r] = scale;
#pragma omp simd
        for (int64_t c = 0; c < width; c++) yr[c] = xr[c] * scale * weight[c];
    }
}

/* Gradients of rms_norm; grad_weight_parts (parts, width) are sums over slices of the rows, so
 * that the result does not depend on the number of threads. */
void rms_norm_backward(const float *grad, const float *x, const float *weight,
                       const float *inverse, float *grad_x, float *grad_weight_parts,
                       int64_t rows, int64_t width, int64_t parts) {
    int64_t slice = (rows + parts - 1) / parts;
#pragma omp parallel for schedule(static) if (rows * width > PARALLEL)
    for (int64_t part = 0; part < parts; part++) {
        float *gw = grad_weight_parts + part * width;
        memset(gw, 0, width * sizeof(float));
        int64_t end = (part + 1) * slice < rows ? (part + 1) * slice : rows;
        for (int64_t r = part * slice; r < end; r++) {
            const float *g = grad + r * width, *xr = x + r * width;
            float *gx = grad_x + r * width;
            float scale = inverse[r], dot = 0.0f;
#pragma omp simd reduction(+ : dot)
            for (int64_t c = 0; c < width; c++) {
                float unit = xr[c] * scale;
                dot += g[c] * weight[c] * unit;
                gw[c] += g[c] * unit;
            }
            float mean = dot / width;
#pragma omp simd
            for (int64_t c = 0; c < width; c++)
                gx[c] = (g[c] * weight[c] - xr[c] * scale * mean) * scale;
        }
    }
}

/* Rotary embedding of `heads` vectors a row; sin is signed (first half negated), and `back`
 * applies the inverse rotation, which is the gradient. y is dense. */
void rotate(const float *x, const float *cos, const float *sin, float *y, int64_t rows,
            int64_t heads, int64_t width, int64_t stride, int64_t back) {
    int64_t half = width / 2;
    float sign = back ? -1.0f : 1.0f;
#pragma omp parallel for schedule(static) if (rows * heads * width > PARALLEL)
    for (int64_t r = 0; r < rows; r++) {
        const float *c = cos + r * width, *s = sin + r * width;
        for (int64_t h = 0; h < heads; h++) {
            const float *xh = x + r * stride + h * width;
            float *yh = y + (r * heads + h) * width;
#pragma omp simd
            for (int64_t i = 0; i < half; i++) {
                float a = xh[i], b = xh[i + half];
                yh[i] = a * c[i] + b * sign * s[i];
                yh[i + half] = b * c[i + half] + a * sign * s[i + half];
            }
        }
    }
}

/* y = silu(gate) * up; x holds gate, then up, in each row. */
void swiglu(const float *x, float *y, int64_t rows, int64_t width) {
#pragma omp parallel for schedule(static) if (rows * width > PARALLEL)
    for (int64_t r = 0; r < rows; r++) {
        const float *gate = x + r * 2 * width, *up = gate + width;
        float *yr = y + r * width;
#pragma omp simd
        for (int64_t c = 0; c < width; c++) yr[c] = gate[c] * sigmoid(gate[c]) * up[c];
    }
}

void swiglu_backward(const float *grad, const float *x, float *grad_x, int64_t rows,
                     int64_t width) {
#pragma omp parallel for schedule(static) if (rows * width > PARALLEL)
    for (int64_t r = 0; r < rows; r++) {
        const float *g = grad + r * width, *gate = x + r * 2 * width, *up = gate + width;
        float *grad_gate = grad_x + r * 2 * width, *grad_up = grad_gate + width;
#pragma omp simd
        for (int64_t c = 0; c < width; c++) {
            float share = sigmoid(gate[c]);
            grad_up[c] = g[c] * gate[c] * share;
            grad_gate[c] = g[c] * up[c] * share * (1.0f + gate[c] * (1.0f - share));
        }
    }
}

/* A block of the cache holds BLOCK positions of one row: per layer the keys (KV heads, width,
 * BLOCK), positions last so that scores are computed side by side, then the values (KV heads,
 * BLOCK, width). `tables` (rows, table_width) holds the addresses of each row's blocks. */
static inline float *layer_of(int64_t address, int64_t layer, int64_t kv_heads, int64_t width) {
    return (float *)address + layer * 2 * kv_heads * width * BLOCK;
}

static inline void store(float *block, const float *key, const float *value, int64_t kv_heads,
                         int64_t head, int64_t width, int64_t place) {
    float *keys = block + head * width * BLOCK;
    float *values = block + (kv_heads + head) * width * BLOCK + place * width;
    for (int64_t d = 0; d < width; d++) keys[d * BLOCK + place] = key[d];
    memcpy(values, value, width * sizeof(float));
}

/* Keys and values of `tokens` positions of each row (rows, tokens, KV heads, width), the first
 * `skip` of them padding, into the row's blocks from position 0. */
void store_prompt(const float *key, const float *value, const int64_t *tables,
                  const int64_t *skip, int64_t rows, int64_t tokens, int64_t table_width,
                  int64_t layer, int64_t kv_heads, int64_t width) {
#pragma omp parallel for schedule(dynamic)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t t = skip[r]; t < tokens; t++) {
            int64_t place = t - skip[r];
            float *block = layer_of(tables[r * table_width + place / BLOCK], layer, kv_heads, width);
            for (int64_t h = 0; h < kv_heads; h++) {
                int64_t from = ((r * tokens + t) * kv_heads + h) * width;
                store(block, key + from, value + from, kv_heads, h, width, place % BLOCK);
            }
        }
}

/* Sixteen floats side by side; the compiler splits them where the processor has narrower ones. */
typedef float lanes __attribute__((vector_size(64)));
#define TILE 4 /* lanes in a block's row of scores: BLOCK floats */
#define INLINE inline __attribute__((always_inline))

/* scores[t] = query . key[t] for the positions of one block, for `pair` (1 or 2) queries; the
 * keys at `next`, which will be wanted soon, are fetched meanwhile. */
static INLINE void block_scores(const float *const *query, const float *keys, const float *next,
                                int64_t width, float (*scores)[BLOCK], int pair) {
    lanes sum[2][TILE] = {{{0}}};
    for (int64_t d = 0; d < width; d++) {
        const lanes *row = (const lanes *)(keys + d * BLOCK);
        for (int i = 0; i < TILE; i++) {
            __builtin_prefetch(next + d * BLOCK + 16 * i);
            for (int q = 0; q < pair; q++) sum[q][i] += query[q][d] * row[i];
        }
    }
    for (int q = 0; q < pair; q++) memcpy(scores[q], sum[q], sizeof sum[q]);
}

/* out[d] = out[d] * fade + sum over t of weight[t] value[t][d], 16 * tile values of d at a time. */
static INLINE void block_values(float *const *out, float (*weight)[BLOCK], const float *fade,
                                const float *values, const float *next, int64_t width,
                                int64_t count, int pair, int tile) {
    for (int64_t d = 0; d < width; d += 16 * tile) {
        /* Even and odd positions apart: a sum waits for the one before it. */
        lanes even[2][2] = {{{0}}}, odd[2][2] = {{{0}}};
        for (int q = 0; q < pair; q++)
            for (int i = 0; i < tile; i++) {
                memcpy(&even[q][i], out[q] + d + 16 * i, sizeof(lanes));
                even[q][i] *= fade[q];
            }
        int64_t t = 0;
        for (; t + 1 < count; t += 2)
            for (int i = 0; i < tile; i++) {
                const float *at = values + t * width + d + 16 * i;
                __builtin_prefetch(next + t * width + d + 16 * i);
                __builtin_prefetch(next + (t + 1) * width + d + 16 * i);
                lanes one, two;
                memcpy(&one, at, sizeof one);
                memcpy(&two, at + width, sizeof two);
                for (int q = 0; q < pair; q++) {
                    even[q][i] += weight[q][t] * one;
                    odd[q][i] += weight[q][t + 1] * two;
                }
            }
        for (int i = 0; i < tile; i++) {
            lanes last = {0};
            if (t < count) memcpy(&last, values + t * width + d + 16 * i, sizeof last);
            for (int q = 0; q < pair; q++) {
                even[q][i] += weight[q][t < count ? t : 0] * last + odd[q][i];
                memcpy(out[q] + d + 16 * i, &even[q][i], sizeof(lanes));
            }
        }
    }
}

/* Scores to weights of one block, with the running maximum and total of the softmax. */
static INLINE float block_softmax(float *weight, int64_t count, float scale, float *highest,
                                  float *total) {
    float peak = *highest, sum = 0.0f;
    for (int64_t t = count; t < BLOCK; t++) weight[t] = -INFINITY;
#pragma omp simd reduction(max : peak)
    for (int64_t t = 0; t < BLOCK; t++) {
        weight[t] *= scale;
        peak = weight[t] > peak ? weight[t] : peak;
    }
    float fade = *total == 0.0f ? 0.0f : exp_small(*highest - peak);
#pragma omp simd reduction(+ : sum)
    for (int64_t t = 0; t < BLOCK; t++) {
        weight[t] = exp_small(weight[t] - peak);
        sum += weight[t];
    }
    *total = *total * fade + sum;
    *highest = peak;
    return fade;
}

/* One or two query heads over the blocks of one row and key head; `after` is the block that is
 * read after these. */
static INLINE void attend_heads(const float *const *query, float *const *out, const int64_t *table,
                                int64_t count, int64_t after, int64_t layer, int64_t head,
                                int64_t kv_heads, int64_t width, int pair, int tile) {
    float highest[2] = {-INFINITY, -INFINITY}, total[2] = {0.0f, 0.0f}, fade[2];
    float scale = 1.0f / sqrtf((float)width);
    _Alignas(64) float scores[2][BLOCK];
    int64_t values = kv_heads * width * BLOCK;
    for (int q = 0; q < pair; q++) memset(out[q], 0, width * sizeof(float));
    for (int64_t start = 0; start < count; start += BLOCK) {
        const float *here = layer_of(table[start / BLOCK], layer, kv_heads, width);
        const float *next = here; /* fetching what is there already costs nothing */
        if (start + BLOCK < count)
            next = layer_of(table[start / BLOCK + 1], layer, kv_heads, width);
        else if (after)
            next = layer_of(after, layer, kv_heads, width);
        here += head * width * BLOCK;
        next += head * width * BLOCK;
        int64_t positions = count - start < BLOCK ? count - start : BLOCK;
        block_scores(query, here, next, width, scores, pair);
        for (int q = 0; q < pair; q++)
            fade[q] = block_softmax(scores[q], positions, scale, &highest[q], &total[q]);
        block_values(out, scores, fade, here + values, next + values, width, positions, pair, tile);
    }
    for (int q = 0; q < pair; q++)
        for (int64_t d = 0; d < width; d++) out[q][d] /= total[q];
}

/* Attention of one new position a row over its cache, whose length before it is lengths[r]; the
 * new key and value are stored first. Softmax block by block with a running maximum.
 * query (rows, heads, width), attended the same; width is a multiple of 16. */
void attend(const float *query, const float *key, const float *value, float *attended,
            const int64_t *tables, const int64_t *lengths, int64_t rows, int64_t table_width,
            int64_t layer, int64_t heads, int64_t kv_heads, int64_t width,
            int64_t query_stride, int64_t key_stride, int64_t value_stride) {
    int64_t group = heads / kv_heads;
    /* Head by head, so that the next row's same head is what comes after. */
#pragma omp parallel for schedule(static) collapse(2)
    for (int64_t h = 0; h < kv_heads; h++)
        for (int64_t r = 0; r < rows; r++) {
            const int64_t *table = tables + r * table_width;
            int64_t place = lengths[r], after = r + 1 < rows ? table[table_width] : 0;
            store(layer_of(table[place / BLOCK], layer, kv_heads, width),
                  key + r * key_stride + h * width, value + r * value_stride + h * width,
                  kv_heads, h, width, place % BLOCK);
            for (int64_t g = 0; g < group; g += 2) {
                const float *q = query + r * query_stride + (h * group + g) * width;
                float *out = attended + (r * heads + h * group + g) * width;
                const float *const queries[2] = {q, q + width};
                float *const outs[2] = {out, out + width};
                /* Constants, so that each case is compiled with its sums in registers. */
                if (g + 1 == group)
                    attend_heads(queries, outs, table, place + 1, after, layer, h, kv_heads, width,
                                 1, 1);
                else if (width % 32)
                    attend_heads(queries, outs, table, place + 1, after, layer, h, kv_heads, width,
                                 2, 1);
                else
                    attend_heads(queries, outs, table, place + 1, after, layer, h, kv_heads, width,
                                 2, 2);
            }
        }
}

/* y (rows, outputs) = x (rows, inputs) W^T + bias for few rows and a weight far larger than the
 * caches (outputs, inputs): every weight is read once, as fast as memory gives it. */
#define NARROW 4
static INLINE void narrow_outputs(const float *x, const float *w, const float *bias, float *y,
                                  int64_t rows, int64_t inputs, int64_t outputs, int count) {
    for (int64_t r = 0; r < rows; r++) {
        lanes sum[NARROW] = {{0}};
        const float *xr = x + r * inputs;
        int64_t k = 0;
        for (; k + 16 <= inputs; k += 16) {
            lanes value;
            memcpy(&value, xr + k, sizeof value);
            for (int o = 0; o < count; o++) {
                lanes weight;
                memcpy(&weight, w + o * inputs + k, sizeof weight);
                sum[o] += value * weight;
            }
        }
        for (int o = 0; o < count; o++) {
            float total = bias ? bias[o] : 0.0f;
            for (int i = 0; i < 16; i++) total += sum[o][i];
            for (int64_t rest = k; rest < inputs; rest++) total += xr[rest] * w[o * inputs + rest];
            y[r * outputs + o] = total;
        }
    }
}

void narrow_product(const float *x, const float *weight, const float *bias, float *y, int64_t rows,
                    int64_t inputs, int64_t outputs) {
#pragma omp parallel for schedule(static)
    for (int64_t o = 0; o < outputs; o += NARROW) {
        const float *w = weight + o * inputs, *b = bias ? bias + o : 0;
        if (o + NARROW <= outputs)
            narrow_outputs(x, w, b, y + o, rows, inputs, outputs, NARROW);
        else
            for (int64_t one = o; one < outputs; one++)
                narrow_outputs(x, weight + one * inputs, bias ? bias + one : 0, y + one, rows,
                               inputs, outputs, 1);
    }
}
