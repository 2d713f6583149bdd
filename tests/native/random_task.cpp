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
  if (loss_.uses_natoms && rows > 0 && maybe(3))
    natoms_.set(random.below(rows), -static_cast<double>(random.below(2)));
  const bool changes_targets = maybe(2);
  if (changes_targets || maybe(6))
    spoil(target_, random, 1 + random.below(500));
  if (random.one_in(4) ? options.plain : true)
    grad_.emplace(options.dtype, n, random.one_in(2));
  const bool per_row = loss_.per_row || maybe(2);
  if (maybe(2)) {
    mask_.emplace(AL_BOOL, per_row ? rows : n);
    const int64_t on = 1 + random.below(4);
    for (int64_t i = 0; i < mask_->size(); ++i)
      mask_->set(i, static_cast<double>(random.below(4) < on));
    task_.mask = {mask_->data(), nullptr, per_row ? 1 : options.cols,
                  per_row ? 0 : 1};
  }

  task_.pred = pred_.data();
  task_.target = target_.data();
  task_.natoms = loss_.uses_natoms ? natoms_.data() : nullptr;
  task_.grad = grad_ ? grad_->data() : nullptr;
  task_.result = &result_;
  task_.rows = rows;
  task_.cols = options.cols;
  task_.loss = number_of(loss_);
  task_.dtype = options.dtype;
  task_.natoms_dtype = natoms_.dtype();
  task_.value_dtype = compute_dtype(options.dtype);
  task_.parameters[0] = 1;  // delta, beta
  task_.targets = !changes_targets   ? AL_TARGETS_AS_THEY_ARE
                  : random.one_in(2) ? AL_TARGETS_FINITE
                                     : AL_TARGETS_LABELS;
  task_.coefficient = 1 + random.uniform();
  task_.group_count = 1;
  task_.groups_dtype = AL_INT64;
  if (maybe(3)) spread(task_.weights, weights_, !loss_.per_row, random);
  if (maybe(3)) spread(task_.scale, scale_, true, random);
  if (maybe(3)) {
    structures_.emplace(compute_dtype(options.dtype), rows, random.one_in(2));
    for (int64_t i = 0; i < rows; ++i)
      structures_->set(i, 1.0 / static_cast<double>(1 + random.below(5)));
    task_.structure_weights = structures_->data();
  }
  if (maybe(4)) {
    task_.group_count = static_cast<int32_t>(1 + random.below(5));
    task_.groups_dtype = random.one_in(2) ? AL_INT32 : AL_INT64;
    groups_.emplace(task_.groups_dtype, rows, random.one_in(2));
    for (int64_t i = 0; i < rows; ++i)
      groups_->set(i, static_cast<double>(random.below(task_.group_count)));
    task_.groups = groups_->data();
    task_.wrong = wrong_;
    factors_.resize(static_cast<size_t>(task_.group_count));
  }
  for (double& factor : factors_)
    factor = 1 / static_cast<double>(1 + random.below(100));
  if (groups_ || !random.one_in(3)) task_.factors = factors_.data();
}

void RandomTask::spread(al_spread& to, std::optional<Array>& values,
                        bool by_column, Random& random) {
  const int64_t rows = task_.rows, cols = task_.cols;
  const int64_t shape = by_column ? random.below(3) : 0;
  const int64_t n = shape == 0 ? rows : shape == 1 ? rows * cols : cols;
  values.emplace(compute_dtype(task_.dtype), n, random.one_in(2));
  for (int64_t i = 0; i < n; ++i) values->set(i, 1 + random.uniform());
  to = {values->data(), nullptr,
        shape == 0   ? 1
        : shape == 1 ? cols
                     : 0,
        shape == 0 ? 0 : 1};
}

bool RandomTask::is_on(int64_t row, int64_t col) const {
  return !mask_ || mask_->get(row * task_.mask.row_stride +
                              col * task_.mask.col_stride) != 0;
}

