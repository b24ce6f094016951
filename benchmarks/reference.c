/* The workloads of workloads.py in plain C with GCC vector extensions, and a measure of the
   machine's peak. Data layout and results are those of workloads.py; `length` is the number of
   steps stored in x and y, `steps` the number to train, `every` the number between evaluations. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LANES 16
#define MOMENTUM 0.9f
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4 * LANES)));
typedef float loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int ivec __attribute__((vector_size(4 * LANES), aligned(4 * LANES)));

INLINE vec splat(float a) { return a - (vec){0}; }
INLINE vec load(const float *p) { return *(const loose *)p; }
INLINE void store(float *p, vec a) { *(loose *)p = a; }
INLINE vec keep(vec a, ivec mask) { return (vec)((ivec)a & mask); }
INLINE vec larger(vec a, vec b) {
    ivec m = a > b;
    return (vec)(((ivec)a & m) | ((ivec)b & ~m));
}

/* ---- W1: one ReLU unit; the lanes of a vector are cells, everything stays in registers ---- */

#define D 4
#define BATCH1 32

static void group(int steps, int never, const float *x, const float *y, const float *xmean,
                  vec *w, vec *b, vec *v, vec rate, ivec *first, vec *total, vec *peak,
                  ivec *active) {
    vec w0 = w[0], w1 = w[1], w2 = w[2], w3 = w[3], bias = *b, out = *v;
    vec m0 = {0}, m1 = {0}, m2 = {0}, m3 = {0}, mb = {0}, mv = {0};
    ivec when = never - (ivec){0}, count = {0};
    vec sum = {0}, top = splat(-INFINITY);
    for (int t = 0; t < steps; t++, x += BATCH1 * D, y += BATCH1, xmean += D) {
        vec g0 = {0}, g1 = {0}, g2 = {0}, g3 = {0}, gb = {0}, most = splat(-INFINITY);
#pragma GCC unroll 4
        for (int n = 0; n < BATCH1; n++) {
            const float *r = x + n * D;
            vec z = bias + w0 * r[0] + w1 * r[1] + w2 * r[2] + w3 * r[3];
            ivec on = z > 0.0f;
            vec e = keep(out * z - y[n], on);
            most = larger(most, z);
            count -= on;
            g0 += e * r[0];
            g1 += e * r[1];
            g2 += e * r[2];
            g3 += e * r[3];
            gb += e;
        }
        ivec now = (most > 0.0f) & (when == never);
        when = (when & ~now) | (t & now);
        top = larger(top, most);
        /* The mean of z and sum_n e z follow from linearity, without a pass over the batch. */
        sum += bias + w0 * xmean[0] + w1 * xmean[1] + w2 * xmean[2] + w3 * xmean[3];
        vec scale = out * (1.0f / BATCH1);
        vec gv = (w0 * g0 + w1 * g1 + w2 * g2 + w3 * g3 + bias * gb) * (1.0f / BATCH1);
        m0 = g0 * scale + MOMENTUM * m0;
        m1 = g1 * scale + MOMENTUM * m1;
        m2 = g2 * scale + MOMENTUM * m2;
        m3 = g3 * scale + MOMENTUM * m3;
        mb = gb * scale + MOMENTUM * mb;
        mv = gv + MOMENTUM * mv;
        w0 -= rate * m0;
        w1 -= rate * m1;
        w2 -= rate * m2;
        w3 -= rate * m3;
        bias -= rate * mb;
        out -= rate * mv;
    }
    w[0] = w0, w[1] = w1, w[2] = w2, w[3] = w3, *b = bias, *v = out;
    *first = when, *total = sum, *peak = top, *active = count;
}

