// The training steps between two evaluations of a block of lanes, on CPU.
//
// The plain JAX path is the definition; this file computes the same mathematics in another order of
// summation. It covers dense networks with ReLU or leaky ReLU, half the mean squared error or cross
// entropy, and SGD, heavy-ball, Nesterov and Adam with coupled or decoupled decay.
//
// Layout. Every width is padded with zeros to a multiple of the vector length L, the batch to a
// multiple of PAD rows. Zeros stay zeros under every update rule, so padding never reaches a
// number that is returned. A weight matrix is [inputs][outputs], the columns contiguous; the output
// layer is stored transposed, [outputs][inputs], because it has few outputs.
//
// Order of the loops: some steps' minibatches are gathered once; then every lane trains on them. Each
// lane is computed alone, so its bits do not depend on its neighbours.
//
// Vectors are GCC's and Clang's extension: `vec` is L floats, and arithmetic is elementwise.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#define INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__)
constexpr int L = 16, ROWS = 8;  // ROWS x 2 accumulators fit into 32 registers
#elif defined(__AVX__)
constexpr int L = 8, ROWS = 4;
#elif defined(__ARM_NEON)
constexpr int L = 4, ROWS = 8;
#else
constexpr int L = 4, ROWS = 4;
#endif
constexpr int PAD = 16;                // rows of a batch; a multiple of L and of ROWS
constexpr long CHUNK_BYTES = 1 << 16;  // of gathered minibatches, which all lanes read again

typedef float vec __attribute__((vector_size(4 * L), aligned(4 * L)));
typedef float loose __attribute__((vector_size(4 * L), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * L), aligned(4 * L)));

INLINE vec splat(float a) { return a - vec{}; }
INLINE vec load(const float* p) { return *(const loose*)p; }
INLINE void store(float* p, vec a) { *(loose*)p = a; }
INLINE vec keep(vec a, ivec mask) { return (vec)((ivec)a & mask); }
INLINE vec choose(ivec mask, vec a, vec b) { return (vec)(((ivec)a & mask) | ((ivec)b & ~mask)); }
INLINE vec larger(vec a, vec b) { return a > b ? a : b; }  // b where either is not a number
INLINE float total(vec a) {
  float sum = 0;
  for (int l = 0; l < L; l++) sum += a[l];
  return sum;
}
INLINE bool any(ivec mask) {
  int64_t parts[L / 2], found = 0;
  std::memcpy(parts, &mask, sizeof parts);
  for (int64_t part : parts) found |= part;
  return found != 0;
}
INLINE ivec lanes() {
  ivec a{};
  for (int l = 0; l < L; l++) a[l] = l;
  return a;
}
INLINE ivec below(int count) { return lanes() < count; }
INLINE int padded(int n) { return (n + L - 1) / L * L; }

INLINE void transpose(vec a[L]) {
#if defined(__clang__)
  vec c[L];
  for (int i = 0; i < L; i++)
    for (int j = 0; j < L; j++) c[i][j] = a[j][i];
  std::memcpy(a, c, sizeof c);
#else
  const ivec lane = lanes();
#pragma GCC unroll 4
  for (int s = 1; s < L; s *= 2) {  // exchange blocks of s x s
    const ivec odd = (lane & s) != 0, low = lane + (odd & (L - s)), high = low + s;
#pragma GCC unroll 16
    for (int i = 0; i < L; i++)
      if (!(i & s)) {
        vec p = a[i], q = a[i + s];
        a[i] = __builtin_shuffle(p, q, low);
        a[i + s] = __builtin_shuffle(p, q, high);
      }
  }
#endif
}

// out [cols][rows] = a [rows][cols] transposed; both multiples of L.
static void transposed(const float* a, int rows, int cols, float* out) {
  for (int i = 0; i < rows; i += L)
    for (int j = 0; j < cols; j += L) {
      vec tile[L];
#pragma GCC unroll 16
      for (int r = 0; r < L; r++) tile[r] = load(a + (i + r) * (long)cols + j);
      transpose(tile);
#pragma GCC unroll 16
      for (int r = 0; r < L; r++) store(out + (j + r) * (long)rows + i, tile[r]);
    }
}

// e^x for x <= 0 or not a number, and log x for finite x >= 1, both to about an ulp (Cephes' expf and
// logf, S. L. Moshier; here in vectors).
INLINE vec exponential(vec x) {
  x = larger(splat(-87.0f), x);
  const ivec n = __builtin_convertvector(choose(x == x, x * 1.44269504f - 0.5f, vec{}), ivec);
  const vec k = __builtin_convertvector(n, vec);
  const vec r = x - k * 0.693359375f + k * 2.12194440e-4f;
  vec p = 1.9875691500e-4f * r + 1.3981999507e-3f;
  p = ((p * r + 8.3334519073e-3f) * r + 4.1665795894e-2f) * r + 1.6666665459e-1f;
  p = (p * r + 5.0000001201e-1f) * r * r + r + 1.0f;
  return p * (vec)((n + 127) << 23);
}
INLINE vec logarithm(vec x) {
  const ivec bits = (ivec)x;
  vec m = (vec)((bits & 0x007fffff) | 0x3f000000);  // in [0.5, 1)
  vec e = __builtin_convertvector((bits >> 23) - 126, vec);
  const ivec small = m < 0.707106781f;
  e -= keep(splat(1.0f), small);
  m = m + keep(m, small) - 1.0f;
  vec p = 7.0376836292e-2f * m - 1.1514610310e-1f;
  p = ((p * m + 1.1676998740e-1f) * m - 1.2420140846e-1f) * m + 1.4249322787e-1f;
  p = ((p * m - 1.6668057665e-1f) * m + 2.0000714765e-1f) * m - 2.4999993993e-1f;
  p = (p * m + 3.3333331174e-1f) * m;
  const vec square = m * m;
  const vec y = p * square - 2.12194440e-4f * e - 0.5f * square + m + 0.693359375f * e;
  return choose(x - x == 0.0f, y, x - x + x);  // inf and NaN stay
}

// ---- What one call is asked for ----

enum Rule { SGD, HEAVY_BALL, NESTEROV, ADAM };
enum Decay { NONE, COUPLED, DECOUPLED };
constexpr float ADAM_B2 = 0.999f, ADAM_REST2 = 0.001f, ADAM_EPSILON = 1e-8f;

INLINE int memories(int rule) { return rule == SGD ? 0 : rule == ADAM ? 2 : 1; }

struct Problem {
  std::vector<int> dims;    // inputs, hidden widths, outputs
  std::vector<bool> biases;  // of every layer
  int rule, decay;
  bool decay_weights, decay_biases, classes;
  float slope;  // of the activation below 0
  int lanes, examples, steps, batch, first_step;
  const float* inputs;        // [examples, dims[0]]
  const float* values;        // [examples, outputs], or
  const int32_t* labels;      // [examples]
  const int32_t* indices;     // [steps, batch]
  const float* factors;       // of the schedule on the rates, [steps]
  const float* corrections;   // of Adam's two memories for their start, [2][steps, lanes]
  const float *rate, *momentum, *rest, *weight_decay;  // [lanes]; rest is 1 - momentum
  // Of the minibatch, every step: [lanes, units], read and written.
  float *mean, *peak, *active;
  int32_t* first;
  // Of the steps' losses, [lanes]: their mean, and the first step whose loss is not finite (or -1).
  float* loss;
  int32_t* diverged;
  // Parameters and then the optimizer's memories, each kernel and bias of every layer with a
  // leading [lanes] axis; read from `from`, written to `to`.
  std::vector<const float*> from;
  std::vector<float*> to;

