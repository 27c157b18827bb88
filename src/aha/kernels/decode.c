/* Decoding of small models, whole: all layers, the head and the draw, several tokens a call. Rows do not depend on each other, so a thread takes some of them through everything
 * without waiting for another, and what a row writes does not depend on who is beside it.
 *
 * Weights are packed in panels of PANEL outputs: (outputs / PANEL, inputs, PANEL). */

#include "kernels.c"

#define PANEL 64
#define STRIP 6   /* rows of a product that are summed in registers together */
#define CHUNK 32  /* rows that a thread takes through a token together */

/* y[r] = (add ? y[r] : 0) + bias + x[r] W for `count` (1 to STRIP) rows and one panel. */
static INLINE void panel_product(const float *x, int64_t inputs, const float *panel,
                                 const float *bias, float *y, int64_t y_stride, int add,
                                 int count) {
    /* Summed from zero: what is added to may be large, and each sum would round to its size. */
    lanes sum[STRIP][4] = {0};
    for (int64_t k = 0; k < inputs; k++) {
        const lanes *w = (const lanes *)(panel + k * PANEL);
        for (int r = 0; r < count; r++)
            for (int i = 0; i < 4; i++) sum[r][i] += x[r * inputs + k] * w[i];
    }
    for (int r = 0; r < count; r++)
        for (int i = 0; i < 4; i++) {
            lanes before = {0}, offset = {0};
            if (add) memcpy(&before, y + r * y_stride + 16 * i, sizeof before);
            if (bias) memcpy(&offset, bias + 16 * i, sizeof offset);
            sum[r][i] = sum[r][i] + offset + before;
            memcpy(y + r * y_stride + 16 * i, &sum[r][i], sizeof sum[r][i]);
        }
}

/* y (rows, outputs) = x (rows, inputs) W + bias, added to y where `add`; outputs is a multiple of
 * PANEL, and y's stride. */
static void product(const float *x, const float *packed, const float *bias, float *y, int64_t rows,
                    int64_t inputs, int64_t outputs, int add) {
    for (int64_t o = 0; o < outputs; o += PANEL) {
        const float *panel = packed + o * inputs;
        const float *b = bias ? bias + o : 0;
        int64_t r = 0;
        for (; r + STRIP <= rows; r += STRIP)
            panel_product(x + r * inputs, inputs, panel, b, y + r * outputs + o, outputs, add, STRIP);
        const float *xr = x + r * inputs;
        float *yr = y + r * outputs + o;
        switch (rows - r) {
        case 5: panel_product(xr, inputs, panel, b, yr, outputs, add, 5); break;
        case 4: panel_product(xr, inputs, panel, b, yr, outputs, add, 4); break;
        case 3: panel_product(xr, inputs, panel, b, yr, outputs, add, 3); break;
        case 2: panel_product(xr, inputs, panel, b, yr, outputs, add, 2); break;
        case 1: panel_product(xr, inputs, panel, b, yr, outputs, add, 1); break;
        }
    }
}

static INLINE void norm_row(const float *x, const float *weight, float *y, int64_t width, float eps) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < width; c++) sum += x[c] * x[c];
    float scale = 1.0f / sqrtf(sum / width + eps);
#pragma omp simd
    for (int64_t c = 0; c < width; c++) y[c] = x[c] * scale * weight[c];
}

static INLINE void rotate_head(float *x, const float *cos, const float *sin, int64_t width) {
    int64_t half = width / 2;
#pragma omp simd
    for (int64_t i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cos[i] + b * sin[i];
        x[i + half] = b * cos[i + half] + a * sin[i + half];
    }
}

/* A token from softmax(logits / temperature) where u in [0, 1) falls, or the likeliest at
 * temperature 0; its log-probability at temperature 1 then. */