void w1(int seeds, int cells, int length, int steps, const float *x, const float *y,
        const float *w0, const float *v0, const float *rate, const float *b0, float *parameters,
        int *first, float *total, float *peak, float *active) {
    int groups = (cells + LANES - 1) / LANES;
    float *xmean = malloc(sizeof(float) * D * seeds * steps); /* Means of the inputs. */
#pragma omp parallel
    {
#pragma omp for
        for (int i = 0; i < seeds * steps; i++)
            for (int d = 0; d < D; d++) {
                const float *p = x + ((long)(i / steps) * length + i % steps) * BATCH1 * D + d;
                float s = 0;
                for (int n = 0; n < BATCH1; n++) s += p[n * D];
                xmean[i * D + d] = s / BATCH1;
            }
#pragma omp for schedule(dynamic)
        for (int i = 0; i < seeds * groups; i++) {
            int s = i / groups, c0 = i % groups * LANES;
            vec w[D], v = splat(v0[s]), b, r, sum, top;
            ivec when, count;
            for (int d = 0; d < D; d++) w[d] = splat(w0[s * D + d]);
            for (int l = 0; l < LANES; l++) {
                int c = c0 + l < cells ? c0 + l : cells - 1;
                b[l] = b0[c], r[l] = rate[c];
            }
            group(steps, steps, x + (long)s * length * BATCH1 * D, y + (long)s * length * BATCH1,
                  xmean + (long)s * steps * D, w, &b, &v, r, &when, &sum, &top, &count);
            for (int l = 0; l < LANES && c0 + l < cells; l++) {
                long run = (long)s * cells + c0 + l;
                for (int d = 0; d < D; d++) parameters[run * 6 + d] = w[d][l];
                parameters[run * 6 + 4] = b[l], parameters[run * 6 + 5] = v[l];
                first[run] = when[l], total[run] = sum[l], peak[run] = top[l];
                active[run] = (float)count[l] / BATCH1;
            }
        }
    }
    free(xmean);
}

/* ---- W2: an MLP 16-32-32-1; one run per thread, units in two vectors, eight rows a block ---- */

#define IN 16
#define H 32
#define BATCH2 64
#define ROWS 8

/* acc[r] = start + sum_k a[r * row + k * step] b[k], for eight rows r of 32 columns. */
INLINE void product(const float *a, int row, int step, const float *b, int depth, vec s0, vec s1,
                    vec acc[ROWS][2]) {
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++) acc[r][0] = s0, acc[r][1] = s1;
    for (int k = 0; k < depth; k++) {
        vec b0 = load(b + k * H), b1 = load(b + k * H + LANES);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            float f = a[r * row + k * step];
            acc[r][0] += f * b0, acc[r][1] += f * b1;
        }
    }
}

typedef struct {
    int *first;
    float *total, *peak, *active;
} streams;

/* h = relu(in w + b) for a batch; sum, largest value and count of z > 0 of the 32 pre-activations. */
INLINE void forward(const float *in, int depth, const float *w, const float *b, float *h,
                    vec sum[2], vec top[2], ivec on[2]) {
    vec b0 = load(b), b1 = load(b + LANES), zero = {0};
    for (int n = 0; n < BATCH2; n += ROWS) {
        vec z[ROWS][2];
        product(in + n * depth, depth, 1, w, depth, b0, b1, z);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
            for (int j = 0; j < 2; j++) {
                sum[j] += z[r][j];
                top[j] = larger(top[j], z[r][j]);
                on[j] -= z[r][j] > 0.0f;
                store(h + (n + r) * H + j * LANES, larger(z[r][j], zero));
            }
    }
}

/* The same, with the statistics added to the streams. */
INLINE void layer(const float *in, int depth, const float *w, const float *b, float *h, int t,
                  int never, streams s) {
    vec sum[2] = {{0}}, top[2] = {splat(-INFINITY), splat(-INFINITY)};
    ivec on[2] = {{0}};
    forward(in, depth, w, b, h, sum, top, on);
    for (int j = 0; j < 2; j++)
        for (int l = 0; l < LANES; l++) {
            int u = j * LANES + l;
            if (s.first[u] == never && top[j][l] > 0) s.first[u] = t;
            s.total[u] += sum[j][l] * (1.0f / BATCH2);
            s.peak[u] = s.peak[u] > top[j][l] ? s.peak[u] : top[j][l];
            s.active[u] += on[j][l] * (1.0f / BATCH2);
        }
}

