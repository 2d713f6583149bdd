#include "random_task.h"

#include <algorithm>
#include <cmath>

namespace native {
namespace {

/** Now and then a number that is not finite. */
void spoil(Array& array, Random& random, int64_t rarity) {
  for (int64_t i = 0; i < array.size(); ++i) {
    if (!random.one_in(rarity)) continue;
    const double bad[] = {NAN, HUGE_VAL, -HUGE_VAL};
    array.set(i, bad[random.below(3)]);
  }
}

}  // namespace

RandomTask::RandomTask(const TaskOptions& options, Random& random)
    : loss_(kLosses[options.loss]),
      pred_(options.dtype, options.rows * options.cols, random.one_in(2)),
      target_(options.dtype, pred_.size(), random.one_in(2)),
      natoms_(random.one_in(2) ? AL_INT32 : AL_INT64, options.rows,
              random.one_in(2)) {
  const auto maybe = [&](int64_t n) {
    return !options.plain && random.one_in(n);
  };
  const int64_t rows = options.rows, n = pred_.size();
  pred_.fill_uniform(random);
  target_.fill_uniform(random);
  for (int64_t i = 0; i < rows; ++i)
    natoms_.set(i, static_cast<double>(1 + random.below(9)));
  if (maybe(3)) spoil(pred_, random, 1 + random.below(500));
  const bool zero_nonfinite = maybe(3);
  if (zero_nonfinite || maybe(6)) spoil(target_, random, 1 + random.below(500));
  if (random.one_in(4) ? options.plain : true)
    grad_.emplace(options.dtype, n, random.one_in(2));
  const bool per_row = loss_.per_row || maybe(2);
  if (maybe(2)) {
    mask_.emplace(AL_BOOL, per_row ? rows : n);
    const int64_t on = 1 + random.below(4);
    for (int64_t i = 0; i < mask_->size(); ++i)
      mask_->set(i, static_cast<double>(random.below(4) < on));
  }
  if (maybe(3)) {
    weights_.emplace(compute_dtype(options.dtype), rows, random.one_in(2));
    for (int64_t i = 0; i < rows; ++i)
      weights_->set(i, 1.0 / static_cast<double>(1 + random.below(5)));
  }
  normalizer_ = static_cast<double>(1 + random.below(100));

  task_.pred = pred_.data();
  task_.target = target_.data();
  task_.natoms = loss_.uses_natoms ? natoms_.data() : nullptr;
  task_.mask = mask_ ? static_cast<const uint8_t*>(mask_->data()) : nullptr;
  task_.row_weights = weights_ ? weights_->data() : nullptr;
  task_.grad = grad_ ? grad_->data() : nullptr;
  task_.result = &result_;
  task_.normalizer = random.one_in(3) ? nullptr : &normalizer_;
  task_.scale = 1 + random.uniform();
  task_.rows = rows;
  task_.cols = options.cols;
  task_.loss = number_of(loss_);
  task_.dtype = options.dtype;
  task_.natoms_dtype = natoms_.dtype();
  task_.value_dtype = compute_dtype(options.dtype);
  task_.flags = (mask_ && per_row ? AL_MASK_PER_ROW : 0) |
                (zero_nonfinite ? AL_ZERO_NONFINITE : 0);
}

double RandomTask::weight(int64_t row, int64_t col) const {
  if (mask_) {
    const bool per_row = task_.flags & AL_MASK_PER_ROW || loss_.per_row;
    if (mask_->get(per_row ? row : row * task_.cols + col) == 0) return 0;
  }
  return weights_ ? weights_->get(row) : 1;
}

double RandomTask::read_pred(int64_t i) const {
  const double p = pred_.get(i), most = largest(task_.dtype);
  return std::isnan(p) ? 0 : std::clamp(p, -most, most);
}

double RandomTask::read_target(int64_t i) const {
  const double t = target_.get(i);
  return task_.flags & AL_ZERO_NONFINITE && !std::isfinite(t) ? 0 : t;
}

double RandomTask::value() const {
  if (task_.value_dtype == AL_FLOAT64) return result_.value;
  float value;
  memcpy(&value, &result_.value, sizeof value);
  return value;
}

void RandomTask::check_result(const char* what) {
  const int64_t rows = task_.rows, cols = task_.cols;
  const auto narrow = [&](double x) { return narrowed(task_.dtype, x); };
  const double factor =
      task_.scale / (task_.normalizer ? *task_.normalizer : 1);
  double sum = 0, magnitude = 0;
  int64_t nonfinite = 0, wrong = 0;
  const auto check_grad = [&](int64_t i, double expected) {
    if (grad_)
      wrong += !close(grad_->get(i), grad_->stored(expected),
                      tolerance(task_.dtype), std::fabs(factor));
  };
  for (int64_t row = 0; row < rows; ++row) {
    const double atoms = loss_.uses_natoms ? natoms_.get(row) : 1;
    double s = 0;
    for (int64_t j = 0; j < cols; ++j) {
      const int64_t i = row * cols + j;
      const double p = read_pred(i), t = read_target(i), w = weight(row, j);
      const bool ok = std::isfinite(pred_.get(i));
      s += narrow(narrow(p - t) * narrow(p - t));
      if (w != 0) nonfinite += !ok;
      if (loss_.per_row) continue;
      const double entry =
          w == 0 ? 0 : narrow(w * narrow(loss_.value(p, t, atoms)));
      sum += entry;
      magnitude += std::fabs(entry);
      if (w == 0 || !ok)
        check_grad(i, 0);
      else if (!std::isnan(t) || !loss_.clips)
        check_grad(i, factor * w * loss_.grad(p, t, atoms));
    }
    if (!loss_.per_row) continue;
    s = narrow(s);
    const double w = weight(row, 0);
    const double entry = w == 0 ? 0 : w * loss_.value(s, 0, 0);
    sum += entry;
    magnitude += std::fabs(entry);
    for (int64_t j = 0; j < cols; ++j) {
      const int64_t i = row * cols + j;
      const bool ok = std::isfinite(pred_.get(i));
      const double slope = factor * w * loss_.grad(s, 0, 0);
      const double d = read_pred(i) - read_target(i);
      check_grad(i, w == 0 || !ok ? 0 : slope * d);
    }
  }
  if (task_.flags & AL_PER_STRUCTURE && !natoms_describe_rows())
    nonfinite += AL_BAD_NATOMS;
  double expected = narrow(sum * factor);
  if (task_.flags & AL_ZERO_NONFINITE) {
    const double most = largest(task_.value_dtype);
    expected = std::isnan(expected) ? 0 : std::clamp(expected, -most, most);
  }
  const bool same =
      close(value(), expected, task_.dtype == AL_FLOAT64 ? 1e-12 : 2e-5,
            std::fabs(magnitude * factor) + std::fabs(factor));
  const auto print = [](int64_t x) { return static_cast<long long>(x); };
  check(same && wrong == 0 && result_.nonfinite == nonfinite,
        "%s: %s of [%lld, %lld], dtype %d, flags %d%s%s%s: %.17g, expected "
        "%.17g; %lld not finite, expected %lld; %lld gradients differ",
        what, loss_.name, print(rows), print(cols), task_.dtype, task_.flags,
        mask_ ? ", mask" : "", weights_ ? ", weights" : "",
        grad_ ? "" : ", no gradient", value(), expected,
        print(result_.nonfinite), print(nonfinite), print(wrong));
}

void RandomTask::weigh_structures(Random& random) {
  const int64_t rows = task_.rows;
  std::vector<int64_t> counts;
  for (int64_t left = rows; left > 0;) {
    const int64_t atoms =
        random.one_in(5) ? 0 : std::min(left, 1 + random.below(1 + rows / 3));
    counts.push_back(atoms);
    left -= atoms;
  }
  if (counts.empty() || random.one_in(4)) counts.push_back(0);
  // Counts that are wrong.
  int64_t& any = counts[static_cast<size_t>(
      random.below(static_cast<int64_t>(counts.size())))];
  switch (random.below(6)) {
    case 0:
      any = -1 - random.below(INT32_MAX);
      break;
    case 1:
      any = INT32_MAX;
      break;
    case 2:
      any += 1 - random.below(3);
      break;
    default:
      break;
  }
  natoms_ = Array(natoms_.dtype(), static_cast<int64_t>(counts.size()),
                  random.one_in(2));
  for (size_t i = 0; i < counts.size(); ++i)
    natoms_.set(static_cast<int64_t>(i), static_cast<double>(counts[i]));
  weights_.emplace(compute_dtype(task_.dtype), rows + 1, random.one_in(2));
  task_.row_weights = weights_->data();
  task_.natoms = natoms_.data();
  task_.structures = natoms_.size();
  task_.flags |= AL_PER_STRUCTURE;
}

bool RandomTask::natoms_describe_rows() const {
  double atoms = 0;
  for (int64_t i = 0; i < natoms_.size(); ++i) {
    if (natoms_.get(i) < 0) return false;
    atoms += natoms_.get(i);
  }
  return atoms == static_cast<double>(task_.rows);
}

int64_t RandomTask::expected_samples(std::vector<double>* weights) const {
  const int64_t rows = task_.rows, cols = task_.cols;
  const auto on = [&](int64_t row, int64_t col) {
    const bool per_row = task_.flags & AL_MASK_PER_ROW || loss_.per_row;
    return !mask_ || mask_->get(per_row ? row : row * cols + col) != 0;
  };
  int64_t samples = 0;
  if (!(task_.flags & AL_PER_STRUCTURE)) {
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t j = 0; j < (loss_.per_row ? 1 : cols); ++j)
        samples += on(row, j);
    return samples;
  }
  // Behind the weights: whether natoms is wrong, and then they are 0.
  weights->assign(static_cast<size_t>(rows) + 1, 0);
  if (!natoms_describe_rows()) {
    weights->back() = 1;
    return 0;
  }
  int64_t row = 0;
  for (int64_t i = 0; i < natoms_.size(); ++i) {
    const auto atoms = static_cast<int64_t>(natoms_.get(i));
    const int64_t end = row + atoms;
    int64_t free_rows = 0;
    bool loses = false;
    for (int64_t at = row; at < end; ++at) {
      bool any = loss_.per_row && on(at, 0);
      double s = 0;
      for (int64_t j = 0; j < cols; ++j) {
        const int64_t element = at * cols + j;
        const double p = read_pred(element), t = read_target(element);
        s += (p - t) * (p - t);
        if (loss_.per_row || !on(at, j)) continue;
        any = true;
        loses |= loss_.value(p, t, 1) != 0;
      }
      free_rows += any;
      loses |= loss_.per_row && any && s != 0;
    }
    const int64_t divisor =
        std::max<int64_t>(1, free_rows ? free_rows : end - row);
    for (int64_t at = row; at < end; ++at)
      (*weights)[static_cast<size_t>(at)] = 1 / static_cast<double>(divisor);
    samples += loses;
    row = end;
  }
  return samples;
}

}  // namespace native
