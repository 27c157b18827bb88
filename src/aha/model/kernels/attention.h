/* Attention of one new position over a row's cache, which lies in blocks of BLOCK positions.
 *
 * A block holds, per layer, the keys (KV heads, width, BLOCK), positions last so that scores are
 * computed side by side, then the values (KV heads, BLOCK, width). A row's table holds the
 * addresses of its blocks. `width` is a multiple of 16. The softmax goes block by block with a
 * running maximum (Milakov and Gimelshein, arXiv:1805.02867). */

enum { BLOCK = 64, MOST_QUERIES = 4, SUMS = LANES == 8 ? 8 : 16 };

typedef struct {
    const int64_t *table;
    int64_t layer, kv_heads, width;
} cache;

static INLINE float *keys_of(const cache *c, int64_t block, int64_t head) {
    float *layer = (float *)(uintptr_t)c->table[block] + c->layer * 2 * c->kv_heads * c->width * BLOCK;
    return layer + head * c->width * BLOCK;
}

static INLINE float *values_of(const cache *c, int64_t block, int64_t head) {
    return keys_of(c, block, head) + c->kv_heads * c->width * BLOCK;
}

static INLINE void store(const cache *c, int64_t head, const float *key, const float *value,
                         int64_t position) {
    float *keys = keys_of(c, position / BLOCK, head) + position % BLOCK;
    for (int64_t d = 0; d < c->width; d++) keys[d * BLOCK] = key[d];
    memcpy(values_of(c, position / BLOCK, head) + position % BLOCK * c->width, value,
           c->width * sizeof(float));
}

/* scores[q][t] = query[q] . key[t] for a block's positions; `count` queries, `wide` registers. */
static INLINE void block_scores(const float *query, const float *keys, int64_t width,
                                float (*scores)[BLOCK], int count, int wide) {
    for (int64_t t = 0; t < BLOCK; t += wide * LANES) {
        lanes sum[MOST_QUERIES][BLOCK / LANES] = {{{0}}};
        for (int64_t d = 0; d < width; d++)
            for (int i = 0; i < wide; i++) {
                lanes key = load(keys + d * BLOCK + t + i * LANES);
                for (int q = 0; q < count; q++) sum[q][i] += query[q * width + d] * key;
            }
        for (int q = 0; q < count; q++)
            for (int i = 0; i < wide; i++) put(scores[q] + t + i * LANES, sum[q][i]);
    }
}

