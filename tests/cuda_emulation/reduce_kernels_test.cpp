/**
 * The kernels of the fused pass, run on the host and compared, element by
 * element, with the losses written out: each loss, dtype and body by itself,
 * then random tasks of all of them in one launch. Prints what differs; ends
 * with "N checks, N failed".
 */
#include "cuda_emulation.h"
// The emulation first: it takes the place of CUDA's own headers.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

#define AL_REDUCE_LOSSES(X) AL_BUILTIN_LOSSES(X)
#include "cuda/reduce_tasks.cuh"
#include "guarded.h"

using namespace atomloss;

namespace {

int checks = 0, failed = 0;

double uniform() {
  return std::uniform_real_distribution<>(-0.5, 0.5)(emulation::random);
}

/** Relative rounding of a storage type. */
template <class S>
double rounding() {
  if (std::is_same_v<S, bfloat16>) return 1e-2;
  if (std::is_same_v<S, float16>) return 2e-3;
  return std::is_same_v<S, float> ? 1e-5 : 1e-12;
}

enum class Mask { kNone, kEntries, kRows };

struct Options {
  int64_t rows, cols;
  bool aligned, nan, weights, grad, zero_nonfinite;
  Mask mask;
};

/** Scratch memory of a launch, as the device has it. */
struct Memory {
  std::vector<Partial> partials = std::vector<Partial>(4096);
  std::vector<unsigned> tickets = std::vector<unsigned>(kMaxTasks + 1);
  std::vector<Partial> values = std::vector<Partial>(kMaxTasks);
  Scratch scratch() { return {partials.data(), tickets.data(), values.data()}; }
  bool tickets_are_zero() const {
    return std::all_of(tickets.begin(), tickets.end(),
                       [](unsigned t) { return t == 0; });
  }
};

/** A task with its arrays, whatever its types. */
class Case {
 public:
  virtual ~Case() = default;
  virtual void run(int64_t most, int number, Memory&, const Total&) = 0;
  /** Compares value and gradient; returns the value that was expected. */
  virtual double check(const char* how) = 0;
  virtual Work work() const = 0;

  al_loss_task task = {};
  al_loss_result result = {-1, -1};
  int64_t nonfinite = 0;
};

template <class Loss, class S>
class TypedCase : public Case {
  using T = compute_t<S>;
  static constexpr T kLargest = Dtype<S>::largest;

 public:
  TypedCase(int32_t loss, int32_t dtype, const Options& options)
      : options_(options),
        n_(options.rows * options.cols),
        pred_(n_, options.aligned),
        target_(n_, options.aligned),
        grad_(n_, options.aligned),
        natoms_(static_cast<size_t>(options.rows)),
        mask_(static_cast<size_t>(n_)),
        weights_(static_cast<size_t>(options.rows) + 1) {
    const auto sometimes = [] { return emulation::random() % 7 == 0; };
    for (int64_t i = 0; i < n_; ++i) {
      const bool bad = options.nan && sometimes();
      pred_.data()[i] = store<S>(bad ? T(NAN) : T(uniform()));
      const bool gap = options.zero_nonfinite && sometimes();
      target_.data()[i] = store<S>(gap ? T(INFINITY) : T(uniform()));
    }
    for (int64_t& count : natoms_) count = 1 + emulation::random() % 5;
    for (uint8_t& on : mask_) on = emulation::random() % 3 != 0;
    for (T& weight : weights_) weight = T(1) / T(1 + emulation::random() % 4);
    weights_.back() = sometimes();  // natoms was wrong
    normalizer_ = static_cast<double>(n_ + 1);
    task.pred = pred_.data();
    task.target = target_.data();
    task.natoms = natoms_.data();
    task.mask = options.mask == Mask::kNone ? nullptr : mask_.data();
    task.row_weights = options.weights ? weights_.data() : nullptr;
    task.grad = options.grad ? grad_.data() : nullptr;
    task.result = &result;
    task.normalizer = &normalizer_;
    task.scale = 3;
    task.rows = options.rows;
    task.cols = options.cols;
    task.loss = loss;
    task.dtype = dtype;
    task.natoms_dtype = AL_INT64;
    task.value_dtype = sizeof(T) == 8 ? AL_FLOAT64 : AL_FLOAT32;
    task.flags = (options.mask == Mask::kRows ? AL_MASK_PER_ROW : 0) |
                 (options.zero_nonfinite ? AL_ZERO_NONFINITE : 0) |
                 (options.weights ? AL_PER_STRUCTURE : 0);
  }

