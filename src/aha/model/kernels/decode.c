/* Decoding of Llama-like models in float32 on a CPU: all layers, the head and the draw.
 *
 * Small models: a thread takes some rows through everything, several tokens a call, without waiting
 * for another thread. Large models: all threads share each product, so that a weight is read
 * once for all rows. The code is the same; only the caller of parallel_for differs (threads.h).
 * A row's tokens do not depend on the other rows.
 *
 * The structs are filled by aha/model/kernels/decode.py, field by field in this order. */

#include "threads.h"
#include "vectors.h"
#include "products.h"
#include "ops.h"
#include "attention.h"
#include "causal.h"

/* One block's weights; 0 for what the model lacks. */
typedef struct {
    const float *norm1, *qkv, *qkv_bias, *out, *out_bias, *q_norm, *k_norm, *norm2, *gate_up, *down;
} layer_weights;

typedef struct {
    int64_t layers, hidden, heads, kv_heads, width, inner, vocabulary, packed;
    const layer_weights *layer;
    const float *embedding, *norm, *head, *cos, *sin;
    float eps;
} model;

/* Rows to take `steps` tokens further. tables (rows, table_width) as in attention.h; lengths counts
 * cached positions and is advanced. `last` is each row's newest token, not cached yet.
 * uniforms, tokens and logprobs are (rows, steps). */
typedef struct {
    int64_t rows, steps, table_width, ends, chunk, threads;
    const int64_t *tables;
    int64_t *lengths;
    const int64_t *last;
    const double *uniforms;
    const int64_t *limits, *end_ids;
    int64_t *tokens;
    float *logprobs;
    int64_t *written, *ended;
    float *scratch;
    float temperature;
} burst;

enum { MOST_ROWS = 64, DRAW_BLOCKS = 256 };

/* A chunk of rows, with its values in the current layer. */
typedef struct {
    const model *m;
    const burst *b;
    int64_t count, layer;
    int64_t row[MOST_ROWS], token[MOST_ROWS];
    float *x, *normed, *qkv, *attended, *gate_up, *inner, *logits;
} chunk;

/* Outputs of a product as they lie in memory: whole panels where weights are packed. */
static int64_t spread(const model *m, int64_t outputs) {
    return m->packed ? (outputs + PANEL - 1) / PANEL * PANEL : outputs;
}
static int64_t qkv_width(const model *m) {
    return spread(m, (m->heads + 2 * m->kv_heads) * m->width);
}

/* Floats that a chunk of `rows` rows needs. */
EXPORT int64_t scratch_floats(const model *m, int64_t rows) {
    return rows * (2 * m->hidden + qkv_width(m) + m->heads * m->width + spread(m, 2 * m->inner) +
                   m->inner + spread(m, m->vocabulary));
}

EXPORT int64_t panel_width(void) { return PANEL; }

static void lay_out(chunk *c, float *scratch, int64_t rows) {
    const model *m = c->m;
    c->x = scratch;
    c->normed = c->x + rows * m->hidden;
    c->qkv = c->normed + rows * m->hidden;
    c->attended = c->qkv + rows * qkv_width(m);
    c->gate_up = c->attended + rows * m->heads * m->width;
    c->inner = c->gate_up + rows * spread(m, 2 * m->inner);
    c->logits = c->inner + rows * m->inner;
}

static void norm_row(const float *x, const float *weight, float *y, int64_t width, float eps) {
    float inverse;
    rowwise job = {.x = x, .weight = weight, .y = y, .inverse = &inverse, .width = width, .eps = eps};
    norm_rows(&job, 0, 1);
}

static void norm_chunk(const chunk *c, const float *weight) {
    for (int64_t i = 0; i < c->count; i++)
        norm_row(c->x + i * c->m->hidden, weight, c->normed + i * c->m->hidden, c->m->hidden,
                 c->m->eps);
}