/* Scores of `positions` positions to weights; returns by how much earlier sums shrink. */
static INLINE float block_softmax(float *weight, int64_t positions, float scale, float *highest,
                                  float *total) {
    float peak = *highest, sum = 0.0f;
    for (int64_t t = positions; t < BLOCK; t++) weight[t] = -INFINITY;
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

/* out[q] = out[q] * fade[q] + sum over t of weight[q][t] value[t]. */
static INLINE void block_values(float *out, float (*weight)[BLOCK], const float *fade,
                                const float *values, int64_t width, int64_t positions, int count,
                                int wide) {
    /* If registers are free, separate sums of even and odd positions: a sum waits for the last one. */
    int chains = 2 * count * wide <= SUMS ? 2 : 1;
    for (int64_t d = 0; d < width; d += wide * LANES) {
        lanes sum[2][MOST_QUERIES][4] = {{{{0}}}};
        for (int q = 0; q < count; q++)
            for (int i = 0; i < wide; i++)
                sum[0][q][i] = fade[q] * load(out + q * width + d + i * LANES);
        int64_t t = 0;
        for (; t + chains <= positions; t += chains)
            for (int e = 0; e < chains; e++)
                for (int i = 0; i < wide; i++) {
                    lanes value = load(values + (t + e) * width + d + i * LANES);
                    for (int q = 0; q < count; q++) sum[e][q][i] += weight[q][t + e] * value;
                }
        for (int i = 0; i < wide; i++)
            for (int q = 0; q < count; q++) {
                if (t < positions)
                    sum[0][q][i] += weight[q][t] * load(values + t * width + d + i * LANES);
                put(out + q * width + d + i * LANES, sum[0][q][i] + sum[1][q][i]);
            }
    }
}

/* `count` query heads that share keys and values, over the first `positions` positions. */
static INLINE void attend_queries(const cache *c, int64_t head, const float *query, float *out,
                                  int64_t positions, int count, int score_wide, int value_wide) {
    float highest[MOST_QUERIES], total[MOST_QUERIES], fade[MOST_QUERIES];
    float scores[MOST_QUERIES][BLOCK] __attribute__((aligned(64)));
    float scale = 1.0f / sqrtf((float)c->width);
    for (int q = 0; q < count; q++) highest[q] = -INFINITY, total[q] = 0.0f;
    memset(out, 0, count * c->width * sizeof(float));
    for (int64_t start = 0; start < positions; start += BLOCK) {
        int64_t here = positions - start < BLOCK ? positions - start : BLOCK;
        block_scores(query, keys_of(c, start / BLOCK, head), c->width, scores, count, score_wide);
        for (int q = 0; q < count; q++)
            fade[q] = block_softmax(scores[q], here, scale, &highest[q], &total[q]);
        block_values(out, scores, fade, values_of(c, start / BLOCK, head), c->width, here, count,
                     value_wide);
    }
    for (int q = 0; q < count; q++)
        for (int64_t d = 0; d < c->width; d++) out[q * c->width + d] /= total[q];
}

/* Registers side by side, so that all sums of `count` queries stay in registers. */
#define SCORE_WIDE(count) \
    (BLOCK / LANES < SUMS / (count) ? BLOCK / LANES : SUMS / ((count) == 3 ? 4 : (count)))
#define VALUE_WIDE (LANES == 4 ? 4 : 2)
#define ATTEND(count)                                                                     \
    if (width % (VALUE_WIDE * LANES) == 0)                                                \
        attend_queries(c, head, query, out, positions, count, SCORE_WIDE(count), VALUE_WIDE); \
    else                                                                                  \
        attend_queries(c, head, query, out, positions, count, SCORE_WIDE(count), 1)

/* All query heads of one row: query and out (heads, width). */
static void attend(const cache *c, const float *query, float *out, int64_t heads,
                   int64_t positions) {
    int64_t width = c->width, group = heads / c->kv_heads;
    for (int64_t head = 0; head < c->kv_heads; head++)
        for (int64_t left = group; left > 0;) {
            int64_t count = left < MOST_QUERIES ? left : MOST_QUERIES;
            /* Constants, so that each case is compiled with its sums in registers. */
            switch (count) {
            case 4: ATTEND(4); break;
            case 3: ATTEND(3); break;
            case 2: ATTEND(2); break;
            default: ATTEND(1);
            }
            query += count * width;
            out += count * width;
            left -= count;
        }
}

typedef struct {
    const float *key, *value;
    const int64_t *tables, *skip;
    int64_t tokens, table_width, layer, kv_heads, width;
} prompts;

static void store_one_prompt(void *context, int64_t r) {
    const prompts *p = context;
    cache c = {p->tables + r * p->table_width, p->layer, p->kv_heads, p->width};
    for (int64_t t = p->skip[r]; t < p->tokens; t++)
        for (int64_t h = 0; h < p->kv_heads; h++) {
            int64_t from = ((r * p->tokens + t) * p->kv_heads + h) * p->width;
            store(&c, h, p->key + from, p->value + from, t - p->skip[r]);
        }
}

/* Keys and values of `tokens` positions of each row (rows, tokens, KV heads, width), the first
 * `skip` of them padding, into the row's blocks from position 0. */
EXPORT void store_prompt(const float *key, const float *value, const int64_t *tables,
                  const int64_t *skip, int64_t rows, int64_t tokens, int64_t table_width,
                  int64_t layer, int64_t kv_heads, int64_t width, int64_t threads) {
    prompts p = {key, value, tables, skip, tokens, table_width, layer, kv_heads, width};
    parallel_for(store_one_prompt, &p, rows, threads);
}