  int layers() const { return (int)dims.size() - 1; }
  int outputs() const { return dims.back(); }
  int units() const {
    int sum = 0;
    for (int i = 1; i < layers(); i++) sum += dims[i];
    return sum;
  }
  int example(int step, int row) const {  // as JAX, an index beyond the end is the last
    return std::clamp(indices[(long)step * batch + row], 0, examples - 1);
  }
};

struct Free {
  void operator()(float* p) const { ::operator delete[](p, std::align_val_t(64)); }
};
typedef std::unique_ptr<float[], Free> Floats;
static Floats floats(long count) {  // zeros, aligned
  float* p = (float*)::operator new[](4 * (count + L), std::align_val_t(64));
  std::memset(p, 0, 4 * (count + L));
  return Floats(p);
}

// ---- The update rules ----

struct Pace {
  vec rate, momentum, rest, decay, correction1, correction2;
};

template <int RULE> INLINE void descend(int decay, vec& p, vec& m, vec& v, vec g, const Pace& a) {
  if (decay == COUPLED) g += a.decay * p;
  vec step = g;
  if (RULE == HEAVY_BALL || RULE == NESTEROV) {
    m = g + a.momentum * m;
    step = RULE == NESTEROV ? g + a.momentum * m : m;
  }
  if (RULE == ADAM) {
    m = a.rest * g + a.momentum * m;
    v = ADAM_REST2 * (g * g) + ADAM_B2 * v;
    vec root = v / a.correction2;
    for (int l = 0; l < L; l++) root[l] = std::sqrt(root[l]);
    step = (m / a.correction1) / (root + ADAM_EPSILON);
  }
  vec change = a.rate * step;
  if (decay == DECOUPLED) change += a.rate * a.decay * p;
  p -= change;
}
#define BY_RULE(rule, CALL) \
  switch (rule) {           \
    case SGD: CALL(SGD); break; \
    case HEAVY_BALL: CALL(HEAVY_BALL); break; \
    case NESTEROV: CALL(NESTEROV); break; \
    default: CALL(ADAM); \
  }

// ---- Products ----

// acc[r] = start + sum_k a[r * row + k * step] b[k * width], for R rows r and N (1 or 2) vectors of
// columns.
template <int R, int N>
INLINE void product(const float* a, long row, long step, const float* b, long width, int depth,
                    const vec* start, vec acc[R][N]) {
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int j = 0; j < N; j++) acc[r][j] = start[j];
  // Rows 4 to 7 from a pointer of their own, and 3 rows as one stride: with one address per row GCC
  // runs out of registers. (An empty asm hides how they were made.)
  const float* a4 = a + 4 * row;
  long three = 3 * row;
  asm("" : "+r"(a4), "+r"(three));
  for (int k = 0; k < depth; k++, a += step, a4 += step, b += width) {
    // By name: GCC keeps an array of two in memory here.
    const vec c0 = load(b), c1 = load(b + (N - 1) * L);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const float f = (r < 4 ? a : a4)[r % 4 == 3 ? three : r % 4 * row];
      acc[r][0] += f * c0;
      if (N == 2) acc[r][N - 1] += f * c1;
    }
  }
}
// CALL(N, c) for the columns c of a padded width, N vectors at a time.
#define BY_COLUMNS(width, CALL) \
  {                             \
    int c = 0;                  \
    for (; c + 2 * L <= (width); c += 2 * L) CALL(2, c); \
    if (c < (width)) CALL(1, c); \
  }

// Where the gradient of a matrix [count][width] goes: into `out` or, without one, down the rule with
// the matrix itself, p, and its memories.
struct Descent {
  float* out;
  int rule, decay;
  float *p, *m, *v;
  const Pace& pace;

  Descent at(long place) const {
    return {out ? out + place : out, rule, decay, p + place, m + place, v + place, pace};
  }
};

template <int RULE>
INLINE void descend_at(long i, int decay, float* p, float* m, float* v, vec g, const Pace& pace) {
  vec w = load(p + i), a{}, b{};
  if (RULE != SGD) a = load(m + i);
  if (RULE == ADAM) b = load(v + i);
  descend<RULE>(decay, w, a, b, g, pace);
  store(p + i, w);
  if (RULE != SGD) store(m + i, a);
  if (RULE == ADAM) store(v + i, b);
}

// The gradient a' b [count][width], from a [batch][row] (its first `count` columns) and b
// [batch][width].
template <int R, int N>
INLINE void outer_block(int batch, const float* a, int row, const float* b, int width,
                        const Descent& to) {
  const vec zero[N] = {};
  vec g[R][N];
  product<R, N>(a, 1, row, b, width, batch, zero, g);
  if (to.out || to.rule == ADAM) {
    vec kept[R][N];  // of a long rule: one loop, not as many copies
    float* out = to.out ? to.out : (float*)kept;
    const long step = to.out ? width : N * L;
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
      for (int j = 0; j < N; j++) store(out + r * step + j * L, g[r][j]);
    if (to.out) return;
#pragma GCC unroll 1
    for (int i = 0; i < R * N; i++)
      descend_at<ADAM>(i / N * (long)width + i % N * L, to.decay, to.p, to.m, to.v, kept[i / N][i % N],
                       to.pace);
    return;
  }
#define CALL(RULE)                                                                             \
  _Pragma("GCC unroll 8") for (int r = 0; r < R; r++)                                          \
      _Pragma("GCC unroll 2") for (int j = 0; j < N; j++)                                      \
          descend_at<RULE>(r * (long)width + j * L, to.decay, to.p, to.m, to.v, g[r][j], to.pace)
  switch (to.rule) {
    case SGD: CALL(SGD); break;
    case HEAVY_BALL: CALL(HEAVY_BALL); break;
    default: CALL(NESTEROV);
  }
#undef CALL
}
template <int N>
static void outer(int batch, const float* a, int row, int count, const float* b, int width,
                  const Descent& to) {
  int i = 0;
#define ROWS_OF(R)            \
  for (; i + R <= count; i += R) \
  outer_block<R, N>(batch, a + i, row, b, width, to.at(i * (long)width))
  ROWS_OF(ROWS);
  ROWS_OF(4);
  ROWS_OF(2);
  ROWS_OF(1);
#undef ROWS_OF
}

// ---- A network: one lane ----

struct Layer {
  int in, out;     // widths
  int rows, cols;  // the same, padded
  long w, b;       // places in the packed parameters
  int unit;        // place of the statistics
  bool has_bias;
};

struct Seen {  // of one lane, padded
  float *mean, *peak, *active;
  int32_t* first;
};

// ROWS rows of h = f(z), z = in w + start; those below `batch` join the sum of z, its largest value
// and the count of z > 0. WHOLE: all of them do.
template <int N, bool LEAKY, bool WHOLE>
INLINE void forward_rows(int batch, int n, const float* in, int row, const float* w, int width,
                         int depth, float slope, const vec* start, float* h, vec* sum, vec* top,
                         ivec* on) {
  vec z[ROWS][N];
  product<ROWS, N>(in + n * (long)row, row, 1, w, width, depth, start, z);
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
    for (int j = 0; j < N; j++) {
      const vec low = LEAKY ? slope * z[r][j] : vec{};
      store(h + (n + r) * (long)width + j * L, z[r][j] <= 0.0f ? low : z[r][j]);
      if (WHOLE || n + r < batch) {
        sum[j] += z[r][j];
        top[j] = larger(top[j], z[r][j]);
        on[j] -= z[r][j] > 0.0f;
      }
    }
}

