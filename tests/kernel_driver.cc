// Trains random shapes through kernel.cc without JAX, for the sanitizers and for other compilers and
// processors: odd widths, one example, one unit, one lane, NaN and infinity, indices beyond the end.
// Prints the runs' mean losses in every problem, and last the number of problems. The problems are the same
// everywhere: they are made of whole numbers, without a library's distributions or logarithms.
#include <cstdio>
#include <random>

#include "kernel.cc"

static std::mt19937 generator(0);
static int whole(int low, int high) { return low + (int)(generator() % (high - low + 1)); }
static std::vector<float> numbers(long count, float scale = 1) {  // in [-2, 2)
  std::vector<float> values(count);
  for (float& v : values) v = scale * ((int)(generator() >> 8) - (1 << 23)) / (1 << 22);
  return values;
}

static void one_problem(bool one_unit, float bad) {
  Problem p;
  p.rule = whole(SGD, ADAM), p.decay = whole(NONE, DECOUPLED);
  p.decay_weights = whole(0, 1), p.decay_biases = whole(0, 1);
  p.classes = !one_unit && whole(0, 1), p.slope = whole(0, 1) * 0.01f;
  p.dims = {whole(1, 40)};
  for (int i = one_unit ? 1 : whole(1, 3); i > 0; i--) p.dims.push_back(one_unit ? 1 : whole(1, 40));
  p.dims.push_back(one_unit ? 1 : whole(1, 20));
  for (int i = 0; i < p.layers(); i++) p.biases.push_back(one_unit || whole(0, 1));
  p.lanes = whole(1, 33), p.examples = whole(1, 50), p.steps = whole(1, 5);
  p.batch = whole(1, 40), p.first_step = whole(0, 100);
  auto inputs = numbers((long)p.examples * p.dims[0]);
  auto values = numbers((long)p.examples * p.outputs());
  std::vector<int32_t> labels(p.examples), indices(p.steps * p.batch);
  for (auto& l : labels) l = whole(0, p.outputs() - 1);
  for (auto& i : indices) i = whole(-1, p.examples);
  auto corrections = numbers(2L * p.steps * p.lanes), paces = numbers(4L * p.lanes, 0.1f);
  for (float& c : corrections) c = 0.5f + std::fabs(c);
  auto factors = numbers(p.steps);
  const long units = (long)p.units() * p.lanes;
  auto mean = numbers(units), peak = mean, active = mean;
  std::vector<int32_t> first(units, -1);
  std::vector<float> loss(p.lanes);
  std::vector<int32_t> diverged(p.lanes);
  if (bad != 0) inputs[whole(0, inputs.size() - 1)] = bad;
  std::vector<std::vector<float>> from, to;
  for (int slot = 0; slot <= memories(p.rule); slot++)
    for (int i = 0; i < p.layers(); i++)
      for (int bias = 0; bias <= p.biases[i]; bias++)
        from.push_back(numbers((long)p.lanes * p.dims[i + 1] * (bias ? 1 : p.dims[i])));
  if (p.rule == ADAM)  // its second memory is of squares
    for (size_t i = from.size() * 2 / 3; i < from.size(); i++)
      for (float& v : from[i]) v *= v;
  to = from;
  for (auto& leaf : from) p.from.push_back(leaf.data());
  for (auto& leaf : to) p.to.push_back(leaf.data());
  p.inputs = inputs.data(), p.values = values.data(), p.labels = labels.data();
  p.indices = indices.data(), p.factors = factors.data(), p.corrections = corrections.data();
  p.rate = paces.data(), p.momentum = p.rate + p.lanes, p.rest = p.momentum + p.lanes, p.weight_decay = p.rest + p.lanes;
  p.mean = mean.data(), p.peak = peak.data(), p.active = active.data(), p.first = first.data();
  p.loss = loss.data(), p.diverged = diverged.data();
  train(p);
  for (float mean_loss : loss) std::printf("%.9g ", mean_loss);
  std::printf("\n");
}

static void one_look(float bad) {
  Look p;
  p.dims = {whole(1, 40)};
  for (int i = whole(1, 3); i > 0; i--) p.dims.push_back(whole(1, 40)), p.biases.push_back(whole(0, 1));
  p.lanes = whole(1, 3), p.examples = whole(1, 70);
  auto inputs = numbers((long)p.examples * p.dims[0]);
  if (bad != 0) inputs[whole(0, inputs.size() - 1)] = bad;
  p.inputs = inputs.data();
  std::vector<std::vector<float>> leaves, outs;
  long units = 0;
  for (size_t i = 1; i < p.dims.size(); i++) {
    units += p.lanes * p.dims[i];
    leaves.push_back(numbers((long)p.lanes * p.dims[i - 1] * p.dims[i], whole(0, 1)));
    if (p.biases[i - 1]) leaves.push_back(numbers((long)p.lanes * p.dims[i], 1e-7f));
  }
  for (auto& leaf : leaves) p.from.push_back(leaf.data());
  float** places[7] = {&p.active, &p.margin, &p.mean, &p.deviation, &p.minimum, &p.lower, &p.upper};
  outs.resize(7);
  for (int i = 0; i < 7; i++) outs[i].resize(units), *places[i] = outs[i].data();
  look(p);
}

int main(int, char** arguments) {
  const int count = std::atoi(arguments[1]);
  for (int i = 0; i < count; i++) {
    const float bad = i % 5 == 1 ? NAN : i % 5 == 2 ? INFINITY : 0;
    one_problem(i % 3 == 0, bad), one_look(bad);
  }
  std::printf("%d problems\n", count);
}