static void project(const chunk *c, const float *x, int64_t inputs, const float *weight,
                    const float *bias, float *y, int64_t outputs, int add) {
    outputs = spread(c->m, outputs);
    multiply((product){x, weight, bias, y, c->count, inputs, outputs, outputs,
                       (int)c->m->packed, add}, c->b->threads);
}

/* Attention: from a row's projection to its attended values. */
static void row_attention(void *context, int64_t i) {
    const chunk *c = context;
    const model *m = c->m;
    const layer_weights *w = m->layer + c->layer;
    int64_t place = c->b->lengths[c->row[i]];
    float *qkv = c->qkv + i * qkv_width(m), *key = qkv + m->heads * m->width;
    for (int64_t h = 0; h < m->heads + m->kv_heads; h++) {
        const float *norm = h < m->heads ? w->q_norm : w->k_norm;
        float *x = qkv + h * m->width;
        if (norm) norm_row(x, norm, x, m->width, m->eps);
        rotate_head(x, m->cos + place * m->width, m->sin + place * m->width, x, m->width, 1.0f);
    }
    cache past = {c->b->tables + c->row[i] * c->b->table_width, c->layer, m->kv_heads, m->width};
    for (int64_t h = 0; h < m->kv_heads; h++)
        store(&past, h, key + h * m->width, key + (m->kv_heads + h) * m->width, place);
    attend(&past, qkv, c->attended + i * m->heads * m->width, m->heads, place + 1);
}

static void row_gate(void *context, int64_t i) {
    const chunk *c = context;
    const float *gate = c->gate_up + i * spread(c->m, 2 * c->m->inner);
    gated_row(gate, gate + c->m->inner, c->inner + i * c->m->inner, c->m->inner);
}

/* One token of each row through all layers, to the logits of the next. */
static void forward(chunk *c) {
    const model *m = c->m;
    int64_t attended = m->heads * m->width, threads = c->b->threads;
    for (int64_t i = 0; i < c->count; i++)
        memcpy(c->x + i * m->hidden, m->embedding + c->token[i] * m->hidden,
               m->hidden * sizeof(float));
    for (c->layer = 0; c->layer < m->layers; c->layer++) {
        const layer_weights *w = m->layer + c->layer;
        norm_chunk(c, w->norm1);
        project(c, c->normed, m->hidden, w->qkv, w->qkv_bias, c->qkv, attended + 2 * m->kv_heads * m->width, 0);
        parallel_for(row_attention, c, c->count, threads);
        project(c, c->attended, attended, w->out, w->out_bias, c->x, m->hidden, 1);
        norm_chunk(c, w->norm2);
        project(c, c->normed, m->hidden, w->gate_up, 0, c->gate_up, 2 * m->inner, 0);
        parallel_for(row_gate, c, c->count, threads);
        project(c, c->inner, m->inner, w->down, 0, c->x, m->hidden, 1);
    }
    norm_chunk(c, m->norm);
    project(c, c->normed, m->hidden, m->head, 0, c->logits, m->vocabulary, 0);
}

/* The token of softmax(logits / temperature) at u in [0, 1), and its log-probability. At temperature
 * 0 the likeliest token, with its log-probability at temperature 1. */
static int64_t draw(float *logits, int64_t vocabulary, float temperature, double u, float *logprob) {
    float scale = temperature > 0.0f ? 1.0f / temperature : 1.0f, peak = -INFINITY;
#pragma omp simd reduction(max : peak)
    for (int64_t v = 0; v < vocabulary; v++) {
        logits[v] *= scale;
        peak = logits[v] > peak ? logits[v] : peak;
    }
    /* Sums of blocks first, so that only one block is searched token by token. */
    double sums[DRAW_BLOCKS], total = 0.0, passed = 0.0;
    int64_t size = (vocabulary + DRAW_BLOCKS * 16 - 1) / (DRAW_BLOCKS * 16) * 16, block = 0;
    for (int64_t v = 0; v < vocabulary; v += size) {
        float sum = 0.0f;
        int64_t end = vocabulary - v < size ? vocabulary : v + size;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = v; i < end; i++) sum += exp_small(logits[i] - peak);
        sums[v / size] = sum;
        total += sum;
    }
    int64_t token = vocabulary - 1;
    if (temperature > 0.0f) {
        double point = u * total;
        for (; (block + 1) * size < vocabulary && passed + sums[block] <= point; block++)
            passed += sums[block];
        for (int64_t v = block * size; v < vocabulary; v++) {
            passed += exp_small(logits[v] - peak);
            if (passed > point) {
                token = v;
                break;
            }
        }
    } else
        for (token = 0; token < vocabulary - 1 && !(logits[token] == peak);) token++;
    *logprob = logits[token] - peak - (float)log(total);
    return token;
}