static int64_t draw(float *logits, int64_t vocabulary, float temperature, double u, float *logprob) {
    float scale = temperature > 0.0f ? 1.0f / temperature : 1.0f, peak = -INFINITY;
#pragma omp simd reduction(max : peak)
    for (int64_t v = 0; v < vocabulary; v++) {
        logits[v] *= scale;
        peak = logits[v] > peak ? logits[v] : peak;
    }
    double total = 0.0;
    int64_t token = 0;
    for (int64_t v = 0; v < vocabulary; v += PANEL) {
        float weight[PANEL], sum = 0.0f;
        int64_t end = vocabulary - v < PANEL ? vocabulary - v : PANEL;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < end; i++) sum += weight[i] = exp_small(logits[v + i] - peak);
        total += sum;
    }
    double point = u * total, passed = 0.0;
    if (temperature > 0.0f) {
        token = vocabulary - 1;
        for (int64_t v = 0; v < vocabulary; v++) {
            passed += exp_small(logits[v] - peak);
            if (passed > point) {
                token = v;
                break;
            }
        }
    } else
        while (token < vocabulary - 1 && !(logits[token] == peak)) token++;
    *logprob = logits[token] - peak - (float)log(total);
    return token;
}

/* The model: sizes, then addresses. A layer's addresses are the norm before attention, the packed
 * projection to queries, keys and values and its bias, the packed output projection and its bias,
 * the norms of queries and of keys, the norm before the gated unit, its packed gate and up, its
 * packed down. A bias or norm that the model lacks is 0. */
enum { LAYERS, HIDDEN, HEADS, KV_HEADS, WIDTH, INNER, VOCABULARY, SIZES };
enum { NORM1, QKV, QKV_BIAS, OUT, OUT_BIAS, Q_NORM, K_NORM, NORM2, GATE_UP, DOWN, ADDRESSES };

static int64_t padded(int64_t outputs) { return (outputs + PANEL - 1) / PANEL * PANEL; }

typedef struct {
    const int64_t *sizes, *layers;
    const float *embedding, *norm, *head, *cos, *sin;
    float eps;
    float *x, *normed, *qkv, *attended, *gate_up, *inner, *logits;
} model;

/* Keys, values and attention of one row in one layer, from its projection to its outputs. */
static void row_attention(const model *m, const int64_t *address, int64_t layer, float *qkv,
                          float *attended, const int64_t *table, int64_t place) {
    int64_t heads = m->sizes[HEADS], kv_heads = m->sizes[KV_HEADS], width = m->sizes[WIDTH];
    const float *cos = m->cos + place * width, *sin = m->sin + place * width;
    float *key = qkv + heads * width, *value = key + kv_heads * width;
    for (int64_t h = 0; h < heads + kv_heads; h++) {
        const float *weight = (const float *)address[h < heads ? Q_NORM : K_NORM];
        if (weight) norm_row(qkv + h * width, weight, qkv + h * width, width, m->eps);
        rotate_head(qkv + h * width, cos, sin, width);
    }
    int64_t group = heads / kv_heads;
    for (int64_t h = 0; h < kv_heads; h++) {
        store(layer_of(table[place / BLOCK], layer, kv_heads, width), key + h * width,
              value + h * width, kv_heads, h, width, place % BLOCK);
        for (int64_t g = 0; g < group; g += 2) {
            const float *q = qkv + (h * group + g) * width;
            float *out = attended + (h * group + g) * width;
            const float *const queries[2] = {q, q + width};
            float *const outs[2] = {out, out + width};
            if (g + 1 == group)
                attend_heads(queries, outs, table, place + 1, 0, layer, h, kv_heads, width, 1, 1);
            else if (width % 32)
                attend_heads(queries, outs, table, place + 1, 0, layer, h, kv_heads, width, 2, 1);
            else
                attend_heads(queries, outs, table, place + 1, 0, layer, h, kv_heads, width, 2, 2);
        }
    }
}

