/* y = x W^T + bias for the rows of a decoding step.
 *
 * Two kernels, both with as many sums in registers as the processor has room for:
 * - packed: W copied into panels of PANEL outputs (outputs / PANEL, inputs, PANEL). A panel's
 *   inputs lie side by side, so nothing is summed across a register. For small models.
 * - in place: W as PyTorch keeps it (outputs, inputs). Each sum runs along the inputs and is
 *   added up across its register at the end. For models whose copy would be large.
 *
 * Either way an output is summed in the same order whatever rows are beside it. */

enum { PANEL = PANEL_LANES * LANES, PANEL_ROWS = 6, DOT_OUTPUTS = 4 };
/* Outputs that a thread takes at a time: whole panels; few, so that all threads end together. */
enum { PACKED_TASK = 64, TASK_IN_PLACE = 32 };
#define LEAST_PRODUCT 100000     /* multiplications below which a second thread does not pay */

typedef struct {
    const float *x, *weight, *bias; /* bias may be 0 */
    float *y;
    int64_t rows, inputs, outputs, y_stride;
    int packed, add; /* add: to the values in y */
} product;

/* `count` (1 to PANEL_ROWS) rows and one panel. */
static INLINE void panel_tile(const float *x, int64_t inputs, const float *panel,
                              const float *bias, float *y, int64_t y_stride, int add, int count) {
    /* Summed from zero: y may be large, and every partial sum would be rounded to its size. */
    lanes sum[PANEL_ROWS][PANEL_LANES] = {{{0}}};
    for (int64_t k = 0; k < inputs; k++)
        for (int r = 0; r < count; r++)
            for (int i = 0; i < PANEL_LANES; i++)
                sum[r][i] += x[r * inputs + k] * load(panel + k * PANEL + i * LANES);
    for (int r = 0; r < count; r++)
        for (int i = 0; i < PANEL_LANES; i++) {
            float *at = y + r * y_stride + i * LANES;
            if (bias) sum[r][i] += load(bias + i * LANES);
            if (add) sum[r][i] += load(at);
            put(at, sum[r][i]);
        }
}

/* `count` (1 to DOT_ROWS) rows and DOT_OUTPUTS outputs, whose weights are `inputs` floats apart. */
static INLINE void dot_tile(const float *x, int64_t inputs, const float *weight, const float *bias,
                            float *y, int64_t y_stride, int add, int count,
                            const float *ahead, int64_t fetched) {
    lanes sum[DOT_ROWS][DOT_OUTPUTS] = {{{0}}};
    int64_t k = 0;
    for (; k + LANES <= inputs; k += LANES) {
        lanes value[DOT_ROWS];
        for (int64_t f = 0; f < fetched; f += 16) __builtin_prefetch(ahead + f);
        ahead += fetched;
        for (int r = 0; r < count; r++) value[r] = load(x + r * inputs + k);
        for (int o = 0; o < DOT_OUTPUTS; o++) {
            lanes w = load(weight + o * inputs + k);
            for (int r = 0; r < count; r++) sum[r][o] += value[r] * w;
        }
    }
    for (int r = 0; r < count; r++) {
        quad total = four_sums(sum[r][0], sum[r][1], sum[r][2], sum[r][3]);
        for (int64_t rest = k; rest < inputs; rest++)
            for (int o = 0; o < DOT_OUTPUTS; o++)
                total[o] += x[r * inputs + rest] * weight[o * inputs + rest];
        float *at = y + r * y_stride;
        if (bias) total += *(const quad_at *)bias;
        if (add) total += *(const quad_at *)at;
        *(quad_at *)at = total;
    }
}

/* One output of one row, for the last outputs of a weight whose number is no multiple of four. */
static INLINE void dot_one(const float *x, int64_t inputs, const float *weight, const float *bias,
                           float *y, int add) {
    lanes sum = {0};
    int64_t k = 0;
    for (; k + LANES <= inputs; k += LANES) sum += load(x + k) * load(weight + k);
    float total = four_sums(sum, sum, sum, sum)[0];
    for (; k < inputs; k++) total += x[k] * weight[k];
    if (bias) total += *bias;
    *y = add ? *y + total : total;
}

