/* A made-up model decoded by decode.c; prints tokens and log-probabilities, for comparison between
 * processors. Argument 1: 1 packs the weights, 0 reads them in place. */

#include "decode.c"

#include <stdio.h>
#include <stdlib.h>

enum { LAYERS = 2, HIDDEN = 64, HEADS = 6, KV_HEADS = 2, WIDTH = 32, INNER = 80, VOCABULARY = 150,
       ROWS = 37, STEPS = 70, BLOCKS = 2 };

static uint32_t state = 1;
static float uniform(void) {
    state ^= state << 13, state ^= state >> 17, state ^= state << 5;
    return (float)(state >> 8) / (1 << 24);
}

static float *numbers(int64_t count, float low, float high) {
    float *x = malloc(count * sizeof(float));
    for (int64_t i = 0; i < count; i++) x[i] = low + (high - low) * uniform();
    return x;
}

static float *weight(int64_t outputs, int64_t inputs, int packed) {
    float *w = numbers(outputs * inputs, -0.4f, 0.4f);
    if (!packed) return w;
    int64_t panels = (outputs + PANEL - 1) / PANEL;
    float *p = calloc(panels * PANEL * inputs, sizeof(float));
    for (int64_t o = 0; o < outputs; o++)
        for (int64_t i = 0; i < inputs; i++)
            p[(o / PANEL * inputs + i) * PANEL + o % PANEL] = w[o * inputs + i];
    return p;
}

int main(int count, char **arguments) {
    int packed = count > 1 && arguments[1][0] == '1', qkv = (HEADS + 2 * KV_HEADS) * WIDTH;
    layer_weights layers[LAYERS];
    /* One statement each: compilers differ in the order in which they fill a list. */
    for (int l = 0; l < LAYERS; l++) {
        layer_weights *w = layers + l;
        w->norm1 = numbers(HIDDEN, 0.5f, 1.5f);
        w->qkv = weight(qkv, HIDDEN, packed);
        w->qkv_bias = calloc(qkv + PANEL, sizeof(float));
        memcpy((float *)w->qkv_bias, numbers(qkv, -0.1f, 0.1f), qkv * sizeof(float));
        w->out = weight(HIDDEN, HEADS * WIDTH, packed);
        w->out_bias = 0;
        w->q_norm = numbers(WIDTH, 0.5f, 1.5f);
        w->k_norm = numbers(WIDTH, 0.5f, 1.5f);
        w->norm2 = numbers(HIDDEN, 0.5f, 1.5f);
        w->gate_up = weight(2 * INNER, HIDDEN, packed);
        w->down = weight(HIDDEN, INNER, packed);
    }
    const float *embedding = numbers(VOCABULARY * HIDDEN, -1.0f, 1.0f);
    const float *norm = numbers(HIDDEN, 0.5f, 1.5f), *head = weight(VOCABULARY, HIDDEN, packed);
    int64_t positions = BLOCKS * BLOCK * WIDTH;
    float *cos = malloc(positions * sizeof(float)), *sin = malloc(positions * sizeof(float));
    for (int t = 0; t < BLOCKS * BLOCK; t++)
        for (int d = 0; d < WIDTH; d++) {
            double angle = t * pow(10000.0, -2.0 * (d % (WIDTH / 2)) / WIDTH);
            cos[t * WIDTH + d] = cosf((float)angle);
            sin[t * WIDTH + d] = (d < WIDTH / 2 ? -1.0f : 1.0f) * sinf((float)angle);
        }
    model m = {LAYERS, HIDDEN, HEADS, KV_HEADS, WIDTH, INNER, VOCABULARY, packed, layers, embedding,
               norm, head, cos, sin, 1e-6f};
    int64_t tables[ROWS * BLOCKS], lengths[ROWS], last[ROWS], limits[ROWS], ends[] = {3};
    int64_t tokens[ROWS * STEPS], written[ROWS], ended[ROWS];
    static double uniforms[ROWS * STEPS];
    static float logprobs[ROWS * STEPS];
    int64_t block = LAYERS * 2 * KV_HEADS * WIDTH * BLOCK;
    for (int r = 0; r < ROWS; r++) {
        for (int i = 0; i < BLOCKS; i++)
            tables[r * BLOCKS + i] = (int64_t)(uintptr_t)malloc(block * sizeof(float));
        lengths[r] = 0, last[r] = r, limits[r] = STEPS - r % 3;
    }
    for (int i = 0; i < ROWS * STEPS; i++) uniforms[i] = uniform();
    burst b = {.rows = ROWS, .steps = STEPS, .table_width = BLOCKS, .ends = 1, .chunk = 13,
               .threads = 3, .tables = tables, .lengths = lengths, .last = last,
               .uniforms = uniforms, .limits = limits, .end_ids = ends, .tokens = tokens,
               .logprobs = logprobs, .written = written, .ended = ended, .temperature = 0.9f,
               .scratch = malloc(3 * scratch_floats(&m, 13) * sizeof(float))};
    decode(&m, &b);
    for (int r = 0; r < ROWS; r++)
        for (int t = 0; t < written[r]; t++)
            printf("%d %d %.6f\n", r, (int)tokens[r * STEPS + t], logprobs[r * STEPS + t]);
    return 0;
}