/* One step of sixteen parameters with the gradient g; heavy-ball where there are moments m. */
INLINE void descend(float *p, float *m, vec g, float rate) {
    if (m) g += MOMENTUM * load(m), store(m, g);
    store(p, load(p) - rate * g);
}

/* w, of shape (rows, 32), descends along in' d. */
INLINE void descend_matrix(float *w, float *m, const float *in, int rows, const float *d,
                           float rate) {
    for (int i = 0; i < rows; i += ROWS) {
        vec g[ROWS][2], zero = {0};
        product(in + i, 1, rows, d, BATCH2, zero, zero, g);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++)
            for (int j = 0; j < 2; j++)
                descend(w + (i + r) * H + j * LANES, m ? m + (i + r) * H + j * LANES : 0, g[r][j],
                        rate);
    }
}

/* Transposes a 16 x 16 tile in registers by exchanging blocks of 1, 2, 4 and 8. */
INLINE void transpose(vec a[LANES]) {
#if defined(__clang__)
    vec c[LANES];
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < LANES; j++) c[i][j] = a[j][i];
    memcpy(a, c, sizeof c);
#else
    const ivec lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
        const int s = 1 << k;
        const ivec odd = (lane & s) != 0; /* -1 in lanes that come from the other row. */
        const ivec low = lane + (odd & (LANES - s)), high = low + s;
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++)
            if (!(i & s)) {
                vec p = a[i], q = a[i + s];
                a[i] = __builtin_shuffle(p, q, low);
                a[i + s] = __builtin_shuffle(p, q, high);
            }
    }
#endif
}

/* out [cols][rows] = a [rows][cols] transposed, both multiples of 16. */
INLINE void transposed(const float *a, int rows, int cols, float *out) {
    for (int i = 0; i < rows; i += LANES)
        for (int j = 0; j < cols; j += LANES) {
            vec tile[LANES];
#pragma GCC unroll 16
            for (int r = 0; r < LANES; r++) tile[r] = load(a + (i + r) * cols + j);
            transpose(tile);
#pragma GCC unroll 16
            for (int r = 0; r < LANES; r++) store(out + (j + r) * rows + i, tile[r]);
        }
}

/* d = (above back) where h > 0, for the batch, and its sums over the batch. */
INLINE void backward(const float *above, int row, int step, const float *back, int depth,
                     const float *h, float *d, vec sums[2]) {
    vec zero = {0};
    sums[0] = sums[1] = zero;
    for (int n = 0; n < BATCH2; n += ROWS) {
        vec a[ROWS][2];
        product(above + n * row, row, step, back, depth, zero, zero, a);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
            for (int j = 0; j < 2; j++) {
                vec q = keep(a[r][j], load(h + (n + r) * H + j * LANES) > 0.0f);
                sums[j] += q;
                store(d + (n + r) * H + j * LANES, q);
            }
    }
}

typedef struct {
    _Alignas(64) float w1[IN * H];
    float b1[H], w2[H * H], b2[H], w3[H], b3;
} network; /* The padding at its end is not among the parameters. */

#define PARAMETERS (IN * H + H + H * H + H + H + 1)

