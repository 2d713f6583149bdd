/** A random al_loss_task with its arrays, and what it is expected to give. */
#ifndef NATIVE_RANDOM_TASK_H
#define NATIVE_RANDOM_TASK_H

#include <optional>
#include <vector>

#include "array.h"
#include "reference.h"

namespace native {

/** What a task must not leave to chance; the rest is random. */
struct TaskOptions {
  int32_t loss; /* of kLosses */
  int32_t dtype;
  int64_t rows, cols;
  bool plain = false; /* no mask, no weights, nothing that is not finite */
};

class RandomTask {
 public:
  RandomTask(const TaskOptions& options, Random& random);
  // Its task points into it.
  RandomTask(const RandomTask&) = delete;
  RandomTask& operator=(const RandomTask&) = delete;

  const al_loss_task& task() const { return task_; }
  const al_loss_result& result() const { return result_; }

  /** Compares value, count and gradient with plain loops. */
  void check_result(const char* what);

  /** The value, as a number. */
  double value() const;

  /** Weighs the rows by natoms that describe the rows more or less. */
  void weigh_structures(Random& random);
  /** The samples, and the weights of the rows, as they are expected. */
  double expected_samples(std::vector<double>* weights) const;
  double row_weight(int64_t row) const { return structures_->get(row); }
  /** What al_count_samples says of natoms and groups. */
  const int64_t* wrong() const { return wrong_; }

 private:
  bool natoms_describe_rows() const;
  bool has_label(int64_t row, int64_t col) const;
  bool counts(int64_t row, int64_t col) const;
  double weight(int64_t row, int64_t col) const;
  double scale(int64_t row, int64_t col) const;
  bool is_on(int64_t row, int64_t col) const;
  void spread(al_spread& to, std::optional<Array>& values, bool by_column,
              Random& random);
  double read_pred(int64_t i) const;
  double read_target(int64_t i) const;

  const Reference& loss_;
  al_loss_task task_ = {};
  al_loss_result result_ = {-1, -1, -1, -1, -1, -1};
  int64_t wrong_[2] = {0, 0};
  std::vector<double> factors_ = {1};
  Array pred_, target_, natoms_;
  std::optional<Array> grad_, mask_, weights_, scale_, structures_, groups_;
};

}  // namespace native

#endif /* NATIVE_RANDOM_TASK_H */