bool RandomTask::has_label(int64_t row, int64_t col) const {
  return task_.targets != AL_TARGETS_LABELS ||
         !std::isnan(target_.get(row * task_.cols + col));
}

/** Whether an entry counts: of a loss per row, the whole row. */
bool RandomTask::counts(int64_t row, int64_t col) const {
  if (!is_on(row, col)) return false;
  if (!loss_.per_row) return has_label(row, col);
  for (int64_t j = 0; j < task_.cols; ++j)
    if (!has_label(row, j)) return false;
  return true;
}

double RandomTask::weight(int64_t row, int64_t col) const {
  if (!counts(row, col)) return 0;
  double weight = structures_ ? structures_->get(row) : 1;
  if (weights_)
    weight *= weights_->get(row * task_.weights.row_stride +
                            col * task_.weights.col_stride);
  if (groups_) weight *= factors_[static_cast<size_t>(groups_->get(row))];
  return weight;
}

double RandomTask::scale(int64_t row, int64_t col) const {
  return scale_ ? scale_->get(row * task_.scale.row_stride +
                              col * task_.scale.col_stride)
                : 1;
}

double RandomTask::read_pred(int64_t i) const {
  const double p = pred_.get(i), most = largest(task_.dtype);
  return std::isnan(p) ? 0 : std::clamp(p, -most, most);
}

double RandomTask::read_target(int64_t i) const {
  const double t = target_.get(i);
  return task_.targets != AL_TARGETS_AS_THEY_ARE && !std::isfinite(t) ? 0 : t;
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
      task_.coefficient * (task_.factors && !groups_ ? factors_[0] : 1);
  const bool nothing = wrong_[0] != 0 || wrong_[1] != 0;
  double sum = 0, magnitude = 0;
  al_loss_result told = {};
  told.natoms = wrong_[0];
  told.groups = wrong_[1];
  int64_t wrong = 0;
  const auto check_grad = [&](int64_t i, double expected) {
    if (grad_)
      wrong += !close(grad_->get(i), grad_->stored(expected),
                      tolerance(task_.dtype), std::fabs(factor));
  };
  for (int64_t row = 0; row < rows; ++row) {
    const double atoms = loss_.uses_natoms ? natoms_.get(row) : 1;
    const double of_row = loss_.per_row && !nothing ? weight(row, 0) : 0;
    double s = 0;
    for (int64_t j = 0; j < cols; ++j) {
      const int64_t i = row * cols + j;
      const double p = read_pred(i), t = read_target(i);
      const double d = narrow(scale(row, j) * narrow(p - t));
      const bool ok = std::isfinite(pred_.get(i));
      s += narrow(d * d);
      double w = nothing || loss_.per_row ? of_row : weight(row, j);
      if (w != 0 && atoms < 1) {
        ++told.natoms;
        w = 0;
      }
      if (w != 0) {
        told.inputs += !ok;
        told.targets += !std::isfinite(target_.get(i));
      }
      if (loss_.per_row) continue;
      const double entry =
          w == 0 ? 0 : narrow(w * narrow(loss_.value(d, 0, atoms)));
      sum += entry;
      magnitude += std::fabs(entry);
      if (w == 0 || !ok)
        check_grad(i, 0);
      else if (!std::isnan(t) || !loss_.clips)
        check_grad(i, factor * w * loss_.grad(d, 0, atoms) * scale(row, j));
    }
    if (!loss_.per_row) continue;
    s = narrow(s);
    const double w = of_row;
    const double entry = w == 0 ? 0 : w * loss_.value(s, 0, 0);
    sum += entry;
    magnitude += std::fabs(entry);
    for (int64_t j = 0; j < cols; ++j) {
      const int64_t i = row * cols + j;
      const bool ok = std::isfinite(pred_.get(i));
      const double slope = factor * w * loss_.grad(s, 0, 0);
      const double d = scale(row, j) * (read_pred(i) - read_target(i));
      check_grad(i, w == 0 || !ok ? 0 : slope * d * scale(row, j));
    }
  }
  double expected = narrow(sum * factor);
  if (task_.targets != AL_TARGETS_AS_THEY_ARE) {
    const double most = largest(task_.value_dtype);
    expected = std::isnan(expected) ? 0 : std::clamp(expected, -most, most);
  }
  const bool same =
      close(value(), expected, task_.dtype == AL_FLOAT64 ? 1e-12 : 2e-5,
            std::fabs(magnitude * factor) + std::fabs(factor));
  const auto print = [](int64_t x) { return static_cast<long long>(x); };
  const bool says = result_.inputs == told.inputs &&
                    result_.targets == told.targets && result_.factors == 0 &&
                    result_.natoms == told.natoms &&
                    result_.groups == told.groups;
  check(same && wrong == 0 && says,
        "%s: %s of [%lld, %lld], dtype %d, targets %d%s%s%s%s%s%s: %.17g, "
        "expected %.17g; told of %lld, %lld, %lld, expected %lld, %lld, %lld; "
        "%lld gradients differ",
        what, loss_.name, print(rows), print(cols), task_.dtype, task_.targets,
        mask_ ? ", mask" : "", weights_ ? ", weights" : "",
        scale_ ? ", scale" : "", structures_ ? ", structures" : "",
        groups_ ? ", groups" : "", grad_ ? "" : ", no gradient", value(),
        expected, print(result_.inputs), print(result_.targets),
        print(result_.natoms), print(told.inputs), print(told.targets),
        print(told.natoms), print(wrong));
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
  structures_.emplace(compute_dtype(task_.dtype), rows, random.one_in(2));
  task_.structure_weights = structures_->data();
  task_.natoms = natoms_.data();
  task_.structures = natoms_.size();
  task_.samples = random.one_in(2) ? AL_STRUCTURES : AL_STRUCTURES_WITH_LOSS;
  task_.wrong = wrong_;
  task_.groups = nullptr;
  task_.group_count = 1;
  groups_.reset();
}

