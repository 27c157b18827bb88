/* Causal attention over whole sequences, forward and backward, for training.
 *
 * Rows may share the tokens with which they begin: q (tokens, heads, width), k and v (tokens, KV
 * heads, width) hold each token once, dense but for the stride of a token. `place` (rows, places)
 * names the token at each place of a row. `own` (rows, 2): the first place whose token is the
 * row's own, and the row's length. Own tokens lie one after the other; those before belong to an
 * earlier row. Only own tokens are queries, and nothing is computed for padding.
 *
 * Scores exist for QUERIES positions at a time and are computed again in the backward pass (Dao et
 * al., arXiv:2205.14135). Nothing above the diagonal is computed but the rest of a block. `width`
 * is a multiple of 16. */

enum { QUERIES = 24, TILE_ROWS = 6, WIDE = LANES == 4 ? 4 : 2 };

typedef struct {
    const float *q, *k, *v, *grad;
    const int64_t *place, *own;
    float *out, *total, *grad_q, *grad_k, *grad_v; /* total: log of a query's sum of exp(score) */
    float *parts; /* gradients of k and of v for each row: (rows, KV heads, 2, places, width) */
    int64_t rows, places, heads, kv_heads, width, q_stride, k_stride, v_stride;
} causal;

/* y[r][c] = (add ? y[r][c] : 0) + sum over k of x[r * x_row + k * x_step] w[k * w_step + c]. */
static INLINE void outer_tile(const float *x, int64_t x_row, int64_t x_step, const float *w,
                              int64_t w_step, float *y, int64_t y_row, int64_t steps, int add,
                              int rows, int wide) {
    lanes sum[TILE_ROWS][WIDE] = {{{0}}};
    for (int64_t k = 0; k < steps; k++)
        for (int r = 0; r < rows; r++)
            for (int i = 0; i < wide; i++)
                sum[r][i] += x[r * x_row + k * x_step] * load(w + k * w_step + i * LANES);
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < wide; i++) {
            float *at = y + r * y_row + i * LANES;
            put(at, add ? load(at) + sum[r][i] : sum[r][i]);
        }
}

#define OUTER(rows, wide) \
    outer_tile(xr, x_row, x_step, w + c, w_step, at, y_row, steps, add, rows, wide)
#define OUTER_ROWS(wide)                           \
    /* Constants, so that each case is compiled with its sums in registers. */ \
    switch (count) {                               \
    case 6: OUTER(6, wide); break;                 \
    case 5: OUTER(5, wide); break;                 \
    case 4: OUTER(4, wide); break;                 \
    case 3: OUTER(3, wide); break;                 \
    case 2: OUTER(2, wide); break;                 \
    default: OUTER(1, wide);                       \
    }

/* The same for any number of rows and columns; columns are a multiple of LANES. */
static void outer(const float *x, int64_t x_row, int64_t x_step, const float *w, int64_t w_step,
                  float *y, int64_t y_row, int64_t rows, int64_t steps, int64_t columns, int add) {
    for (int64_t c = 0, wide; c < columns; c += wide * LANES) {
        wide = columns - c >= WIDE * LANES ? WIDE : 1;
        for (int64_t r = 0, count; r < rows; r += count) {
            const float *xr = x + r * x_row;
            float *at = y + r * y_row + c;
            count = rows - r < TILE_ROWS ? rows - r : TILE_ROWS;
            if (wide == WIDE) {
                OUTER_ROWS(WIDE)
            } else {
                OUTER_ROWS(1)
            }
        }
    }
}

/* Places up to `count`, in whole steps of 16 floats. */
static int64_t whole(int64_t count) { return (count + 15) / 16 * 16; }

/* A row's keys and values of one head, copied side by side; `down` is (width, stride). */
static void gather(const float *x, int64_t stride, const int64_t *place, int64_t length,
                   int64_t width, float *down, int64_t padded, float *across) {
    for (int64_t t = 0; t < length; t++) {
        const float *from = x + place[t] * stride;
        if (across) memcpy(across + t * width, from, width * sizeof(float));
        if (down)
            for (int64_t d = 0; d < width; d++) down[d * padded + t] = from[d];
    }
    if (down)
        for (int64_t d = 0; d < width; d++)
            for (int64_t t = length; t < padded; t++) down[d * padded + t] = 0.0f;
}