static void packed_outputs(const product *p, int64_t first, int64_t end) {
    for (int64_t o = first; o < end; o += PANEL) {
        const float *panel = p->weight + o * p->inputs, *bias = p->bias ? p->bias + o : 0;
        int64_t r = 0;
        for (; r + PANEL_ROWS <= p->rows; r += PANEL_ROWS)
            panel_tile(p->x + r * p->inputs, p->inputs, panel, bias,
                       p->y + r * p->y_stride + o, p->y_stride, p->add, PANEL_ROWS);
        const float *x = p->x + r * p->inputs;
        float *y = p->y + r * p->y_stride + o;
        /* Constants, so that each case is compiled with its sums in registers. */
        switch (p->rows - r) {
        case 5: panel_tile(x, p->inputs, panel, bias, y, p->y_stride, p->add, 5); break;
        case 4: panel_tile(x, p->inputs, panel, bias, y, p->y_stride, p->add, 4); break;
        case 3: panel_tile(x, p->inputs, panel, bias, y, p->y_stride, p->add, 3); break;
        case 2: panel_tile(x, p->inputs, panel, bias, y, p->y_stride, p->add, 2); break;
        case 1: panel_tile(x, p->inputs, panel, bias, y, p->y_stride, p->add, 1); break;
        }
    }
}

static void outputs_in_place(const product *p, int64_t first, int64_t end) {
    int64_t o = first;
    for (; o + DOT_OUTPUTS <= end; o += DOT_OUTPUTS) {
        const float *w = p->weight + o * p->inputs, *bias = p->bias ? p->bias + o : 0;
        const float *x = p->x, *ahead = w + DOT_OUTPUTS * p->inputs;
        float *y = p->y + o;
        int64_t left = p->rows, tiles = (left + DOT_ROWS - 1) / DOT_ROWS;
        int64_t fetched = (DOT_OUTPUTS * LANES + tiles - 1) / tiles;
        for (; left >= DOT_ROWS; left -= DOT_ROWS) {
            dot_tile(x, p->inputs, w, bias, y, p->y_stride, p->add, DOT_ROWS, ahead, fetched);
            x += DOT_ROWS * p->inputs, y += DOT_ROWS * p->y_stride;
            ahead += p->inputs / LANES * fetched;
        }
        for (; left >= 2; left -= 2) {
            dot_tile(x, p->inputs, w, bias, y, p->y_stride, p->add, 2, ahead, fetched);
            x += 2 * p->inputs, y += 2 * p->y_stride;
        }
        if (left) dot_tile(x, p->inputs, w, bias, y, p->y_stride, p->add, 1, ahead, fetched);
    }
    for (; o < end; o++)
        for (int64_t r = 0; r < p->rows; r++)
            dot_one(p->x + r * p->inputs, p->inputs, p->weight + o * p->inputs,
                    p->bias ? p->bias + o : 0, p->y + r * p->y_stride + o, p->add);
}

static void product_task(void *context, int64_t index) {
    const product *p = context;
    int64_t share = p->packed ? PACKED_TASK : TASK_IN_PLACE;
    int64_t first = index * share, end = first + share;
    if (end > p->outputs) end = p->outputs;
    (p->packed ? packed_outputs : outputs_in_place)(p, first, end);
}

static void multiply(product p, int64_t threads) {
    if (p.rows * p.inputs * p.outputs < LEAST_PRODUCT) threads = 1;
    int64_t share = p.packed ? PACKED_TASK : TASK_IN_PLACE;
    parallel_for(product_task, &p, (p.outputs + share - 1) / share, threads);
}

/* For tests and benchmarks: y (rows, outputs) = x (rows, inputs) W^T + bias. */
EXPORT void linear(const float *x, const float *weight, const float *bias, float *y, int64_t rows,
            int64_t inputs, int64_t outputs, int64_t packed, int64_t threads) {
    multiply((product){x, weight, bias, y, rows, inputs, outputs, outputs, (int)packed, 0}, threads);
}