bool RandomTask::natoms_describe_rows() const {
  double atoms = 0;
  for (int64_t i = 0; i < natoms_.size(); ++i) {
    if (natoms_.get(i) < 0) return false;
    atoms += natoms_.get(i);
  }
  return atoms == static_cast<double>(task_.rows);
}

double RandomTask::expected_samples(std::vector<double>* weights) const {
  const int64_t rows = task_.rows, cols = task_.cols;
  double samples = 0;
  if (task_.samples == AL_ENTRIES || task_.samples == AL_WEIGHTS) {
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t j = 0; j < (loss_.per_row ? 1 : cols); ++j)
        samples += counts(row, j);
    return samples;
  }
  if (!natoms_describe_rows()) return 0;
  weights->assign(static_cast<size_t>(rows), 0);
  int64_t row = 0;
  for (int64_t i = 0; i < natoms_.size(); ++i) {
    const auto atoms = static_cast<int64_t>(natoms_.get(i));
    const int64_t end = row + atoms;
    int64_t free_rows = 0;
    bool loses = task_.samples == AL_STRUCTURES;
    for (int64_t at = row; at < end; ++at) {
      bool any = loss_.per_row && counts(at, 0);
      double s = 0;
      for (int64_t j = 0; j < cols; ++j) {
        const int64_t element = at * cols + j;
        const double d =
            scale(at, j) * (read_pred(element) - read_target(element));
        s += d * d;
        if (loss_.per_row || !counts(at, j)) continue;
        any = true;
        loses |= loss_.value(d, 0, 1) != 0;
      }
      free_rows += any;
      loses |= loss_.per_row && any && s != 0;
    }
    for (int64_t at = row; at < end; ++at)
      (*weights)[static_cast<size_t>(at)] =
          1 / static_cast<double>(std::max<int64_t>(1, free_rows));
    samples += loses;
    row = end;
  }
  return samples;
}

}  // namespace native