typedef struct {
    chunk *c;
    int64_t step;
} drawing;

static void draw_row(void *context, int64_t i) {
    const drawing *d = context;
    const chunk *c = d->c;
    const burst *b = c->b;
    int64_t r = c->row[i], at = r * b->steps + d->step;
    int64_t token = draw(c->logits + i * spread(c->m, c->m->vocabulary), c->m->vocabulary,
                         b->temperature, b->uniforms[at], b->logprobs + at);
    b->tokens[at] = token;
    b->lengths[r]++;
    b->written[r]++;
    for (int64_t e = 0; e < b->ends; e++) b->ended[r] |= token == b->end_ids[e];
}

typedef struct {
    const model *m;
    const burst *b;
    int apart; /* chunks run side by side, each with scratch of its own */
} bursts;

static void start_chunk(chunk *c, const bursts *all, int64_t index) {
    const burst *b = all->b;
    c->m = all->m;
    c->b = b;
    c->count = 0;
    lay_out(c, b->scratch + (all->apart ? index * scratch_floats(c->m, b->chunk) : 0), b->chunk);
    for (int64_t r = index * b->chunk; r < (index + 1) * b->chunk && r < b->rows; r++) {
        c->row[c->count] = r;
        c->token[c->count++] = b->last[r];
    }
}

static void burst_chunk(void *context, int64_t index) {
    chunk c;
    start_chunk(&c, context, index);
    const burst *b = c.b;
    for (int64_t i = 0; i < c.count; i++) b->written[c.row[i]] = b->ended[c.row[i]] = 0;
    for (int64_t t = 0; t < b->steps && c.count; t++) {
        forward(&c);
        drawing d = {&c, t};
        parallel_for(draw_row, &d, c.count, b->threads);
        int64_t going = 0;
        for (int64_t i = 0; i < c.count; i++) {
            int64_t r = c.row[i];
            if (b->ended[r] || b->written[r] == b->limits[r]) continue;
            c.row[going] = r;
            c.token[going++] = b->tokens[r * b->steps + t];
        }
        c.count = going;
    }
}

/* Up to `steps` tokens of each row. A row stops when it draws one of the end tokens or has written
 * limits[r]; written[r] counts what was drawn, ended[r] says that it was an end token. */
EXPORT void decode(const model *m, const burst *b) {
    bursts all = {m, b, (int)m->packed};
    int64_t chunks = (b->rows + b->chunk - 1) / b->chunk;
    if (all.apart)
        parallel_for(burst_chunk, &all, chunks, b->threads);
    else
        run_alone(burst_chunk, &all, chunks);
}

/* One token of every row; its logits (rows, vocabulary) for a draw elsewhere. */
EXPORT void decode_logits(const model *m, const burst *b, float *logits) {
    bursts all = {m, b, 0};
    for (int64_t index = 0; index * b->chunk < b->rows; index++) {
        chunk c;
        start_chunk(&c, &all, index);
        forward(&c);
        for (int64_t i = 0; i < c.count; i++) {
            memcpy(logits + c.row[i] * m->vocabulary, c.logits + i * spread(m, m->vocabulary),
                   m->vocabulary * sizeof(float));
            b->lengths[c.row[i]]++;
        }
    }
}