  Work work() const override { return work_of(task, Loss::kind, sizeof(S)); }

  void run(int64_t most, int number, Memory& memory,
           const Total& total) override {
    const Work todo = work();
    const auto grid =
        static_cast<unsigned>(std::clamp<int64_t>(todo.tiles, 1, most));
    const auto body = [&](auto kind) {
      emulation::launch(grid, kThreads, [&] {
        reduce_task<Loss, S, decltype(kind)::value>(task, number,
                                                    memory.scratch(), total);
      });
    };
    using std::integral_constant;
    if constexpr (Loss::kind == AL_PER_ELEMENT) {
      if (todo.body == Body::kPackedElements)
        body(integral_constant<Body, Body::kPackedElements>());
      else
        body(integral_constant<Body, Body::kElements>());
    } else {
      if (todo.body == Body::kForces)
        body(integral_constant<Body, Body::kForces>());
      else if (todo.body == Body::kRows)
        body(integral_constant<Body, Body::kRows>());
      else
        body(integral_constant<Body, Body::kLongRows>());
    }
  }

  double check(const char* how) override {
    const double factor = 3 / normalizer_;
    const int64_t cols = options_.cols;
    double sum = 0, worst = 0, largest = 0;
    nonfinite = options_.weights && weights_.back() != T(0) ? AL_BAD_NATOMS : 0;
    for (int64_t row = 0; row < options_.rows; ++row) {
      T s = 0;
      for (int64_t i = row * cols; i < (row + 1) * cols; ++i)
        s += difference(i) * difference(i);
      if constexpr (Loss::kind == AL_PER_ROW)
        sum += weight(row * cols, row) * Loss::value(s);
      for (int64_t i = row * cols; i < (row + 1) * cols; ++i) {
        const T w = weight(i, row);
        const T atoms = Loss::uses_natoms ? T(natoms_[row]) : T(1);
        T g;
        if constexpr (Loss::kind == AL_PER_ROW) {
          g = Loss::slope(s) * difference(i);
        } else {
          sum += w * Loss::value(p(i), t(i), atoms);
          g = Loss::grad(p(i), t(i), atoms);
        }
        const bool ok = is_finite(load(pred_.data()[i]), kLargest);
        nonfinite += !ok && w != 0;
        if (!options_.grad) continue;
        const double error =
            std::fabs(load(grad_.data()[i]) - (ok ? factor * w * g : 0));
        worst = error <= worst ? worst : error;  // also a NaN stays
        largest = std::max(largest, std::fabs(static_cast<double>(g)));
      }
    }
    const double value = sizeof(T) == sizeof(double)
                             ? result.value
                             : *reinterpret_cast<float*>(&result.value);
    const double scale = std::max(largest, 1.0);
    const bool good =
        worst <= rounding<S>() * factor * scale &&
        std::fabs(value - factor * sum) <= 1e-6 * factor * (sum + 1e-9) &&
        nonfinite == result.nonfinite && grad_.intact();
    ++checks;
    if (!good) {
      ++failed;
      printf(
          "%s: %s, %zu bytes, [%ld, %ld], body %d, mask %d, weights %d, nan "
          "%d: gradient off by %g, value %.9g for %.9g, %ld not finite for "
          "%ld, %s\n",
          how, Loss::name, sizeof(S), static_cast<long>(options_.rows),
          static_cast<long>(cols), static_cast<int>(work().body),
          static_cast<int>(options_.mask), options_.weights, options_.nan,
          worst, value, factor * sum, static_cast<long>(result.nonfinite),
          static_cast<long>(nonfinite),
          grad_.intact() ? "guards intact" : "guards overwritten");
    }
    return factor * sum;
  }