/* The floats of an allocation, from an address that whole cache lines begin at. */
static float *aligned(void *memory) { return (float *)(((uintptr_t)memory + 63) / 64 * 64); }

static void causal_forward_task(void *context, int64_t index) {
    const causal *a = context;
    int64_t row = index / a->kv_heads, kv = index % a->kv_heads, group = a->heads / a->kv_heads;
    const int64_t *place = a->place + row * a->places;
    int64_t own = a->own[2 * row], length = a->own[2 * row + 1], width = a->width;
    if (own == length) return;
    /* Not a power of two, which would put a column into few lines of the cache. */
    int64_t padded = (whole(length) / 32 * 2 + 1) * 16;
    void *memory = malloc(((width + QUERIES) * padded + width * length) * sizeof(float) + 64);
    float *keys = aligned(memory), *p = keys + width * padded, *values = p + QUERIES * padded;
    float scale = 1.0f / sqrtf((float)width);
    gather(a->k + kv * width, a->k_stride, place, length, width, keys, padded, 0);
    gather(a->v + kv * width, a->v_stride, place, length, width, 0, 0, values);
    for (int64_t h = kv * group; h < (kv + 1) * group; h++)
        for (int64_t first = own; first < length; first += QUERIES) {
            int64_t end = first + QUERIES < length ? first + QUERIES : length;
            int64_t token = place[own] + first - own;
            const float *q = a->q + token * a->q_stride + h * width;
            outer(q, a->q_stride, 1, keys, padded, p, padded, end - first, width, whole(end), 0);
            for (int64_t t = first; t < end; t++) {
                float *weight = p + (t - first) * padded, peak = -INFINITY, sum = 0.0f;
                int64_t steps = whole(t + 1); /* so that no loop has a remainder */
                for (int64_t s = t + 1; s < steps; s++) weight[s] = -INFINITY;
#pragma omp simd reduction(max : peak)
                for (int64_t s = 0; s < steps; s++) peak = weight[s] > peak ? weight[s] : peak;
#pragma omp simd reduction(+ : sum)
                for (int64_t s = 0; s < steps; s++)
                    sum += weight[s] = exp_small(scale * (weight[s] - peak));
                float share = 1.0f / sum;
#pragma omp simd
                for (int64_t s = 0; s < steps; s++) weight[s] *= share;
                for (int64_t s = t + 1; s < end; s++) weight[s] = 0.0f;
                a->total[(token + t - first) * a->heads + h] = scale * peak + logf(sum);
            }
            outer(p, padded, 1, values, width, a->out + (token * a->heads + h) * width,
                  a->heads * width, end - first, end, width, 0);
        }
    free(memory);
}