// h = f(z), z = in w + b, and the statistics of z, for the columns [c, c + N L).
template <int N, bool LEAKY>
static void forward(const Problem& p, const Layer& a, int c, const float* params, const float* in,
                    int row, float* h, Seen s, int step) {
  vec start[N], sum[N], top[N];
  ivec on[N];
  const int batch = p.batch, width = a.cols, depth = a.in;
  const float *w = params + a.w + c, slope = p.slope;
  h += c;
#pragma GCC unroll 2
  for (int j = 0; j < N; j++) {
    start[j] = load(params + a.b + c + j * L);
    sum[j] = vec{}, top[j] = splat(-INFINITY), on[j] = ivec{};
  }
  int n = 0;
  for (; n + ROWS <= batch; n += ROWS)
    forward_rows<N, LEAKY, true>(batch, n, in, row, w, width, depth, slope, start, h, sum, top, on);
  if (n < batch)
    forward_rows<N, LEAKY, false>(batch, n, in, row, w, width, depth, slope, start, h, sum, top, on);
  const float scale = 1.0f / batch;
#pragma GCC unroll 2
  for (int j = 0; j < N; j++) {
    const int u = a.unit + c + j * L;
    store(s.mean + u, load(s.mean + u) + sum[j] * scale);
    store(s.active + u, load(s.active + u) + __builtin_convertvector(on[j], vec) * scale);
    const vec peak = load(s.peak + u);
    const vec most = peak == peak ? larger(peak, top[j]) : peak;
    store(s.peak + u, most);
    ivec when;
    std::memcpy(&when, s.first + u, sizeof when);
    const ivec now = (when < 0) & (most > 0.0f);
    when = (when & ~now) | (step & now);
    std::memcpy(s.first + u, &when, sizeof when);
  }
}

// d f'(z) in place of h = f(z) [batch][below], and its sum over the batch; f'(z) by the sign of h.
template <bool LEAKY> INLINE vec back_through(float slope, vec a, float* h, vec& sum) {
  const vec z = load(h);
  const vec q = LEAKY ? (z >= 0.0f ? a : slope * a) : keep(a, z > 0.0f);
  sum += q;
  store(h, q);
  return z;
}

// d = above [batch][width] back [width][below].
template <int N, bool LEAKY>
static void backward(const Problem& p, int rows, const float* above, int row, int width,
                     const float* back, int below, int c, float* h, float* sums) {
  vec zero[N] = {}, sum[N] = {};
  const float slope = p.slope;
  for (int n = 0; n < rows; n += ROWS) {
    vec a[ROWS][N];
    product<ROWS, N>(above + n * (long)row, row, 1, back + c, below, width, zero, a);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
      for (int j = 0; j < N; j++)
        back_through<LEAKY>(slope, a[r][j], h + (n + r) * (long)below + c + j * L, sum[j]);
  }
#pragma GCC unroll 2
  for (int j = 0; j < N; j++) store(sums + c + j * L, sum[j]);
}

// The same below a single output with the weights w, and the gradient of these.
template <int N, bool LEAKY>
static void backward_one(const Problem& p, int rows, const float* error, const float* w, int below,
                         int c, float* h, float* gradient, float* sums) {
  vec v[N], g[N] = {}, sum[N] = {};
  const float slope = p.slope;
#pragma GCC unroll 2
  for (int j = 0; j < N; j++) v[j] = load(w + c + j * L);
#pragma GCC unroll 4
  for (int n = 0; n < rows; n++) {
    const float e = error[n];
#pragma GCC unroll 2
    for (int j = 0; j < N; j++)
      g[j] += e * back_through<LEAKY>(slope, e * v[j], h + n * (long)below + c + j * L, sum[j]);
  }
#pragma GCC unroll 2
  for (int j = 0; j < N; j++) {
    store(gradient + c + j * L, g[j]);
    store(sums + c + j * L, sum[j]);
  }
}

// z [rows][width] = in [rows][row] w [depth][width] + b.
template <int N>
static void logits(int rows, const float* in, int row, const float* w, int width, int depth,
                   const float* b, float* out) {
  vec start[N], z[ROWS][N];
#pragma GCC unroll 2
  for (int j = 0; j < N; j++) start[j] = load(b + j * L);
  for (int n = 0; n < rows; n += ROWS) {
    product<ROWS, N>(in + n * (long)row, row, 1, w, width, depth, start, z);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
      for (int j = 0; j < N; j++) store(out + (n + r) * (long)width + j * L, z[r][j]);
  }
}

struct Network {
  const Problem& p;
  std::vector<Layer> layers;
  long size = 0;   // packed parameters
  int units = 0;   // padded
  int rows;        // of the padded batch
  int written;     // of these, the rows that a forward pass writes: those below stay 0 in `h`, or what
                   // an infinite weight makes of them would be in the next lane's sums
  Floats gradient, back, tile;
  std::vector<Floats> h;  // of every hidden layer: what it puts out, then the loss gradient by its z
  Floats error;           // the loss gradient by the outputs

  explicit Network(const Problem& p) : p(p), rows((p.batch + PAD - 1) / PAD * PAD),
        written((p.batch + ROWS - 1) / ROWS * ROWS) {
    long largest = 0;
    for (int i = 0; i < p.layers(); i++) {
      const bool last = i + 1 == p.layers();
      Layer a{p.dims[i], p.dims[i + 1], padded(p.dims[i]), padded(p.dims[i + 1]), size, 0, units,
              (bool)p.biases[i]};
      a.b = size + (long)a.rows * a.cols;
      size = a.b + a.cols;
      units += last ? 0 : a.cols;
      largest = std::max(largest, (long)a.rows * a.cols);
      layers.push_back(a);
      (last ? error : h.emplace_back()) = floats((long)rows * a.cols);
    }
    gradient = floats(size), back = floats(largest), tile = floats((long)L * layers.back().cols);
  }

  // Parameters of one lane between JAX's leaves and the packed form; `slot` 0 are the parameters,
  // then the memories.
  template <class Move> void each(int slot, Move move) const {
    int leaf = slot * leaves();
    for (const Layer& a : layers) {
      const bool last = &a == &layers.back();
      const long row = last ? 1 : a.cols, column = last ? a.rows : 1;
      move(leaf++, a.in, a.out, a.w, row, column);
      if (a.has_bias) move(leaf++, 1, a.out, a.b, 0, 1);
    }
  }
  int leaves() const {
    int count = 0;
    for (const Layer& a : layers) count += 1 + a.has_bias;
    return count;
  }
  void pack(int slot, long lane, float* to) const {
    each(slot, [&](int leaf, int rows, int cols, long at, long row, long column) {
      const float* from = p.from[leaf] + lane * rows * cols;
      for (int i = 0; i < rows; i++)
        for (int j = 0; j < cols; j++) to[at + i * row + j * column] = from[i * (long)cols + j];
    });
  }
  void unpack(int slot, long lane, const float* from) const {
    each(slot, [&](int leaf, int rows, int cols, long at, long row, long column) {
      float* to = p.to[leaf] + lane * rows * cols;
      for (int i = 0; i < rows; i++)
        for (int j = 0; j < cols; j++) to[i * (long)cols + j] = from[at + i * row + j * column];
    });
  }
  template <class T> void move_units(T* outside, T* packed, bool in) const {
    for (const Layer& a : layers) {
      if (&a == &layers.back()) break;
      if (in) std::copy_n(outside, a.out, packed + a.unit);
      else std::copy_n(packed + a.unit, a.out, outside);
      outside += a.out;
    }
  }

