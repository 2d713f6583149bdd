/**
 * Calls of the ABI put on a list, to be made later as often as is wanted
 * without the language above: a training step whose shapes do not change. Each
 * function that enqueues work begins with AL_RECORD, which says what it would
 * need to be called again. Shared by both libraries.
 */
#ifndef ATOMLOSS_RECORDING_H
#define ATOMLOSS_RECORDING_H

#include <functional>
#include <tuple>
#include <utility>
#include <vector>

#include "shared/status.h"

/**
 * Puts a call on the list of the recording under way on a device, if there is
 * one, instead of making it: the function and its arguments, of which those in
 * host memory are copies(), those that change are number()s.
 */
#define AL_RECORD(device, ...)                                 \
  if (__builtin_expect((device)->recording != nullptr, false)) \
  return (device)->recording->add(__VA_ARGS__)

namespace atomloss {

/** Host memory that a call reads: `count` items, or NULL. */
template <class T>
struct Copies {
  const T* items;
  int64_t count;
};
template <class T>
Copies<T> copies(const T* items, int64_t count) {
  return {items, count};
}

/** A number that each replay is given anew. */
template <class T>
struct Number {};
template <class T>
Number<T> number(T) {
  return {};
}

/** Of what a collective reduces, and then of its result. */
struct Origin {};

/** The ticket of counts, which is another in each replay: given, and used up.
 */
struct NewTicket {
  al_group* group;
  int64_t* ticket;
};
struct Ticket {
  al_group* group; /* NULL: there is no ticket */
  int64_t ticket;
};

}  // namespace atomloss

struct al_recording {
 public:
  explicit al_recording(al_device* device) : device_(device) {}

  template <class... Parameters, class... Arguments>
  al_status add(al_status (*function)(Parameters...),
                const Arguments&... arguments) {
    return al_guard([&]() -> al_status {
      const size_t before = numbers_;
      // In braces: kept from the first to the last, as numbers are counted.
      std::tuple<decltype(keep(arguments))...> kept{keep(arguments)...};
      calls_.push_back(
          {[this, function, kept = std::move(kept)](const double* numbers) {
             return std::apply(
                 [&](const auto&... each) {
                   return function(given(each, numbers)...);
                 },
                 kept);
           },
           numbers_ - before});
      return AL_OK;
    });
  }

  /** As al_replay(). */
  al_status replay(int64_t times, const double* numbers, double* origin,
                   int64_t* done);

  /** Ends the recording: from here on its device makes the calls it is given.
   */
  void end();

 private:
  struct Call {
    std::function<al_status(const double*)> make;
    size_t numbers; /* how many it takes */
  };
  struct Counts {
    al_group* group;
    int64_t ticket; /* 0: there is none */
  };
  /* What is kept of an argument. */
  template <class T>
  struct Copied {
    std::vector<T> items;
    bool is_null;
  };
  template <class T>
  struct NumberAt {
    size_t place;
  };
  struct OriginOfReplay {};
  struct NewTicketAt {
    size_t place;
  };
  struct TicketAt {
    size_t place;
    bool is_none;
  };

  template <class T>
  static T keep(const T& plain) {
    return plain;
  }
  template <class T>
  static Copied<T> keep(const atomloss::Copies<T>& argument) {
    const auto [items, count] = argument;
    if (!items || count <= 0) return {{}, items == nullptr};
    return {{items, items + count}, false};
  }
  template <class T>
  NumberAt<T> keep(const atomloss::Number<T>&) {
    return {numbers_++};
  }
  static OriginOfReplay keep(const atomloss::Origin&) { return {}; }
  NewTicketAt keep(const atomloss::NewTicket& argument);
  TicketAt keep(const atomloss::Ticket& argument) const;

  template <class T>
  static const T& given(const T& plain, const double*) {
    return plain;
  }
  template <class T>
  static const T* given(const Copied<T>& kept, const double*) {
    return kept.is_null ? nullptr : kept.items.data();
  }
  template <class T>
  static T given(const NumberAt<T>& kept, const double* numbers) {
    return static_cast<T>(numbers[kept.place]);
  }
  double* given(const OriginOfReplay&, const double*) { return &origin_; }
  int64_t* given(const NewTicketAt& kept, const double*) {
    return &counts_[kept.place].ticket;
  }
  int64_t given(const TicketAt& kept, const double*) {
    return kept.is_none ? 0 : std::exchange(counts_[kept.place].ticket, 0);
  }

  /** Gives back the counts that no call has taken. */
  void drop_counts();

  al_device* const device_;
  std::vector<Call> calls_;
  size_t numbers_ = 0; /* of a replay */
  std::vector<Counts> counts_;
  double origin_ = AL_ORIGIN_NONE; /* of the replay until now */
};

namespace atomloss {

/** The recording under way on a device, to be set by whoever begins one. */
al_recording*& recording_on(al_device* device);

}  // namespace atomloss

#endif /* ATOMLOSS_RECORDING_H */