 private:
  T p(int64_t i) { return nan_to_num(load(pred_.data()[i]), kLargest); }
  T t(int64_t i) {
    const T raw = load(target_.data()[i]);
    return options_.zero_nonfinite && !is_finite(raw, kLargest) ? T(0) : raw;
  }
  T difference(int64_t i) { return p(i) - t(i); }
  T weight(int64_t i, int64_t row) {
    const T w = options_.weights ? weights_[row] : T(1);
    if (options_.mask == Mask::kNone) return w;
    return mask_[options_.mask == Mask::kRows ? row : i] ? w : T(0);
  }

  Options options_;
  int64_t n_;
  Guarded<S> pred_, target_, grad_;
  std::vector<int64_t> natoms_;
  std::vector<uint8_t> mask_;
  std::vector<T> weights_;
  double normalizer_;
};

std::unique_ptr<Case> make_case(int32_t loss, int32_t dtype,
                                const Options& options) {
  int32_t number = 0;
#define AL_MAKE(Loss)                                                          \
  if (number++ == loss) {                                                      \
    if (dtype == AL_FLOAT32)                                                   \
      return std::make_unique<TypedCase<Loss, float>>(loss, dtype, options);   \
    if (dtype == AL_FLOAT64)                                                   \
      return std::make_unique<TypedCase<Loss, double>>(loss, dtype, options);  \
    if (dtype == AL_FLOAT16)                                                   \
      return std::make_unique<TypedCase<Loss, float16>>(loss, dtype, options); \
    return std::make_unique<TypedCase<Loss, bfloat16>>(loss, dtype, options);  \
  }
  AL_BUILTIN_LOSSES(AL_MAKE)
  abort();
}

struct Known {
  const char* name;
  al_loss_kind kind;
  bool uses_natoms;
};
const Known kLosses[] = {
#define AL_KNOWN(Loss) {Loss::name, Loss::kind, Loss::uses_natoms},
    AL_BUILTIN_LOSSES(AL_KNOWN)};
const int32_t kLossCount = sizeof kLosses / sizeof *kLosses;

Memory memory;

void check_alone(int32_t loss, int32_t dtype, const Options& options,
                 int64_t most) {
  const auto task = make_case(loss, dtype, options);
  task->run(most, 0, memory, {nullptr, 0});
  task->check("alone");
  ++checks;
  if (memory.tickets_are_zero()) return;
  ++failed;
  printf("a ticket is left\n");
}

/** Around every border of pack, warp, tile and block. */
void check_sizes(int32_t loss, int32_t dtype) {
  const Known& known = kLosses[loss];
  for (const int64_t rows : {0, 1, 3, 31, 32, 33, 64, 65, 127, 128, 129, 255,
                             256, 257, 513, 1300, 2049, 4097}) {
    const int64_t cols = known.uses_natoms ? 1 : 3;
    for (const bool aligned : {true, false})
      for (const bool nan : {false, true})
        for (const int64_t most : {1, 1000})
          check_alone(loss, dtype,
                      {rows, cols, aligned, nan, false, true, nan, Mask::kNone},
                      most);
    for (const Mask mask : {Mask::kNone, Mask::kEntries, Mask::kRows}) {
      const bool rows_only = known.kind == AL_PER_ROW;
      if (rows_only && mask == Mask::kEntries) continue;
      for (const bool weights : {false, true})
        check_alone(loss, dtype,
                    {rows, cols, true, rows % 2 == 1, weights, rows % 3 != 0,
                     true, mask},
                    1000);
    }
    if (known.kind == AL_PER_ROW && rows < 66) {
      for (const int64_t width : {2, 5, 9, 70})
        check_alone(loss, dtype,
                    {rows, width, true, true, rows % 2 == 1, true, true,
                     rows % 3 == 1 ? Mask::kRows : Mask::kNone},
                    1000);
    }
  }
}

int below(int n) { return static_cast<int>(emulation::random() % n); }

/** Random tasks in one launch, of one dtype or of several. */
void check_together(bool mixed) {
  const int count = 2 + below(14);
  const int32_t dtype = below(4);
  std::vector<std::unique_ptr<Case>> cases;
  TaskTable table = {};
  table.count = count;
  table.first_task = below(3);
  for (int i = 0; i < count; ++i) {
    const int32_t loss = below(kLossCount);
    const Known& known = kLosses[loss];
    const Mask mask = static_cast<Mask>(below(3));
    const bool per_row = known.kind == AL_PER_ROW && mask == Mask::kEntries;
    const int64_t cols = known.uses_natoms ? 1 : below(3) ? 3 : 2 + below(20);
    cases.push_back(make_case(
        loss, mixed ? below(4) : dtype,
        {below(4) ? below(900) : 0, cols, below(4) != 0, below(4) == 0,
         below(4) == 0, below(4) != 0, true, per_row ? Mask::kRows : mask}));
    const Work work = cases.back()->work();
    table.tasks[i] = cases.back()->task;
    table.body[i] = work.body;
    const int blocks =
        static_cast<int>(std::clamp<int64_t>(work.tiles, 1, 1 + below(5)));
    table.first_block[i + 1] = table.first_block[i] + blocks;
  }
  al_loss_result result = {-1, -1};
  // The tasks before those of this launch have left their values.
  double before = 0;
  for (int i = 0; i < table.first_task; ++i) {
    memory.values[i] = {uniform(), i};
    before += memory.values[i].sum;
  }
  const Total all = {&result, table.first_task + count, count};
  const auto grid = static_cast<unsigned>(table.first_block[count]);
  emulation::launch(grid, kThreads, [&] {
    if (mixed)
      reduce_mixed_tasks(table, memory.scratch(), all);
    else if (dtype == AL_FLOAT32)
      reduce_tasks<float>(table, memory.scratch(), all);
    else if (dtype == AL_FLOAT64)
      reduce_tasks<double>(table, memory.scratch(), all);
    else if (dtype == AL_FLOAT16)
      reduce_tasks<float16>(table, memory.scratch(), all);
    else
      reduce_tasks<bfloat16>(table, memory.scratch(), all);
  });
  double sum = before;
  int64_t nonfinite = table.first_task == 2 ? 1 : 0;
  for (const auto& task : cases) {
    sum += task->check(mixed ? "mixed" : "together");
    nonfinite += task->nonfinite;
  }
  ++checks;
  if (std::fabs(result.value - sum) <= 1e-5 * (std::fabs(sum) + 1) &&
      result.nonfinite == nonfinite && memory.tickets_are_zero())
    return;
  ++failed;
  printf("total %.9g for %.9g, %ld not finite for %ld, tickets %d\n",
         result.value, sum, static_cast<long>(result.nonfinite),
         static_cast<long>(nonfinite), memory.tickets_are_zero());
}

/** Weights per structure and counts, against a plain loop. */
template <class Loss, class S>
void check_samples(int structures, Mask mask) {
  using T = compute_t<S>;
  std::vector<int32_t> natoms(static_cast<size_t>(structures));
  int64_t rows = 0;
  for (int32_t& n : natoms) {
    n = below(9) == 0 ? 0 : below(70);
    if (below(20) == 0) n = 2 * kThreads + below(70);  // more than a block
    rows += n;
  }
  // Sometimes natoms is wrong: more rows than it says, fewer, a negative
  // number.
  bool bad = below(3) == 0;
  if (bad && structures > 0 && below(2)) {
    natoms[below(structures)] -= 1000;
  } else if (bad) {
    const int64_t others = std::max<int64_t>(rows + below(40) - 20, 0);
    bad = others != rows;
    rows = others;
  }
  TypedCase<Loss, S> of(0, 0, {rows, 3, true, false, true, false, true, mask});
  al_loss_task task = of.task;
  std::vector<T> weights(static_cast<size_t>(rows) + 1, T(-1));
  task.row_weights = weights.data();
  task.natoms = natoms.data();
  task.natoms_dtype = AL_INT32;
  task.structures = structures;
  Guarded<int64_t> offsets(structures + 1, true);
  unsigned long long count = 0, entries = 0;
  emulation::launch(1, kThreads,
                    [&] { structure_offsets(task, offsets.data()); });
  emulation::launch(1 + below(3), kThreads, [&] {
    weigh_structures<Loss, S>(task, offsets.data(), &count);
  });
  const int64_t per_row = Loss::kind == AL_PER_ROW ? 1 : 3;
  const bool one_per_row = per_row == 1 || mask == Mask::kRows;
  MaskTable masks = {};
  masks.of[0] = {task.mask, one_per_row ? rows : 3 * rows,
                 one_per_row ? per_row : 1, &entries};
  unsigned long long all = 0;
  masks.of[1] = {nullptr, rows, 2, &all};
  emulation::launch(
      1 + below(3), kThreads, [&] { count_masks(masks); }, 2);

  const auto on = [&](int64_t row, int64_t j) {
    if (task.mask == nullptr) return true;
    return task.mask[one_per_row ? row : 3 * row + j] != 0;
  };
  const S* p = static_cast<const S*>(task.pred);
  const S* t = static_cast<const S*>(task.target);
  bool good = offsets.intact() && weights.back() == T(bad);
  int64_t row = 0;
  unsigned long long samples = 0, unmasked = 0;
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < per_row; ++j) unmasked += on(i, j);
  for (const int32_t n : natoms) {
    const int64_t end = bad ? row : row + n;
    int64_t free_rows = 0;
    double loss = 0;
    for (int64_t i = row; i < end; ++i) {
      free_rows += on(i, 0) || (per_row > 1 && (on(i, 1) || on(i, 2)));
      for (int64_t j = 0; j < 3; ++j) {
        const T x = load(t[3 * i + j]);
        const T d =
            load(p[3 * i + j]) - (is_finite(x, Dtype<S>::largest) ? x : T(0));
        if (on(i, j)) loss += std::fabs(static_cast<double>(d));
      }
    }
    const int64_t divisor = free_rows > 0 ? free_rows : end - row;
    for (int64_t i = row; i < end; ++i)
      good &= weights[i] == T(1) / static_cast<T>(divisor);
    samples += loss != 0;
    row = end;
  }
  for (; row < rows; ++row) good &= weights[row] == T(0);
  ++checks;
  good &= all == 2 * static_cast<unsigned long long>(rows);
  if (good && samples == count && unmasked == entries) return;
  ++failed;
  printf(
      "samples of %s, %d structures, mask %d: %llu for %llu, entries %llu "
      "for %llu, weights and offsets %d\n",
      Loss::name, structures, static_cast<int>(mask), count, samples, entries,
      unmasked, good);
}

}  // namespace

int main() {
  for (int32_t loss = 0; loss < kLossCount; ++loss)
    for (int32_t dtype = AL_FLOAT32; dtype <= AL_BFLOAT16; ++dtype)
      check_sizes(loss, dtype);
  for (int i = 0; i < 60; ++i) {
    check_together(false);
    check_together(true);
  }
  for (const int structures : {0, 1, 5, 31, 300}) {
    for (const Mask mask : {Mask::kNone, Mask::kRows}) {
      check_samples<L2Norm, float>(structures, mask);
      check_samples<MAE, double>(structures, mask);
      check_samples<MSE, bfloat16>(structures, mask);
    }
    check_samples<MAE, float16>(structures, Mask::kEntries);
  }
  printf("%d checks, %d failed\n", checks, failed);
  return failed != 0;
}