  // One step on a gathered minibatch: x [rows][row], targets; returns the loss.
  template <bool LEAKY>
  float step(float* params, float* m, float* v, const float* x, int row, const float* y,
             const int32_t* labels, const Pace& pace, Seen s, int number) {
    const int last = (int)layers.size() - 1;
    for (int i = 0; i < last; i++) {
      const Layer& a = layers[i];
      const float* in = i ? h[i - 1].get() : x;
      const int in_row = i ? a.rows : row;
#define CALL(N, c) forward<N, LEAKY>(p, a, c, params, in, in_row, h[i].get(), s, number)
      BY_COLUMNS(a.cols, CALL)
#undef CALL
    }
    const Layer& top = layers[last];
    float* active = h[last - 1].get();
    const float loss = p.classes ? classify(params, active, labels)
                       : top.out == 1 ? regress_one(params, active, y)
                                      : regress(params, active, y);
    if (!std::isfinite(loss)) see_nan(s, number);
    const int decay_weights = p.decay_weights ? p.decay : NONE;
    if (error_row() == 1) {
#define CALL(N, c) backward_one<N, LEAKY>(p, written, error.get(), params + top.w, top.rows, c, active, \
                                          gradient.get() + top.w, sums(last - 1))
      BY_COLUMNS(top.rows, CALL)
#undef CALL
      vec sum{};
      for (int n = 0; n < rows; n += L) sum += load(error.get() + n);
      gradient[top.b] = total(sum);
    } else {
      output_gradient(active, pace);
#define CALL(N, c) backward<N, LEAKY>(p, written, error.get(), top.cols, top.out, params + top.w, \
                                      top.rows, c, active, sums(last - 1))
      BY_COLUMNS(top.rows, CALL)
#undef CALL
    }
    apply(top.w, top.b, decay_weights, params, m, v, pace);
    apply_bias(top, params, m, v, pace);
    for (int i = last - 1; i >= 0; i--) {
      const Layer& a = layers[i];
      const float* in = i ? h[i - 1].get() : x;
      const int in_row = i ? a.rows : row;
      if (i) transposed(params + a.w, a.rows, a.cols, back.get());
      const Descent down{nullptr, p.rule, decay_weights, params + a.w, m + a.w, v + a.w, pace};
#define CALL(N, c) outer<N>(written, in, in_row, a.in, h[i].get() + c, a.cols, down.at(c))
      BY_COLUMNS(a.cols, CALL)
#undef CALL
      apply_bias(a, params, m, v, pace);
      if (!i) break;
#define CALL(N, c) backward<N, LEAKY>(p, written, h[i].get(), a.cols, a.out, back.get(), a.rows, c, \
                                      h[i - 1].get(), sums(i - 1))
      BY_COLUMNS(a.rows, CALL)
#undef CALL
    }
    return loss;
  }

  // A maximum that one NaN makes NaN: what the statistics miss, in a step whose loss is not finite.
  void see_nan(Seen s, int number) {
    for (size_t i = 0; i < h.size(); i++)
      for (int c = 0; c < layers[i].cols; c += L) {
        ivec nan{}, when;
        for (int n = 0; n < p.batch; n++) {
          const vec z = load(h[i].get() + n * (long)layers[i].cols + c);
          nan |= z != z;
        }
        const int u = layers[i].unit + c;
        store(s.peak + u, choose(nan, splat(NAN), load(s.peak + u)));
        std::memcpy(&when, s.first + u, sizeof when);
        when |= nan & (when == number);  // -1
        std::memcpy(s.first + u, &when, sizeof when);
      }
  }

  float* sums(int layer) { return gradient.get() + layers[layer].b; }

  // The rows of the error by the outputs: a single output's are contiguous.
  int error_row() const { return layers.back().out == 1 && !p.classes ? 1 : layers.back().cols; }

  // Gradients of the output layer [outputs][inputs] and of its bias.
  void output_gradient(const float* active, const Pace& pace) {
    const Layer& a = layers.back();
    float* out = gradient.get() + a.w;
    const Descent to{out, p.rule, NONE, out, out, out, pace};
#define CALL(N, c) outer<N>(written, error.get(), a.cols, a.out, active + c, a.rows, to.at(c))
    BY_COLUMNS(a.rows, CALL)
#undef CALL
    for (int c = 0; c < a.cols; c += L) {
      vec sum{};
      for (int n = 0; n < rows; n++) sum += load(error.get() + n * (long)a.cols + c);
      store(gradient.get() + a.b + c, sum);
    }
  }

  // error = (output - y) / batch for the one output of a regression; its loss.
  float regress_one(const float* params, const float* active, const float* y) {
    const Layer& a = layers.back();
    const float* w = params + a.w;
    vec squares{};
    for (int n = 0; n < rows; n += L) {
      vec z[L];
#pragma GCC unroll 16
      for (int r = 0; r < L; r++) z[r] = load(active + (n + r) * (long)a.rows) * load(w);
      for (int c = L; c < a.rows; c += L)
#pragma GCC unroll 16
        for (int r = 0; r < L; r++) z[r] += load(active + (n + r) * (long)a.rows + c) * load(w + c);
      transpose(z);
      vec e = splat(params[a.b]);
#pragma GCC unroll 16
      for (int r = 0; r < L; r++) e += z[r];
      e = keep(e - load(y + n), below(p.batch - n));
      squares += e * e;
      e *= 1.0f / p.batch;
      store(error.get() + n, e);
    }
    return total(squares) * (0.5f / p.batch);
  }

  // logits [rows][cols] of the output layer, into `error`.
  void outputs(const float* params, const float* active) {
    const Layer& a = layers.back();
    transposed(params + a.w, a.cols, a.rows, back.get());
#define CALL(N, c) \
  logits<N>(rows, active, a.rows, back.get() + c, a.cols, a.in, params + a.b + c, error.get() + c)
    BY_COLUMNS(a.cols, CALL)
#undef CALL
  }

  float regress(const float* params, const float* active, const float* y) {
    const Layer& a = layers.back();
    outputs(params, active);
    vec squares{};
    const float scale = 1.0f / ((float)p.batch * a.out);
    for (int n = 0; n < rows; n++)
      for (int c = 0; c < a.cols; c += L) {
        const long o = n * (long)a.cols + c;
        vec e = n < p.batch ? load(error.get() + o) - load(y + o) : vec{};
        e = keep(e, below(a.out - c));
        squares += e * e;
        store(error.get() + o, e * scale);
      }
    return total(squares) * (0.5f * scale);
  }

  // error = (softmax(logits) - one-hot) / batch, L rows at a time as lanes; the mean cross entropy.
  float classify(const float* params, const float* active, const int32_t* labels) {
    const Layer& a = layers.back();
    outputs(params, active);
    float* z = tile.get();  // [class][row]
    vec loss{};
    for (int n = 0; n < rows; n += L) {
      for (int c = 0; c < a.cols; c += L) {
        vec part[L];
#pragma GCC unroll 16
        for (int r = 0; r < L; r++) part[r] = load(error.get() + (n + r) * (long)a.cols + c);
        transpose(part);
#pragma GCC unroll 16
        for (int r = 0; r < L; r++) store(z + (c + r) * L, part[r]);
      }
      ivec label;
      std::memcpy(&label, labels + n, sizeof label);
      vec most = load(z), sum{}, right{};
      for (int k = 1; k < a.out; k++) most = larger(most, load(z + k * L));
      for (int k = 0; k < a.out; k++) {
        const vec low = load(z + k * L) - most, e = exponential(low);
        right += keep(low, label == k);
        sum += e;
        store(z + k * L, e);
      }
      const ivec real = below(p.batch - n);
      loss += keep(logarithm(sum) - right, real);
      const vec inverse = keep((1.0f / p.batch) / sum, real), one = splat(1.0f / p.batch);
      for (int k = 0; k < a.out; k++) {
        const vec e = load(z + k * L) * inverse - keep(one, label == k);
        store(z + k * L, keep(e, real));
      }
      for (int k = a.out; k < a.cols; k++) store(z + k * L, vec{});
      for (int c = 0; c < a.cols; c += L) {
        vec part[L];
#pragma GCC unroll 16
        for (int r = 0; r < L; r++) part[r] = load(z + (c + r) * L);
        transpose(part);
#pragma GCC unroll 16
        for (int r = 0; r < L; r++) store(error.get() + (n + r) * (long)a.cols + c, part[r]);
      }
    }
    return total(loss) / p.batch;
  }

  void apply_bias(const Layer& a, float* params, float* m, float* v, const Pace& pace) {
    if (!a.has_bias) std::memset(gradient.get() + a.b, 0, 4 * a.cols);
    apply(a.b, a.b + a.cols, p.decay_biases ? p.decay : NONE, params, m, v, pace);
  }
  void apply(long from, long to, int decay, float* params, float* m, float* v, const Pace& pace) {
#define CALL(RULE)                   \
  for (long i = from; i < to; i += L) \
  descend_at<RULE>(i, decay, params, m, v, load(gradient.get() + i), pace)
    BY_RULE(p.rule, CALL)
#undef CALL
  }
};