/* One token of `count` rows through all layers; logits of the next. */
static void forward(const model *m, int64_t count, const int64_t *row, const int64_t *token,
                    const int64_t *tables, int64_t table_width, const int64_t *lengths) {
    const int64_t *s = m->sizes;
    int64_t hidden = s[HIDDEN], inner = s[INNER], attended = s[HEADS] * s[WIDTH];
    int64_t qkv = padded((s[HEADS] + 2 * s[KV_HEADS]) * s[WIDTH]), both = padded(2 * inner);
    for (int64_t i = 0; i < count; i++)
        memcpy(m->x + i * hidden, m->embedding + token[i] * hidden, hidden * sizeof(float));
    for (int64_t layer = 0; layer < s[LAYERS]; layer++) {
        const int64_t *address = m->layers + layer * ADDRESSES;
        for (int64_t i = 0; i < count; i++)
            norm_row(m->x + i * hidden, (const float *)address[NORM1], m->normed + i * hidden,
                     hidden, m->eps);
        product(m->normed, (const float *)address[QKV], (const float *)address[QKV_BIAS], m->qkv,
                count, hidden, qkv, 0);
        for (int64_t i = 0; i < count; i++)
            row_attention(m, address, layer, m->qkv + i * qkv, m->attended + i * attended,
                          tables + row[i] * table_width, lengths[row[i]]);
        product(m->attended, (const float *)address[OUT], (const float *)address[OUT_BIAS], m->x,
                count, attended, hidden, 1);
        for (int64_t i = 0; i < count; i++)
            norm_row(m->x + i * hidden, (const float *)address[NORM2], m->normed + i * hidden,
                     hidden, m->eps);
        product(m->normed, (const float *)address[GATE_UP], 0, m->gate_up, count, hidden, both, 0);
        for (int64_t i = 0; i < count; i++) {
            const float *gate = m->gate_up + i * both, *up = gate + inner;
            float *y = m->inner + i * inner;
#pragma omp simd
            for (int64_t c = 0; c < inner; c++) y[c] = gate[c] * sigmoid(gate[c]) * up[c];
        }
        product(m->inner, (const float *)address[DOWN], 0, m->x, count, inner, hidden, 1);
    }
    for (int64_t i = 0; i < count; i++)
        norm_row(m->x + i * hidden, m->norm, m->normed + i * hidden, hidden, m->eps);
    product(m->normed, m->head, 0, m->logits, count, hidden, padded(s[VOCABULARY]), 0);
}

/* Up to `steps` tokens of each row, which begins with the token that it wrote last. A row stops
 * when it draws one of the end tokens or has written limits[r]. uniforms, tokens and logprobs are
 * (rows, steps); written[r] counts what was drawn, ended[r] says that it was an end token.
 * `scratch` holds for each chunk of rows what one chunk needs (decode_scratch floats). */
void decode(const int64_t *sizes, const int64_t *layers, const float *embedding, const float *norm,
            const float *head, const float *cos, const float *sin, const int64_t *tables,
            int64_t *lengths, const int64_t *last, const double *uniforms, const int64_t *limits,
            const int64_t *end_ids, int64_t *tokens, float *logprobs, int64_t *written,
            int64_t *ended, float *scratch, int64_t rows, int64_t steps, int64_t table_width,
            int64_t ends, int64_t chunk, int64_t scratch_floats, float temperature, float eps) {
    int64_t hidden = sizes[HIDDEN], inner = sizes[INNER], vocabulary = sizes[VOCABULARY];
    int64_t attended = sizes[HEADS] * sizes[WIDTH];
    int64_t qkv = padded(attended + 2 * sizes[KV_HEADS] * sizes[WIDTH]), both = padded(2 * inner);
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t first = 0; first < rows; first += chunk) {
        model m = {sizes, layers, embedding, norm, head, cos, sin, eps};
        m.x = scratch + first / chunk * scratch_floats;
        m.normed = m.x + CHUNK * hidden;
        m.qkv = m.normed + CHUNK * hidden;
        m.attended = m.qkv + CHUNK * qkv;
        m.gate_up = m.attended + CHUNK * attended;
        m.inner = m.gate_up + CHUNK * both;
        m.logits = m.inner + CHUNK * inner;
        int64_t row[CHUNK], token[CHUNK], count = 0;
        for (int64_t r = first; r < first + chunk && r < rows; r++) {
            row[count] = r;
            token[count++] = last[r];
            written[r] = ended[r] = 0;
        }
        for (int64_t t = 0; t < steps && count; t++) {
            forward(&m, count, row, token, tables, table_width, lengths);
            int64_t going = 0;
            for (int64_t i = 0; i < count; i++) {
                int64_t r = row[i], at = r * steps + t;
                int64_t drawn = draw(m.logits + i * padded(vocabulary), vocabulary, temperature,
                                     uniforms[at], logprobs + at);
                tokens[at] = drawn;
                lengths[r]++;
                written[r]++;
                for (int64_t e = 0; e < ends; e++) ended[r] |= drawn == end_ids[e];
                if (ended[r] || written[r] == limits[r]) continue;
                row[going] = r;
                token[going++] = drawn;
            }
            count = going;
        }
    }
}