static void causal_backward_task(void *context, int64_t index) {
    const causal *a = context;
    int64_t row = index / a->kv_heads, kv = index % a->kv_heads, group = a->heads / a->kv_heads;
    const int64_t *place = a->place + row * a->places;
    int64_t own = a->own[2 * row], length = a->own[2 * row + 1], width = a->width;
    if (own == length) return;
    int64_t padded = (whole(length) / 32 * 2 + 1) * 16, q_token = a->heads * width;
    float *grad_k = a->parts + index * 2 * a->places * width, *grad_v = grad_k + a->places * width;
    void *memory = malloc((2 * (width + QUERIES) * padded + width * length) * sizeof(float) + 64);
    float *keys_down = aligned(memory), *values_down = keys_down + width * padded;
    float *p = values_down + width * padded, *dp = p + QUERIES * padded;
    float *keys = dp + QUERIES * padded, scale = 1.0f / sqrtf((float)width);
    gather(a->k + kv * width, a->k_stride, place, length, width, keys_down, padded, keys);
    gather(a->v + kv * width, a->v_stride, place, length, width, values_down, padded, 0);
    memset(grad_k, 0, length * width * sizeof(float));
    memset(grad_v, 0, length * width * sizeof(float));
    for (int64_t h = kv * group; h < (kv + 1) * group; h++)
        for (int64_t first = own; first < length; first += QUERIES) {
            int64_t end = first + QUERIES < length ? first + QUERIES : length;
            int64_t rows = end - first, token = place[own] + first - own;
            int64_t dense = (token * a->heads + h) * width;
            const float *q = a->q + token * a->q_stride + h * width;
            const float *grad = a->grad + dense, *out = a->out + dense;
            outer(q, a->q_stride, 1, keys_down, padded, p, padded, rows, width, whole(end), 0);
            outer(grad, q_token, 1, values_down, padded, dp, padded, rows, width, whole(end), 0);
            for (int64_t t = first; t < end; t++) {
                float *weight = p + (t - first) * padded, *d = dp + (t - first) * padded;
                const float *g = grad + (t - first) * q_token, *o = out + (t - first) * q_token;
                float total = a->total[(token + t - first) * a->heads + h], delta = 0.0f;
                int64_t steps = whole(t + 1);
                for (int64_t s = t + 1; s < steps; s++) weight[s] = -INFINITY;
#pragma omp simd reduction(+ : delta)
                for (int64_t i = 0; i < width; i++) delta += g[i] * o[i];
#pragma omp simd
                for (int64_t s = 0; s < steps; s++) {
                    weight[s] = exp_small(scale * weight[s] - total);
                    d[s] = scale * weight[s] * (d[s] - delta);
                }
                for (int64_t s = t + 1; s < end; s++) weight[s] = d[s] = 0.0f;
            }
            outer(dp, padded, 1, keys, width, a->grad_q + dense, q_token, rows, end, width, 0);
            outer(dp, 1, padded, q, a->q_stride, grad_k, width, end, rows, width, 1);
            outer(p, 1, padded, grad, q_token, grad_v, width, end, rows, width, 1);
        }
    free(memory);
}

/* One head's gradient of k or v: what each row found, in the order of the rows. */
static void causal_sum_task(void *context, int64_t index) {
    const causal *a = context;
    int64_t kv = index / 2, width = a->width;
    for (int64_t row = 0; row < a->rows; row++) {
        const int64_t *place = a->place + row * a->places;
        int64_t own = a->own[2 * row], length = a->own[2 * row + 1];
        const float *part = a->parts + ((row * a->kv_heads + kv) * 2 + index % 2) * a->places * width;
        for (int64_t t = 0; own < length && t < length; t++) {
            float *sum = (index % 2 ? a->grad_v : a->grad_k) + (place[t] * a->kv_heads + kv) * width;
            /* The row that a token belongs to comes first. */
            for (int64_t d = 0; d < width; d++)
                sum[d] = t < own ? sum[d] + part[t * width + d] : part[t * width + d];
        }
    }
}

EXPORT void causal_forward(const float *q, const float *k, const float *v, const int64_t *place,
                           const int64_t *own, float *out, float *total, int64_t rows,
                           int64_t places, int64_t heads, int64_t kv_heads, int64_t width,
                           int64_t q_stride, int64_t k_stride, int64_t v_stride, int64_t threads) {
    causal a = {.q = q, .k = k, .v = v, .place = place, .own = own, .out = out, .total = total,
                .rows = rows, .places = places, .heads = heads, .kv_heads = kv_heads,
                .width = width, .q_stride = q_stride, .k_stride = k_stride, .v_stride = v_stride};
    parallel_for(causal_forward_task, &a, rows * kv_heads, threads);
}

EXPORT void causal_backward(const float *q, const float *k, const float *v, const int64_t *place,
                            const int64_t *own, const float *grad, float *out, float *total,
                            float *grad_q, float *grad_k, float *grad_v, float *parts,
                            int64_t rows, int64_t places, int64_t heads, int64_t kv_heads,
                            int64_t width, int64_t q_stride, int64_t k_stride, int64_t v_stride,
                            int64_t threads) {
    causal a = {.q = q, .k = k, .v = v, .place = place, .own = own, .grad = grad, .out = out,
                .total = total, .grad_q = grad_q, .grad_k = grad_k, .grad_v = grad_v,
                .parts = parts, .rows = rows, .places = places, .heads = heads,
                .kv_heads = kv_heads, .width = width, .q_stride = q_stride, .k_stride = k_stride,
                .v_stride = v_stride};
    parallel_for(causal_backward_task, &a, rows * kv_heads, threads);
    parallel_for(causal_sum_task, &a, 2 * kv_heads, threads);
}