INLINE Pace pace_of(const Problem& p, int step, int lane) {
  const long at = (long)step * p.lanes + lane, all = (long)p.steps * p.lanes;
  const bool adam = p.rule == ADAM;
  return {splat(p.rate[lane] * p.factors[step]), splat(p.momentum[lane]), splat(p.rest[lane]),
          splat(p.weight_decay[lane]), splat(adam ? p.corrections[at] : 1.0f),
          splat(adam ? p.corrections[all + at] : 1.0f)};
}

static void train_networks(const Problem& p) {
  Network net(p);
  const int slots = 1 + memories(p.rule), row = padded(p.dims[0]);
  const int y_row = p.outputs() == 1 ? 1 : padded(p.outputs());
  const long x_size = (long)net.rows * row, y_size = (long)net.rows * (p.classes ? 1 : y_row);
  const int chunk = (int)std::clamp(CHUNK_BYTES / (4 * (x_size + y_size)), 1L, (long)p.steps);
  Floats x = floats(chunk * x_size), y = floats(p.classes ? 0 : chunk * y_size);
  std::vector<int32_t> labels(p.classes ? chunk * y_size + L : 0, -1);
  Floats state = floats((long)p.lanes * slots * net.size);
  Floats seen = floats((long)p.lanes * 3 * net.units);
  std::vector<int32_t> first((long)p.lanes * net.units + L);
  std::vector<double> losses(p.lanes);
  std::fill_n(p.diverged, p.lanes, -1);
  auto seen_of = [&](long lane) {
    float* s = seen.get() + lane * 3 * net.units;
    return Seen{s, s + net.units, s + 2 * net.units, first.data() + lane * net.units};
  };
  auto move_lane = [&](long lane, bool in) {
    const Seen s = seen_of(lane);
    const long at = lane * p.units();
    net.move_units(p.mean + at, s.mean, in), net.move_units(p.peak + at, s.peak, in);
    net.move_units(p.active + at, s.active, in), net.move_units(p.first + at, s.first, in);
    for (int slot = 0; slot < slots; slot++) {
      float* packed = state.get() + (lane * slots + slot) * net.size;
      if (in) net.pack(slot, lane, packed);
      else net.unpack(slot, lane, packed);
    }
  };
  for (int lane = 0; lane < p.lanes; lane++) move_lane(lane, true);
  for (int t0 = 0; t0 < p.steps; t0 += chunk) {
    const int count = std::min(chunk, p.steps - t0);
    for (int t = 0; t < count; t++)
      for (int n = 0; n < p.batch; n++) {
        const long e = p.example(t0 + t, n);
        std::copy_n(p.inputs + e * p.dims[0], p.dims[0], x.get() + t * x_size + (long)n * row);
        if (p.classes) labels[t * y_size + n] = p.labels[e];
        else
          std::copy_n(p.values + e * p.outputs(), p.outputs(),
                      y.get() + t * y_size + (long)n * y_row);
      }
    for (int lane = 0; lane < p.lanes; lane++) {
      float* params = state.get() + (long)lane * slots * net.size;
      float* m = params + (slots > 1 ? net.size : 0);  // where a rule has none, never touched
      float* v = params + (slots > 2 ? 2 * net.size : 0);
      for (int t = 0; t < count; t++) {
        auto one = p.slope != 0 ? &Network::step<true> : &Network::step<false>;
        const int now = p.first_step + t0 + t;
        const float loss = (net.*one)(params, m, v, x.get() + t * x_size, row, y.get() + t * y_size,
                                      labels.data() + t * y_size, pace_of(p, t0 + t, lane),
                                      seen_of(lane), now);
        losses[lane] += loss;
        if (!std::isfinite(loss) && p.diverged[lane] < 0) p.diverged[lane] = now;
      }
    }
  }
  for (int lane = 0; lane < p.lanes; lane++) {
    move_lane(lane, false);
    p.loss[lane] = losses[lane] / p.steps;
  }
}

// ---- Networks of one unit: the lanes of a vector are L networks, and nothing leaves registers ----

constexpr int MOST_INPUTS = 16;

// Parameters of L networks, D inputs: w [D], b, v and, with BIAS, c of the output v f(z) + c.
template <int D> struct Units {
  vec p[D + 3], m[D + 3], v[D + 3];
  vec mean, peak, active, loss;
  ivec first, diverged;
};

// Numbers of the lanes [lane, lane + L); beyond the last lane, copies of its own.
INLINE vec load_lanes(const float* a, int lane, int lanes) {
  if (lane + L <= lanes) return load(a + lane);
  vec found;
  for (int l = 0; l < L; l++) found[l] = a[std::min(lane + l, lanes - 1)];
  return found;
}
INLINE void store_lanes(float* a, int lane, int lanes, vec from) {
  if (lane + L <= lanes) return store(a + lane, from);
  for (int l = 0; lane + l < lanes; l++) a[lane + l] = from[l];
}

// What a step sums over its minibatch, of L networks: e = output - y squared; where the unit lets it
// through, e and e times every input; of z the largest and how many are > 0.
template <int D> struct Sums {
  vec g[D] = {}, gb{}, gc{}, squares{}, top = splat(-INFINITY);
  ivec on{};
};

