/* Causal attention over whole sequences, forward and backward, for training.
 *
 * q (rows, tokens, heads, width), k and v (rows, tokens, KV heads, width), dense but for the stride
 * of a token. Scores exist for QUERIES positions at a time and are computed again in the backward
 * pass (Dao et al., arXiv:2205.14135). Nothing above the diagonal is computed but the rest of a
 * block. `width` is a multiple of 16. */

enum { QUERIES = 32, TILE_ROWS = 6, WIDE = LANES == 4 ? 4 : 2 };

typedef struct {
    const float *q, *k, *v, *grad;
    float *out, *total, *grad_q, *grad_k, *grad_v; /* total: log of a row's sum of exp(score) */
    int64_t tokens, heads, kv_heads, width, q_stride, k_stride, v_stride;
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

/* The same for any number of rows and columns; columns are a multiple of LANES. */
static void outer(const float *x, int64_t x_row, int64_t x_step, const float *w, int64_t w_step,
                  float *y, int64_t y_row, int64_t rows, int64_t steps, int64_t columns, int add) {
    for (int64_t c = 0; c < columns;) {
        int wide = columns - c >= WIDE * LANES ? WIDE : 1;
        for (int64_t r = 0; r < rows;) {
            const float *xr = x + r * x_row;
            float *at = y + r * y_row + c;
            /* Constants, so that each case is compiled with its sums in registers. */
            if (rows - r >= TILE_ROWS && wide == WIDE)
                outer_tile(xr, x_row, x_step, w + c, w_step, at, y_row, steps, add, TILE_ROWS, WIDE);
            else if (rows - r >= TILE_ROWS)
                outer_tile(xr, x_row, x_step, w + c, w_step, at, y_row, steps, add, TILE_ROWS, 1);
            else if (wide == WIDE)
                outer_tile(xr, x_row, x_step, w + c, w_step, at, y_row, steps, add, 1, WIDE);
            else
                outer_tile(xr, x_row, x_step, w + c, w_step, at, y_row, steps, add, 1, 1);
            r += rows - r >= TILE_ROWS ? TILE_ROWS : 1;
        }
        c += wide * LANES;
    }
}

/* (tokens, width) to (width, padded), 0 after the last token. */
static void transpose(const float *x, int64_t stride, int64_t tokens, int64_t width, float *y,
                      int64_t padded) {
    for (int64_t d = 0; d < width; d++) {
        for (int64_t t = 0; t < tokens; t++) y[d * padded + t] = x[t * stride + d];
        for (int64_t t = tokens; t < padded; t++) y[d * padded + t] = 0.0f;
    }
}

static int64_t whole(int64_t tokens) { return (tokens + 31) / 32 * 32; }

static void causal_forward_task(void *context, int64_t index) {
    const causal *a = context;
    int64_t width = a->width, tokens = a->tokens, padded = whole(tokens);
    int64_t row = index / a->kv_heads, kv = index % a->kv_heads, group = a->heads / a->kv_heads;
    const float *k = a->k + row * tokens * a->k_stride + kv * width;
    const float *v = a->v + row * tokens * a->v_stride + kv * width;
    float *keys = malloc((width + QUERIES) * padded * sizeof(float)), *p = keys + width * padded;
    float scale = 1.0f / sqrtf((float)width);
    transpose(k, a->k_stride, tokens, width, keys, padded);
    for (int64_t h = kv * group; h < (kv + 1) * group; h++)
        for (int64_t first = 0; first < tokens; first += QUERIES) {
            int64_t end = first + QUERIES < tokens ? first + QUERIES : tokens, seen = whole(end);
            const float *q = a->q + (row * tokens + first) * a->q_stride + h * width;
            float *out = a->out + ((row * tokens + first) * a->heads + h) * width;
            outer(q, a->q_stride, 1, keys, padded, p, padded, end - first, width, seen, 0);
            for (int64_t t = first; t < end; t++) {
                float *weight = p + (t - first) * padded, peak = -INFINITY, sum = 0.0f;
#pragma omp simd reduction(max : peak)
                for (int64_t s = 0; s <= t; s++) peak = weight[s] > peak ? weight[s] : peak;
#pragma omp simd reduction(+ : sum)
                for (int64_t s = 0; s <= t; s++)
                    sum += weight[s] = exp_small(scale * (weight[s] - peak));
                float share = 1.0f / sum;
#pragma omp simd
                for (int64_t s = 0; s <= t; s++) weight[s] *= share;
                for (int64_t s = t + 1; s < end; s++) weight[s] = 0.0f;
                a->total[(row * tokens + t) * a->heads + h] = scale * peak + logf(sum);
            }
            outer(p, padded, 1, v, a->v_stride, out, a->heads * width, end - first, end, width, 0);
        }
    free(keys);
}

static void causal_backward_task(void *context, int64_t index) {
    const causal *a = context;
    int64_t width = a->width, tokens = a->tokens, padded = whole(tokens);
    int64_t row = index / a->kv_heads, kv = index % a->kv_heads, group = a->heads / a->kv_heads;
    const float *k = a->k + row * tokens * a->k_stride + kv * width;
    const float *v = a->v + row * tokens * a->v_stride + kv * width;
    float *keys = malloc(2 * (width + QUERIES) * padded * sizeof(float));
    float *values = keys + width * padded, *p = values + width * padded, *dp = p + QUERIES * padded;
    float scale = 1.0f / sqrtf((float)width);
    int64_t q_token = a->heads * width, kv_token = a->kv_heads * width;
    float *grad_k = a->grad_k + row * tokens * kv_token + kv * width;
    float *grad_v = a->grad_v + row * tokens * kv_token + kv * width;
    for (int64_t t = 0; t < tokens; t++) {
        memset(grad_k + t * kv_token, 0, width * sizeof(float));
        memset(grad_v + t * kv_token, 0, width * sizeof(float));
    }
    transpose(k, a->k_stride, tokens, width, keys, padded);
    transpose(v, a->v_stride, tokens, width, values, padded);
    for (int64_t h = kv * group; h < (kv + 1) * group; h++)
        for (int64_t first = 0; first < tokens; first += QUERIES) {
            int64_t end = first + QUERIES < tokens ? first + QUERIES : tokens, seen = whole(end);
            int64_t rows = end - first, dense = ((row * tokens + first) * a->heads + h) * width;
            const float *q = a->q + (row * tokens + first) * a->q_stride + h * width;
            const float *grad = a->grad + dense, *out = a->out + dense;
            outer(q, a->q_stride, 1, keys, padded, p, padded, rows, width, seen, 0);
            outer(grad, q_token, 1, values, padded, dp, padded, rows, width, seen, 0);
            for (int64_t t = first; t < end; t++) {
                float *weight = p + (t - first) * padded, *d = dp + (t - first) * padded;
                const float *g = grad + (t - first) * q_token, *o = out + (t - first) * q_token;
                float total = a->total[(row * tokens + t) * a->heads + h], delta = 0.0f;
#pragma omp simd reduction(+ : delta)
                for (int64_t i = 0; i < width; i++) delta += g[i] * o[i];
#pragma omp simd
                for (int64_t s = 0; s <= t; s++) {
                    weight[s] = exp_small(scale * weight[s] - total);
                    d[s] = scale * weight[s] * (d[s] - delta);
                }
                for (int64_t s = t + 1; s < end; s++) weight[s] = d[s] = 0.0f;
            }
            outer(dp, padded, 1, k, a->k_stride, a->grad_q + dense, q_token, rows, end, width, 0);
            outer(dp, 1, padded, q, a->q_stride, grad_k, kv_token, end, rows, width, 1);
            outer(p, 1, padded, grad, q_token, grad_v, kv_token, end, rows, width, 1);
        }
    free(keys);
}

EXPORT void causal_forward(const float *q, const float *k, const float *v, float *out,
                           float *total, int64_t rows, int64_t tokens, int64_t heads,
                           int64_t kv_heads, int64_t width, int64_t q_stride, int64_t k_stride,
                           int64_t v_stride, int64_t threads) {
    causal a = {.q = q, .k = k, .v = v, .out = out, .total = total, .tokens = tokens,
                .heads = heads, .kv_heads = kv_heads, .width = width, .q_stride = q_stride,
                .k_stride = k_stride, .v_stride = v_stride};
    parallel_for(causal_forward_task, &a, rows * kv_heads, threads);
}

EXPORT void causal_backward(const float *q, const float *k, const float *v, const float *grad,
                            float *out, float *total, float *grad_q, float *grad_k, float *grad_v,
                            int64_t rows, int64_t tokens, int64_t heads, int64_t kv_heads,
                            int64_t width, int64_t q_stride, int64_t k_stride, int64_t v_stride,
                            int64_t threads) {
    causal a = {.q = q, .k = k, .v = v, .grad = grad, .out = out, .total = total,
                .grad_q = grad_q, .grad_k = grad_k, .grad_v = grad_v, .tokens = tokens,
                .heads = heads, .kv_heads = kv_heads, .width = width, .q_stride = q_stride,
                .k_stride = k_stride, .v_stride = v_stride};
    parallel_for(causal_backward_task, &a, rows * kv_heads, threads);
}