static void train(int steps, const float *x, const float *y, network *p, float rate, streams s) {
    network m;
    memset(&m, 0, sizeof m);
    _Alignas(64) float h1[BATCH2 * H], h2[BATCH2 * H], d1[BATCH2 * H], d2[BATCH2 * H];
    _Alignas(64) float back[H * H];
    streams upper = {s.first + H, s.total + H, s.peak + H, s.active + H};
    for (int t = 0; t < steps; t++, x += BATCH2 * IN, y += BATCH2) {
        layer(x, IN, p->w1, p->b1, h1, t, steps, s);
        layer(h1, H, p->w2, p->b2, h2, t, steps, upper);

        vec w30 = load(p->w3), w31 = load(p->w3 + LANES);
        vec gw30 = {0}, gw31 = {0}, gb20 = {0}, gb21 = {0}, gb3 = {0};
        for (int n = 0; n < BATCH2; n += LANES) {
            vec tile[LANES], error = splat(p->b3);
#pragma GCC unroll 16
            for (int r = 0; r < LANES; r++)
                tile[r] = load(h2 + (n + r) * H) * w30 + load(h2 + (n + r) * H + LANES) * w31;
            transpose(tile);
#pragma GCC unroll 16
            for (int r = 0; r < LANES; r++) error += tile[r];
            error = (error - load(y + n)) * (1.0f / BATCH2);
            gb3 += error;
#pragma GCC unroll 16
            for (int r = 0; r < LANES; r++) {
                float e = error[r];
                vec a = load(h2 + (n + r) * H), b = load(h2 + (n + r) * H + LANES);
                vec da = keep(e * w30, a > 0.0f), db = keep(e * w31, b > 0.0f);
                gw30 += e * a, gw31 += e * b, gb20 += da, gb21 += db;
                store(d2 + (n + r) * H, da), store(d2 + (n + r) * H + LANES, db);
            }
        }
        vec gb1[2];
        transposed(p->w2, H, H, back);
        backward(d2, H, 1, back, H, h1, d1, gb1);
        descend_matrix(p->w1, m.w1, x, IN, d1, rate);
        descend_matrix(p->w2, m.w2, h1, H, d2, rate);
        descend(p->b1, m.b1, gb1[0], rate), descend(p->b1 + LANES, m.b1 + LANES, gb1[1], rate);
        descend(p->b2, m.b2, gb20, rate), descend(p->b2 + LANES, m.b2 + LANES, gb21, rate);
        descend(p->w3, m.w3, gw30, rate), descend(p->w3 + LANES, m.w3 + LANES, gw31, rate);
        float g = 0;
        for (int l = 0; l < LANES; l++) g += gb3[l];
        m.b3 = g + MOMENTUM * m.b3;
        p->b3 -= rate * m.b3;
    }
}

void w2(int seeds, int cells, int length, int steps, const float *x, const float *y,
        const float *w10, const float *w20, const float *w30, const float *rate, const float *b0,
        float *parameters, int *first, float *total, float *peak, float *active) {
#pragma omp parallel for schedule(dynamic)
    for (int i = 0; i < seeds * cells; i++) {
        int s = i / cells, c = i % cells;
        long u = (long)i * 2 * H;
        network p;
        memset(&p, 0, sizeof p);
        memcpy(p.w1, w10 + (long)s * IN * H, sizeof p.w1);
        memcpy(p.w2, w20 + (long)s * H * H, sizeof p.w2);
        memcpy(p.w3, w30 + (long)s * H, sizeof p.w3);
        for (int j = 0; j < H / 2; j++) p.b2[j] = b0[c];
        for (int j = 0; j < 2 * H; j++) {
            first[u + j] = steps, peak[u + j] = -INFINITY;
            total[u + j] = active[u + j] = 0;
        }
        train(steps, x + (long)s * length * BATCH2 * IN, y + (long)s * length * BATCH2, &p,
              rate[c], (streams){first + u, total + u, peak + u, active + u});
        memcpy(parameters + (long)i * PARAMETERS, &p, 4 * PARAMETERS);
    }
}

/* ---- W3: an MLP 64-32-32-10 and cross entropy; the batch and the hidden layers are W2's ---- */

#define IN3 64
#define CLASSES 10

typedef struct {
    _Alignas(64) float w1[IN3 * H];
    float b1[H], w2[H * H], b2[H];
    float w3[LANES * H], b3[LANES]; /* [class][unit]; classes beyond the last stay 0. */
} classifier;

#define PARAMETERS3 (IN3 * H + H + H * H + H + H * CLASSES + CLASSES)