// M more examples. Where vectors have masks, `condition ? sum : sum + a * b` is one instruction, so
// no product with 0 is made for z <= 0. NAN_TOO: right where some z is not a number, too.
template <int D, bool BIAS, bool LEAKY, bool NAN_TOO, int M>
INLINE void see(const float* x, const float* minus_y, const vec* w, vec b, vec v, vec c,
                float slope, Sums<D>& s) {
  constexpr bool MASKS = L == 16 && !LEAKY && !NAN_TOO;
  vec z[M];
#pragma GCC unroll 8
  for (int m = 0; m < M; m++) z[m] = b;
#pragma GCC unroll 16
  for (int i = 0; i < D; i++)
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) z[m] += w[i] * x[m * D + i];
#pragma GCC unroll 8
  for (int m = 0; m < M; m++, x += D) {
    const ivec off = z[m] <= 0.0f;
    const vec base = BIAS ? c + minus_y[m] : splat(minus_y[m]);
    const vec e = LEAKY ? v * (off ? slope * z[m] : z[m]) + base : off ? base : v * z[m] + base;
    const vec through = LEAKY ? (z[m] >= 0.0f ? e : slope * e)
                      : NAN_TOO ? keep(e, z[m] > 0.0f)
                      : MASKS ? e : keep(e, ~off);
    s.squares += e * e;
    if (BIAS) s.gc += e;
    if (MASKS) {
      s.on = off ? s.on : s.on + 1;
      s.gb = off ? s.gb : s.gb + through;
#pragma GCC unroll 16
      for (int i = 0; i < D; i++) s.g[i] = off ? s.g[i] : s.g[i] + through * x[i];
    } else {
      s.on -= z[m] > 0.0f;
      s.gb += through;
#pragma GCC unroll 16
      for (int i = 0; i < D; i++) s.g[i] += through * x[i];
    }
    const vec top = larger(s.top, z[m]);
    s.top = NAN_TOO ? (s.top == s.top ? (z[m] == z[m] ? top : z[m]) : s.top) : top;
  }
}

template <int D, bool BIAS, bool LEAKY, bool NAN_TOO>
INLINE Sums<D> see_all(int batch, const float* x, const float* minus_y, const vec* w, vec b, vec v,
                       vec c, float slope) {
  constexpr int M = 4;  // as many chains of sums at a time
  Sums<D> s;
  int n = 0;
  for (; n + M <= batch; n += M)
    see<D, BIAS, LEAKY, NAN_TOO, M>(x + n * D, minus_y + n, w, b, v, c, slope, s);
  for (; n < batch; n++)
    see<D, BIAS, LEAKY, NAN_TOO, 1>(x + n * D, minus_y + n, w, b, v, c, slope, s);
  return s;
}

// `count` steps on gathered minibatches x [count][batch][D], -y [count][batch], the inputs' means.
template <int D, bool BIAS, bool LEAKY>
static void unit_steps(const Problem& p, int t0, int count, const float* x, const float* y,
                       const float* mean, int group, Units<D>& u) {
  const int batch = p.batch;
  const float scale = 1.0f / batch, slope = p.slope;
  const bool adam = p.rule == ADAM;
  const vec rate = load_lanes(p.rate, group * L, p.lanes);
  const vec momentum = load_lanes(p.momentum, group * L, p.lanes);
  const vec rest = load_lanes(p.rest, group * L, p.lanes);
  const vec decay = load_lanes(p.weight_decay, group * L, p.lanes);
  vec losses{};  // of these steps: sums of sums round less
  for (int t = 0; t < count; t++, x += batch * D, y += batch, mean += D) {
    vec w[D], g[D + 3];
    for (int i = 0; i < D; i++) w[i] = u.p[i];
    const vec b = u.p[D], v = u.p[D + 1], c = u.p[D + 2];
    Sums<D> s = see_all<D, BIAS, LEAKY, false>(batch, x, y, w, b, v, c, slope);
    if (total(s.squares - s.squares) != 0)  // rare
      s = see_all<D, BIAS, LEAKY, true>(batch, x, y, w, b, v, c, slope);
    // The mean of z and sum e f(z) by linearity (f is homogeneous), without a pass over the batch.
    vec z = b, gv = b * s.gb;
    for (int i = 0; i < D; i++) {
      z += w[i] * mean[i], gv += w[i] * s.g[i];
      g[i] = s.g[i] * (v * scale);
    }
    g[D] = s.gb * (v * scale), g[D + 1] = gv * scale, g[D + 2] = s.gc * scale;
    u.mean += z;
    u.active += __builtin_convertvector(s.on, vec) * scale;
    u.peak = u.peak == u.peak ? larger(u.peak, s.top) : u.peak;
    const ivec now = (u.first < 0) & (u.peak > 0.0f);
    u.first = (u.first & ~now) | ((p.first_step + t0 + t) & now);
    const int lane = group * L;
    auto lanes_of = [&](const float* a) { return load_lanes(a, lane, p.lanes); };
    const float* start = p.corrections + (long)(t0 + t) * p.lanes;
    const Pace pace{rate * p.factors[t0 + t], momentum, rest, decay,
                    adam ? lanes_of(start) : vec{},
                    adam ? lanes_of(start + (long)p.steps * p.lanes) : vec{}};
    const vec loss = 0.5f * scale * s.squares;
    const ivec bad = (u.diverged < 0) & (loss - loss != 0.0f);
    u.diverged = (u.diverged & ~bad) | ((p.first_step + t0 + t) & bad);
    losses += loss;
#define CALL(RULE)                                                                    \
  for (int i = 0; i < D + 2 + BIAS; i++) {                                            \
    const bool decays = i == D || i == D + 2 ? p.decay_biases : p.decay_weights;      \
    descend<RULE>(decays ? p.decay : NONE, u.p[i], u.m[i], u.v[i], g[i], pace);       \
  }
    BY_RULE(p.rule, CALL)
#undef CALL
  }
  u.loss += losses;
}

template <int D, bool BIAS, bool LEAKY> static void train_units(const Problem& p) {
  const int groups = (p.lanes + L - 1) / L, in = p.dims[0];
  const int chunk = (int)std::clamp(CHUNK_BYTES / (4L * p.batch * (D + 1)), 1L, (long)p.steps);
  Floats x = floats((long)chunk * p.batch * D), y = floats((long)chunk * p.batch);
  Floats mean = floats((long)chunk * D);
  std::unique_ptr<Units<D>[]> units(new Units<D>[groups]());
  auto move = [&](bool inside) {  // between JAX's leaves and the vectors
    for (int lane = 0; lane < groups * L; lane++) {
      Units<D>& u = units[lane / L];
      const int l = lane % L, at = std::min(lane, p.lanes - 1);
      if (!inside && lane >= p.lanes) break;
      auto one = [&](auto& vector, auto* outside) {
        if (inside) vector[l] = outside[at];
        else outside[at] = vector[l];
      };
      one(u.mean, p.mean), one(u.peak, p.peak), one(u.active, p.active), one(u.first, p.first);
      for (int slot = 0; slot <= memories(p.rule); slot++) {
        vec* a = slot == 0 ? u.p : slot == 1 ? u.m : u.v;
        auto leaf = [&](int number, int size, vec* to) {
          const int i = slot * (3 + BIAS) + number;
          for (int k = 0; k < size; k++)
            if (inside) to[k][l] = p.from[i][(long)at * size + k];
            else p.to[i][(long)at * size + k] = to[k][l];
        };
        leaf(0, in, a), leaf(1, 1, a + D), leaf(2, 1, a + D + 1);
        if (BIAS) leaf(3, 1, a + D + 2);
      }
    }
  };
  move(true);
  for (int g = 0; g < groups; g++) units[g].diverged -= 1;
  for (int t0 = 0; t0 < p.steps; t0 += chunk) {
    const int count = std::min(chunk, p.steps - t0);
    for (int t = 0; t < count; t++) {
      float* sum = mean.get() + t * D;
      std::fill_n(sum, D, 0.0f);
      for (int n = 0; n < p.batch; n++) {
        const long e = p.example(t0 + t, n), o = (long)t * p.batch + n;
        for (int i = 0; i < in; i++) sum[i] += x[o * D + i] = p.inputs[e * in + i];
        y[o] = -p.values[e];
      }
      for (int i = 0; i < D; i++) sum[i] /= p.batch;
    }
    for (int g = 0; g < groups; g++)
      unit_steps<D, BIAS, LEAKY>(p, t0, count, x.get(), y.get(), mean.get(), g, units[g]);
  }
  move(false);
  for (int lane = 0; lane < p.lanes; lane++) {
    p.loss[lane] = units[lane / L].loss[lane % L] / p.steps;
    p.diverged[lane] = units[lane / L].diverged[lane % L];
  }
}

