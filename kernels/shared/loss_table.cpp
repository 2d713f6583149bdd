#include "shared/loss_table.h"

#include <cstring>
#include <deque>
#include <mutex>

namespace atomloss {
namespace {

/** More than any memory holds, and far from what an int64_t holds. */
constexpr int64_t kMostElements = int64_t{1} << 56;

class Table {
 public:
  Table() {
    int32_t i = 0;
#define AL_ENTRY(Loss)                                                 \
  entries_.push_back({Loss::name,                                      \
                      kShapeOf<Loss>,                                  \
                      Loss::uses_natoms,                               \
                      {builtin_float32()[i], builtin_float64()[i],     \
                       builtin_float16()[i], builtin_bfloat16()[i]}}); \
  ++i;
    AL_BUILTIN_LOSSES(AL_ENTRY)
#undef AL_ENTRY
  }

  /** Number of a name; -1 if there is none. */
  int32_t find(const char* name) {
    std::lock_guard<std::mutex> lock(mutex_);
    for (size_t i = 0; i < entries_.size(); ++i)
      if (strcmp(entries_[i].name, name) == 0) return static_cast<int32_t>(i);
    return -1;
  }

  /** NULL if there is no such number. An entry stays where it is. */
  const LossEntry* at(int32_t number) {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto i = static_cast<size_t>(number);
    return number >= 0 && i < entries_.size() ? &entries_[i] : nullptr;
  }

  void add(const LossEntry& entry) {
    std::lock_guard<std::mutex> lock(mutex_);
    entries_.push_back(entry);
  }

 private:
  std::mutex mutex_;
  std::deque<LossEntry> entries_;
};

/** Throws unless natoms is there, of a dtype that it may have. */
void check_natoms(const char* who, const void* natoms, int32_t dtype) {
  if (natoms == nullptr)
    throw al_error(al_fail(AL_INVALID_ARGUMENT, "%s needs natoms", who));
  if (dtype != AL_INT32 && dtype != AL_INT64)
    throw al_error(
        al_fail(AL_INVALID_ARGUMENT, "natoms must be int32 or int64"));
}

Table& table() {
  static Table losses;
  return losses;
}

}  // namespace

const LossEntry& loss_entry(int32_t number) {
  const LossEntry* entry = table().at(number);
  if (entry == nullptr)
    throw al_error(
        al_fail(AL_INVALID_ARGUMENT, "there is no loss number %d", number));
  return *entry;
}

void check_arguments(const LossEntry& loss, int64_t rows, int64_t cols,
                     const void* natoms, int32_t natoms_dtype) {
  int64_t elements;
  if (rows < 0 || cols < 0)
    throw al_error(
        al_fail(AL_INVALID_ARGUMENT, "negative size: %lld rows, %lld cols",
                static_cast<long long>(rows), static_cast<long long>(cols)));
  if (__builtin_mul_overflow(rows, cols, &elements) || elements > kMostElements)
    throw al_error(
        al_fail(AL_INVALID_ARGUMENT, "too many elements: [%lld, %lld]",
                static_cast<long long>(rows), static_cast<long long>(cols)));
  if (rows > 0 && loss.shape.columns > 0 && cols != loss.shape.columns)
    throw al_error(
        al_fail(AL_INVALID_ARGUMENT, "%s takes rows of %d numbers, not of %lld",
                loss.name, loss.shape.columns, static_cast<long long>(cols)));
  if (loss.uses_natoms && rows > 0)
    check_natoms(loss.name, natoms, natoms_dtype);
}

void check_task(const LossEntry& loss, const al_loss_task& task) {
  check_arguments(loss, task.rows, task.cols, task.natoms, task.natoms_dtype);
  const auto refuse = [&](const char* why) {
    throw al_error(al_fail(AL_INVALID_ARGUMENT, "%s %s", loss.name, why));
  };
  if (loss.shape.kind == AL_PER_ROW &&
      (task.mask.col_stride != 0 || task.weights.col_stride != 0))
    refuse("has an entry per row: neither do mask and weights differ in it");
  if (task.group_count < 1 ||
      (task.rows > 0 && task.group_count > 1 && !task.groups))
    refuse("needs a group for every row, and one at least");
  if (task.groups && task.groups_dtype != AL_INT32 &&
      task.groups_dtype != AL_INT64)
    refuse("takes groups of int32 or int64");
  const bool weighs =
      task.samples == AL_STRUCTURES || task.samples == AL_STRUCTURES_WITH_LOSS;
  const bool spreads = task.weights.by_row || task.scale.by_row;
  if ((weighs || spreads || task.groups) && !task.wrong)
    refuse("needs a place for what is wrong");
  if (!weighs && !spreads) return;
  if (loss.uses_natoms) refuse("reads natoms: it has no rows per structure");
  if (task.structures < 0 || task.structures > kMostElements)
    throw al_error(al_fail(AL_INVALID_ARGUMENT, "%lld structures",
                           static_cast<long long>(task.structures)));
  if (task.structures > 0)
    check_natoms("a loss per structure", task.natoms, task.natoms_dtype);
  if (weighs && task.structure_weights == nullptr)
    refuse("per structure needs structure_weights");
}

al_status register_losses(const LossEntry* entries, int32_t count) {
  for (int32_t i = 0; i < count; ++i) {
    const int32_t number = table().find(entries[i].name);
    if (number < 0) {
      table().add(entries[i]);
    } else if (loss_entry(number).kernels[0] != entries[i].kernels[0]) {
      return al_fail(AL_INVALID_ARGUMENT, "a loss '%s' is there already",
                     entries[i].name);
    }
  }
  return AL_OK;
}

}  // namespace atomloss

using namespace atomloss;

al_status al_loss_find(const char* name, int32_t* loss, int32_t* kind) {
  return al_guard([&]() -> al_status {
    const int32_t number = table().find(name);
    if (number < 0)
      return al_fail(AL_INVALID_ARGUMENT, "the library has no loss '%s'", name);
    *loss = number;
    *kind = loss_entry(number).shape.kind;
    return AL_OK;
  });
}