/* e^x for x <= 0 to about an ulp (Cephes' expf, S. L. Moshier). */
INLINE vec exponential(vec x) {
    x = larger(x, splat(-87.0f));
    ivec n = __builtin_convertvector(x * 1.44269504f - 0.5f, ivec);
    vec k = __builtin_convertvector(n, vec);
    vec r = x - k * 0.693359375f + k * 2.12194440e-4f;
    vec p = 1.9875691500e-4f * r + 1.3981999507e-3f;
    p = ((p * r + 8.3334519073e-3f) * r + 4.1665795894e-2f) * r + 1.6666665459e-1f;
    p = (p * r + 5.0000001201e-1f) * r * r + r + 1.0f;
    return p * (vec)((n + 127) << 23);
}

/* error [class][row] = (softmax(h w3 + b3) - one-hot) / batch, and its sums over the batch; the
   lanes are rows. */
INLINE void classify(const classifier *p, const float *h, const int *label, float *error,
                     float sums[LANES]) {
    _Alignas(64) float w3[H * LANES];
    transposed(p->w3, LANES, H, w3);
    vec bias = load(p->b3), sum[CLASSES] = {{0}};
    for (int n = 0; n < BATCH2; n += LANES) {
        vec z[LANES];
#pragma GCC unroll 16
        for (int r = 0; r < LANES; r++) z[r] = bias;
        for (int k = 0; k < H; k++) {
            vec w = load(w3 + k * LANES);
#pragma GCC unroll 16
            for (int r = 0; r < LANES; r++) z[r] += h[(n + r) * H + k] * w;
        }
        transpose(z);
        vec most = z[0], all = {0};
#pragma GCC unroll 16
        for (int k = 1; k < CLASSES; k++) most = larger(most, z[k]);
#pragma GCC unroll 16
        for (int k = 0; k < CLASSES; k++) z[k] = exponential(z[k] - most), all += z[k];
        vec scale = (1.0f / BATCH2) / all, one = splat(1.0f / BATCH2);
        ivec right;
        memcpy(&right, label + n, sizeof right);
#pragma GCC unroll 16
        for (int k = 0; k < CLASSES; k++) {
            vec e = z[k] * scale - keep(one, right == k);
            sum[k] += e;
            store(error + k * BATCH2 + n, e);
        }
    }
    for (int k = 0; k < CLASSES; k++)
        for (int l = 0; l < LANES; l++) sums[k] += sum[k][l];
}

/* The margins of the 64 hidden units: the largest z over the examples. */
static void evaluate(const classifier *p, const float *probe, int examples, float *margin) {
    _Alignas(64) float h1[BATCH2 * H], h2[BATCH2 * H];
    vec sum[2] = {{0}}, first[2], second[2];
    ivec on[2] = {{0}};
    for (int j = 0; j < 2; j++) first[j] = second[j] = splat(-INFINITY);
    for (int n = 0; n < examples; n += BATCH2) {
        forward(probe + n * IN3, IN3, p->w1, p->b1, h1, sum, first, on);
        forward(h1, H, p->w2, p->b2, h2, sum, second, on);
    }
    for (int j = 0; j < 2; j++)
        store(margin + j * LANES, first[j]), store(margin + H + j * LANES, second[j]);
}