template <int D> static void train_units(const Problem& p) {
  const bool bias = p.biases[1], leaky = p.slope != 0;
  if (bias) leaky ? train_units<D, true, true>(p) : train_units<D, true, false>(p);
  else leaky ? train_units<D, false, true>(p) : train_units<D, false, false>(p);
}

static bool is_one_unit(const Problem& p) {
  return p.layers() == 2 && p.dims[1] == 1 && p.dims[2] == 1 && !p.classes && p.biases[0] &&
         p.dims[0] <= MOST_INPUTS;
}

static void train(const Problem& p) {
  if (!is_one_unit(p)) return train_networks(p);
  const int in = p.dims[0];
  if (in == 1) train_units<1>(p);
  else if (in == 2) train_units<2>(p);
  else if (in <= 4) train_units<4>(p);
  else if (in <= 8) train_units<8>(p);
  else train_units<MOST_INPUTS>(p);
}

// ---- An evaluation: statistics of z on the probe set, and bounds on its rounding ----

constexpr float UNIT_ROUNDOFF = 0x1p-24f;

struct Look {
  std::vector<int> dims;     // inputs, hidden widths
  std::vector<bool> biases;  // of every hidden layer
  int lanes, examples;
  const float* inputs;             // [examples, dims[0]]
  std::vector<const float*> from;  // kernel and bias of every hidden layer, [lanes, ...]
  float *active, *margin, *mean, *deviation, *minimum, *lower, *upper;  // [lanes, units]
};

// The columns [0, N L) of one layer, ReLU: h, and the statistics into out, which is [5][width]:
// count of z > 0, largest, sum, sum of squares about the first example's z, least.
template <int N, bool WHOLE>
INLINE void look_rows(int batch, int n, const float* in, int row, const float* w, int width,
                      int depth, const vec* start, float* h, vec* shift, vec (*seen)[N]) {
  vec z[ROWS][N];
  product<ROWS, N>(in + n * (long)row, row, 1, w, width, depth, start, z);
  if (n == 0)
    for (int j = 0; j < N; j++) shift[j] = z[0][j];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
    for (int j = 0; j < N; j++) {
      store(h + (n + r) * (long)width + j * L, z[r][j] <= 0.0f ? vec{} : z[r][j]);
      if (WHOLE || n + r < batch) {
        const vec apart = z[r][j] - shift[j];
        seen[0][j] += keep(splat(1.0f), z[r][j] > 0.0f);
        seen[1][j] = larger(seen[1][j], z[r][j]);
        seen[2][j] += apart;
        seen[3][j] += apart * apart;
        seen[4][j] = seen[4][j] < z[r][j] ? seen[4][j] : z[r][j];
      }
    }
}

template <int N>
static void look_columns(int batch, const float* in, int row, const float* w, int width, int depth,
                         const float* b, float* h, float* out) {
  vec start[N], shift[N], seen[5][N] = {};
#pragma GCC unroll 2
  for (int j = 0; j < N; j++)
    start[j] = load(b + j * L), seen[1][j] = splat(-INFINITY), seen[4][j] = splat(INFINITY);
  int n = 0;
  for (; n + ROWS <= batch; n += ROWS)
    look_rows<N, true>(batch, n, in, row, w, width, depth, start, h, shift, seen);
  if (n < batch) look_rows<N, false>(batch, n, in, row, w, width, depth, start, h, shift, seen);
  const float scale = 1.0f / batch;
  for (int j = 0; j < N; j++) {
    const vec off = seen[2][j] * scale, square = seen[3][j] * scale - off * off;
    if (total(off - off) != 0)  // rare: extremes that one NaN makes NaN
      for (n = 0; n < batch; n++) {
        const vec z = load(h + n * (long)width + j * L);
        for (int k : {1, 4}) seen[k][j] = z == z ? seen[k][j] : z;
      }
    vec root = square < 0.0f ? vec{} : square;
    for (int l = 0; l < L; l++) root[l] = std::sqrt(root[l]);
    const vec found[5] = {seen[0][j] * scale, seen[1][j], shift[j] + off, root, seen[4][j]};
    for (int k = 0; k < 5; k++) store(out + k * (long)width + j * L, found[k]);
  }
}

static float largest_norm(int batch, const float* in, int row, int depth) {
  float most = 0;
  for (int n = 0; n < batch; n++) {
    vec sum{};
    const float* x = in + n * (long)row;
    int k = 0;
    for (; k + L <= depth; k += L) sum += load(x + k) * load(x + k);
    float square = total(sum);
    for (; k < depth; k++) square += x[k] * x[k];
    most = square <= most ? most : square;
  }
  return std::sqrt(most);
}

// The bounds of `probes.margin_bounds` on one unit's margin: by the norms and, where these leave its
// sign open, by the rounding of every example's own sum. w is the unit's column, `width` apart.
static void bound(int batch, const float* in, int row, const float* w, int width, int depth,
                  float b, float input_norm, float margin, float* lower, float* upper) {
  float square = 0;
  for (int k = 0; k < depth; k++) square += w[k * (long)width] * w[k * (long)width];
  const float allowance = (depth + 2) * UNIT_ROUNDOFF;
  const float error = allowance * (std::sqrt(square) * input_norm + std::fabs(b));
  *lower = margin - error, *upper = margin + error;
  if (!(*lower <= 0 && *upper > 0)) return;
  float low = -INFINITY, high = -INFINITY;
  for (int n = 0; n < batch; n++) {
    float z = b, size = std::fabs(b);
    for (int k = 0; k < depth; k++) {
      const float term = in[n * (long)row + k] * w[k * (long)width];
      z += term, size += std::fabs(term);
    }
    low = std::max(low, z - allowance * size), high = std::max(high, z + allowance * size);
  }
  *lower = std::max(*lower, low), *upper = std::min(*upper, high);
}

