/* Small operations of a Llama-like block for training, each one pass over memory.
 *
 * Matrices are row-major. Every function has a PyTorch twin (aha.model.ops), and tests compare
 * the two. `threads` counts the threads that may work. */

/* A thread takes this many floats at least. */
#define LEAST_SHARE 8192

typedef struct {
    const float *grad, *x, *weight, *cos, *sin;
    float *y, *inverse, *grad_weight;
    int64_t rows, width, heads, stride, share;
    float eps, sign;
} rowwise;

static void over_rows(void (*of_rows)(const rowwise *, int64_t, int64_t), const rowwise *job,
                      int64_t floats_per_row, int64_t threads);

static void norm_rows(const rowwise *j, int64_t first, int64_t end) {
    for (int64_t r = first; r < end; r++) {
        const float *x = j->x + r * j->width;
        float *y = j->y + r * j->width, sum = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (int64_t c = 0; c < j->width; c++) sum += x[c] * x[c];
        float scale = 1.0f / sqrtf(sum / j->width + j->eps);
        j->inverse[r] = scale;
#pragma omp simd
        for (int64_t c = 0; c < j->width; c++) y[c] = x[c] * scale * j->weight[c];
    }
}

/* y = x * inverse * weight, inverse = 1 / sqrt(mean(x^2) + eps). */
EXPORT void rms_norm(const float *x, const float *weight, float *y, float *inverse, int64_t rows,
              int64_t width, float eps, int64_t threads) {
    rowwise job = {.x = x, .weight = weight, .y = y, .inverse = inverse, .width = width,
                   .rows = rows, .eps = eps};
    over_rows(norm_rows, &job, width, threads);
}

static void norm_backward_part(void *context, int64_t part) {
    const rowwise *j = context;
    float *gw = j->grad_weight + part * j->width;
    memset(gw, 0, j->width * sizeof(float));
    int64_t end = (part + 1) * j->share < j->rows ? (part + 1) * j->share : j->rows;
    for (int64_t r = part * j->share; r < end; r++) {
        const float *g = j->grad + r * j->width, *x = j->x + r * j->width;
        float *gx = j->y + r * j->width, scale = j->inverse[r], dot = 0.0f;
#pragma omp simd reduction(+ : dot)
        for (int64_t c = 0; c < j->width; c++) {
            float unit = x[c] * scale;
            dot += g[c] * j->weight[c] * unit;
            gw[c] += g[c] * unit;
        }
        float mean = dot / j->width;
#pragma omp simd
        for (int64_t c = 0; c < j->width; c++)
            gx[c] = (g[c] * j->weight[c] - x[c] * scale * mean) * scale;
    }
}

/* Gradients of rms_norm; grad_weight_parts (parts, width) are sums over slices of the rows, so
 * that the result does not depend on the number of threads. */
EXPORT void rms_norm_backward(const float *grad, const float *x, const float *weight, float *inverse,
                       float *grad_x, float *grad_weight_parts, int64_t rows, int64_t width,
                       int64_t parts, int64_t threads) {
    rowwise job = {.grad = grad, .x = x, .weight = weight, .y = grad_x, .inverse = inverse,
                   .grad_weight = grad_weight_parts, .rows = rows, .width = width,
                   .share = (rows + parts - 1) / parts};
    if (rows * width < 2 * LEAST_SHARE) threads = 1;
    parallel_for(norm_backward_part, &job, parts, threads);
}

static INLINE void rotate_head(const float *x, const float *cos, const float *sin, float *y,
                               int64_t width, float sign) {
    int64_t half = width / 2;
#pragma omp simd
    for (int64_t i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        y[i] = a * cos[i] + b * sign * sin[i];
        y[i + half] = b * cos[i + half] + a * sign * sin[i + half];
    }
}

static void rotate_rows(const rowwise *j, int64_t first, int64_t end) {
    for (int64_t r = first; r < end; r++)
        for (int64_t h = 0; h < j->heads; h++)
            rotate_head(j->x + r * j->stride + h * j->width, j->cos + r * j->width,
                        j->sin + r * j->width, j->y + (r * j->heads + h) * j->width, j->width,
                        j->sign);
}

/* Rotary embedding of `heads` vectors a row, `stride` floats from row to row; sin is signed (first
 * half negated), and `back` applies the inverse rotation, which is the gradient. y is dense. */
EXPORT void rotate(const float *x, const float *cos, const float *sin, float *y, int64_t rows,
            int64_t heads, int64_t width, int64_t stride, int64_t back, int64_t threads) {
    rowwise job = {.x = x, .cos = cos, .sin = sin, .y = y, .rows = rows, .heads = heads,
                   .width = width, .stride = stride, .sign = back ? -1.0f : 1.0f};
    over_rows(rotate_rows, &job, heads * width, threads);
}

static INLINE void gated_row(const float *gate, const float *up, float *y, int64_t width) {
#pragma omp simd
    for (int64_t c = 0; c < width; c++) y[c] = gate[c] * sigmoid(gate[c]) * up[c];
}

static void swiglu_rows(const rowwise *j, int64_t first, int64_t end) {
    for (int64_t r = first; r < end; r++) {
        const float *gate = j->x + r * 2 * j->width;
        gated_row(gate, gate + j->width, j->y + r * j->width, j->width);
    }
}

/* y = silu(gate) * up; x holds gate, then up, in each row. */
EXPORT void swiglu(const float *x, float *y, int64_t rows, int64_t width, int64_t threads) {
    rowwise job = {.x = x, .y = y, .rows = rows, .width = width};
    over_rows(swiglu_rows, &job, 2 * width, threads);
}

static void swiglu_backward_rows(const rowwise *j, int64_t first, int64_t end) {
    for (int64_t r = first; r < end; r++) {
        const float *g = j->grad + r * j->width;
        const float *gate = j->x + r * 2 * j->width, *up = gate + j->width;
        float *grad_gate = j->y + r * 2 * j->width, *grad_up = grad_gate + j->width;
#pragma omp simd
        for (int64_t c = 0; c < j->width; c++) {
            float share = sigmoid(gate[c]);
            grad_up[c] = g[c] * gate[c] * share;
            grad_gate[c] = g[c] * up[c] * share * (1.0f + gate[c] * (1.0f - share));
        }
    }
}

EXPORT void swiglu_backward(const float *grad, const float *x, float *grad_x, int64_t rows,
                     int64_t width, int64_t threads) {
    rowwise job = {.grad = grad, .x = x, .y = grad_x, .rows = rows, .width = width};
    over_rows(swiglu_backward_rows, &job, 2 * width, threads);
}

typedef struct {
    void (*of_rows)(const rowwise *, int64_t, int64_t);
    const rowwise *job;
    int64_t share;
} sharing;

static void share_task(void *context, int64_t index) {
    const sharing *s = context;
    int64_t first = index * s->share, end = first + s->share;
    s->of_rows(s->job, first, end < s->job->rows ? end : s->job->rows);
}

static void over_rows(void (*of_rows)(const rowwise *, int64_t, int64_t), const rowwise *job,
                      int64_t floats_per_row, int64_t threads) {
    sharing s = {of_rows, job, LEAST_SHARE / floats_per_row + 1};
    parallel_for(share_task, &s, (job->rows + s.share - 1) / s.share, threads);
}