static void step3(const float *x, const int *label, int t, int never, classifier *p, float rate,
                  streams s) {
    _Alignas(64) float h1[BATCH2 * H], h2[BATCH2 * H], d1[BATCH2 * H], d2[BATCH2 * H];
    _Alignas(64) float back[H * H], error[LANES * BATCH2];
    float gb3[LANES] = {0};
    streams upper = {s.first + H, s.total + H, s.peak + H, s.active + H};
    layer(x, IN3, p->w1, p->b1, h1, t, never, s);
    layer(h1, H, p->w2, p->b2, h2, t, never, upper);
    classify(p, h2, label, error, gb3);
    vec gb1[2], gb2[2], g[ROWS][2], zero = {0};
    backward(error, 1, BATCH2, p->w3, CLASSES, h2, d2, gb2);
    transposed(p->w2, H, H, back);
    backward(d2, H, 1, back, H, h1, d1, gb1);
    descend_matrix(p->w1, 0, x, IN3, d1, rate);
    descend_matrix(p->w2, 0, h1, H, d2, rate);
    for (int c = 0; c < CLASSES; c += ROWS) { /* Rows beyond the last class are not used. */
        product(error + c * BATCH2, BATCH2, 1, h2, BATCH2, zero, zero, g);
        for (int r = 0; r < ROWS && c + r < CLASSES; r++)
            for (int j = 0; j < 2; j++)
                descend(p->w3 + (c + r) * H + j * LANES, 0, g[r][j], rate);
    }
    for (int j = 0; j < 2; j++)
        descend(p->b1 + j * LANES, 0, gb1[j], rate), descend(p->b2 + j * LANES, 0, gb2[j], rate);
    descend(p->b3, 0, load(gb3), rate);
}

void w3(int seeds, int cells, int length, int steps, int every, int examples, int biased,
        const float *x, const int *label, const float *probe, const float *w10, const float *w20,
        const float *w30, const float *rate, const float *b0, float *parameters, int *first,
        float *total, float *peak, float *active, float *margin, int *dead) {
#pragma omp parallel for schedule(dynamic)
    for (int i = 0; i < seeds * cells; i++) {
        int s = i / cells, c = i % cells;
        long u = (long)i * 2 * H;
        const float *seen = probe + (long)s * examples * IN3;
        classifier p;
        memset(&p, 0, sizeof p);
        memcpy(p.w1, w10 + (long)s * IN3 * H, sizeof p.w1);
        memcpy(p.w2, w20 + (long)s * H * H, sizeof p.w2);
        for (int j = 0; j < H; j++)
            for (int k = 0; k < CLASSES; k++) p.w3[k * H + j] = w30[((long)s * H + j) * CLASSES + k];
        for (int j = 0; j < biased; j++) p.b2[j] = b0[c];
        for (int j = 0; j < 2 * H; j++) {
            first[u + j] = steps, peak[u + j] = -INFINITY;
            total[u + j] = active[u + j] = 0, dead[u + j] = 0;
        }
        for (int t = 0; t < steps; t++) {
            if (t % every == 0) {
                evaluate(&p, seen, examples, margin + u);
                for (int j = 0; j < 2 * H; j++) dead[u + j] += margin[u + j] <= 0 ? every : 0;
            }
            long at = (long)s * length + t;
            step3(x + at * BATCH2 * IN3, label + at * BATCH2, t, steps, &p, rate[c],
                  (streams){first + u, total + u, peak + u, active + u});
        }
        evaluate(&p, seen, examples, margin + u);
        float *out = parameters + (long)i * PARAMETERS3;
        memcpy(out, p.w1, 4 * (IN3 * H + H + H * H + H));
        out += IN3 * H + H + H * H + H;
        for (int j = 0; j < H; j++)
            for (int k = 0; k < CLASSES; k++) out[j * CLASSES + k] = p.w3[k * H + j];
        memcpy(out + H * CLASSES, p.b3, 4 * CLASSES);
    }
}

/* ---- The peak: independent fused multiply-adds; returns the number of operations done ---- */

double peak(long iterations) {
    double flop = 0;
    float sink = 0;
#pragma omp parallel reduction(+ : flop, sink)
    {
        vec a[12], f = splat(0.999f), g = splat(0.001f);
        for (int i = 0; i < 12; i++) a[i] = splat(2.0f + i);
        for (long k = 0; k < iterations / 12; k++) {
#pragma GCC unroll 12
            for (int i = 0; i < 12; i++) a[i] = a[i] * f + g;
        }
        for (int i = 0; i < 12; i++) sink += a[i][0];
        flop += (double)(iterations / 12) * 12 * LANES * 2;
    }
    return sink == 12345 ? 0 : flop;
}