static void look(const Look& p) {
  const int layers = (int)p.dims.size() - 1;
  const int rows = (p.examples + PAD - 1) / PAD * PAD, in_row = padded(p.dims[0]);
  int units = 0, widest = 0;
  long largest = 0;
  for (int i = 0; i < layers; i++) {
    units += p.dims[i + 1], widest = std::max(widest, padded(p.dims[i + 1]));
    largest = std::max(largest, (long)p.dims[i] * padded(p.dims[i + 1]));
  }
  Floats x = floats((long)rows * in_row), w = floats(largest), b = floats(widest);
  Floats h[2] = {floats((long)rows * widest), floats((long)rows * widest)}, seen = floats(5L * widest);
  for (int n = 0; n < p.examples; n++)
    std::copy_n(p.inputs + (long)n * p.dims[0], p.dims[0], x.get() + (long)n * in_row);
  const float first_norm = largest_norm(p.examples, x.get(), in_row, p.dims[0]);
  for (long lane = 0; lane < p.lanes; lane++) {
    const float* in = x.get();
    int row = in_row, leaf = 0;
    long unit = lane * units;
    for (int i = 0; i < layers; i++) {
      const int depth = p.dims[i], count = p.dims[i + 1], width = padded(count);
      const float* from = p.from[leaf++] + lane * depth * count;
      std::memset(w.get(), 0, 4L * depth * width), std::memset(b.get(), 0, 4L * width);
      for (int k = 0; k < depth; k++) std::copy_n(from + k * (long)count, count, w.get() + k * (long)width);
      if (p.biases[i]) std::copy_n(p.from[leaf++] + lane * count, count, b.get());
      float* out = h[i % 2].get();
#define CALL(N, c) \
  look_columns<N>(p.examples, in, row, w.get() + c, width, depth, b.get() + c, out + c, seen.get() + c)
      BY_COLUMNS(width, CALL)
#undef CALL
      const float norm = i ? largest_norm(p.examples, in, row, depth) : first_norm;
      float* const places[5] = {p.active, p.margin, p.mean, p.deviation, p.minimum};
      for (int k = 0; k < 5; k++) std::copy_n(seen.get() + k * (long)width, count, places[k] + unit);
      for (int u = 0; u < count; u++)
        bound(p.examples, in, row, w.get() + u, width, depth, b[u], norm, seen[width + u],
              p.lower + unit + u, p.upper + unit + u);
      in = out, row = width, unit += count;
    }
  }
}

// ---- What JAX calls (jax.ffi); the driver of the sanitizers' tests leaves it out ----

#ifndef WITHOUT_JAX
#include "xla/ffi/api/ffi.h"
namespace ffi = xla::ffi;

using F32 = ffi::Buffer<ffi::F32>;
using S32 = ffi::Buffer<ffi::S32>;

static ffi::Error Train(ffi::Span<const int64_t> dims, ffi::Span<const int64_t> biases,
                        int64_t rule, int64_t decay, int64_t decay_weights, int64_t decay_biases,
                        int64_t classes, float slope, F32 inputs, ffi::AnyBuffer targets,
                        S32 indices, S32 step, F32 factors, F32 corrections, F32 paces, F32 mean, F32 peak,
                        F32 active, S32 first, ffi::RemainingArgs from,
                        ffi::ResultBuffer<ffi::F32> mean2, ffi::ResultBuffer<ffi::F32> peak2,
                        ffi::ResultBuffer<ffi::F32> active2, ffi::ResultBuffer<ffi::S32> first2,
                        ffi::ResultBuffer<ffi::F32> loss, ffi::ResultBuffer<ffi::S32> diverged,
                        ffi::RemainingRets to) {
  Problem p;
  p.dims.assign(dims.begin(), dims.end());
  p.biases.assign(biases.begin(), biases.end());
  p.rule = rule, p.decay = decay, p.classes = classes, p.slope = slope;
  p.decay_weights = decay_weights, p.decay_biases = decay_biases;
  p.lanes = mean.dimensions()[0], p.examples = inputs.dimensions()[0];
  p.steps = indices.dimensions()[0], p.batch = indices.dimensions()[1];
  p.first_step = step.typed_data()[0];
  p.inputs = inputs.typed_data();
  p.values = (const float*)targets.untyped_data();
  p.labels = (const int32_t*)targets.untyped_data();
  p.indices = indices.typed_data(), p.factors = factors.typed_data();
  p.corrections = corrections.typed_data(), p.rate = paces.typed_data();
  p.momentum = p.rate + p.lanes, p.rest = p.momentum + p.lanes, p.weight_decay = p.rest + p.lanes;
  const long units = mean.element_count();
  p.mean = std::copy_n(mean.typed_data(), units, mean2->typed_data()) - units;
  p.peak = std::copy_n(peak.typed_data(), units, peak2->typed_data()) - units;
  p.active = std::copy_n(active.typed_data(), units, active2->typed_data()) - units;
  p.first = std::copy_n(first.typed_data(), units, first2->typed_data()) - units;
  p.loss = loss->typed_data(), p.diverged = diverged->typed_data();
  for (size_t i = 0; i < from.size(); i++) {
    auto a = from.get<F32>(i);
    auto b = to.get<F32>(i);
    if (!a.has_value() || !b.has_value()) return ffi::Error::InvalidArgument("not float32");
    p.from.push_back(a->typed_data());
    p.to.push_back((*b)->typed_data());
  }
  train(p);
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    relu_dynamics_train, Train,
    ffi::Ffi::Bind()
        .Attr<ffi::Span<const int64_t>>("dims")
        .Attr<ffi::Span<const int64_t>>("biases")
        .Attr<int64_t>("rule")
        .Attr<int64_t>("decay")
        .Attr<int64_t>("decay_weights")
        .Attr<int64_t>("decay_biases")
        .Attr<int64_t>("classes")
        .Attr<float>("slope")
        .Arg<F32>().Arg<ffi::AnyBuffer>().Arg<S32>().Arg<S32>().Arg<F32>().Arg<F32>().Arg<F32>()
        .Arg<F32>().Arg<F32>().Arg<F32>().Arg<S32>()
        .RemainingArgs()
        .Ret<F32>().Ret<F32>().Ret<F32>().Ret<S32>().Ret<F32>().Ret<S32>()
        .RemainingRets());

static ffi::Error LookAt(ffi::Span<const int64_t> dims, ffi::Span<const int64_t> biases, F32 inputs,
                         ffi::RemainingArgs from, ffi::RemainingRets to) {
  Look p;
  p.dims.assign(dims.begin(), dims.end());
  p.biases.assign(biases.begin(), biases.end());
  p.inputs = inputs.typed_data(), p.examples = inputs.dimensions()[0];
  for (size_t i = 0; i < from.size(); i++) {
    auto a = from.get<F32>(i);
    if (!a.has_value()) return ffi::Error::InvalidArgument("not float32");
    p.from.push_back(a->typed_data());
    p.lanes = a->dimensions()[0];
  }
  float** places[7] = {&p.active, &p.margin, &p.mean, &p.deviation, &p.minimum, &p.lower, &p.upper};
  for (int i = 0; i < 7; i++) {
    auto b = to.get<F32>(i);
    if (!b.has_value()) return ffi::Error::InvalidArgument("not float32");
    *places[i] = (*b)->typed_data();
  }
  look(p);
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(relu_dynamics_look, LookAt,
                              ffi::Ffi::Bind()
                                  .Attr<ffi::Span<const int64_t>>("dims")
                                  .Attr<ffi::Span<const int64_t>>("biases")
                                  .Arg<F32>()
                                  .RemainingArgs()
                                  .RemainingRets());
#endif
