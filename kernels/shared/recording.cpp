#include "shared/recording.h"

#include <memory>

using atomloss::recording_on;

/* A ticket that a recording gives out says which of its counts it is of: below
   0, as none of a group's is. */

al_recording::NewTicketAt al_recording::keep(
    const atomloss::NewTicket& argument) {
  counts_.push_back({argument.group, 0});
  *argument.ticket = -static_cast<int64_t>(counts_.size());
  return {counts_.size() - 1};
}

al_recording::TicketAt al_recording::keep(
    const atomloss::Ticket& argument) const {
  if (!argument.group) return {0, true};
  const auto place = static_cast<size_t>(-argument.ticket) - 1;
  if (argument.ticket >= 0 || place >= counts_.size())
    throw al_error(al_fail(AL_INVALID_ARGUMENT,
                           "the counts of ticket %lld are not of this "
                           "recording",
                           static_cast<long long>(argument.ticket)));
  return {place, false};
}

al_status al_recording::replay(int64_t times, const double* numbers,
                               double* origin, int64_t* done) {
  // A replay is like one call: what any collective of it has reduced, the next
  // has too.
  origin_ = *origin;
  *done = 0;
  al_status failed = AL_OK;
  for (int64_t i = 0; i < times && failed == AL_OK; ++i) {
    for (const Call& call : calls_) {
      failed = call.make(numbers);
      if (failed != AL_OK) break;
      *done += static_cast<int64_t>(call.numbers);
    }
    drop_counts();
    numbers += numbers_;
  }
  *origin = origin_;
  return failed;
}

void al_recording::drop_counts() {
  for (Counts& counts : counts_)
    if (const int64_t ticket = std::exchange(counts.ticket, 0)) {
      // Of a group that has failed there may be none.
      char message;
      if (const al_status failed = al_count_drop(counts.group, ticket))
        al_take_error(failed, &message, sizeof message);
    }
}

void al_recording::end() { recording_on(device_) = nullptr; }

al_status al_record_begin(al_device* device, al_recording** recording) {
  return al_guard([&]() -> al_status {
    if (recording_on(device))
      return al_fail(AL_INVALID_ARGUMENT, "the device is recording already");
    *recording = recording_on(device) = new al_recording(device);
    return AL_OK;
  });
}

al_status al_record_end(al_recording* recording) {
  recording->end();
  return AL_OK;
}

al_status al_replay(al_recording* recording, int64_t times,
                    const double* numbers, double* origin, int64_t* done) {
  return al_guard(
      [&] { return recording->replay(times, numbers, origin, done); });
}

al_status al_recording_close(al_recording* recording) {
  delete recording;
  return AL_OK;
}
