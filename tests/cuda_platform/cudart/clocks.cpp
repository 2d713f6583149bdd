#include "clocks.h"

#include <mutex>
#include <set>
#include <string>

namespace cuda_platform {
namespace {

/** Operations that can still be told; older ones count as done. */
constexpr uint32_t kRemembered = 1 << 20;

struct State {
  std::mutex mutex;
  std::vector<Operation> operations = std::vector<Operation>(kRemembered);
  uint32_t last_id = 0;
  std::vector<uint32_t> lane_clocks = {0}; /* that of the host */
  std::vector<uint32_t> idle_lanes;
  std::set<std::string> names;

  std::shared_ptr<Clocks> host = std::make_shared<Clocks>();
  Operation host_now; /* no id: the host has touched nothing lately */
};

/** Never destroyed: threads of streams outlive main(). */
State& state() {
  static State* const all = new State;
  return *all;
}

Operation begin_locked(State& all, uint32_t lane, const char* name) {
  const uint32_t id = ++all.last_id;
  Operation& operation = all.operations[id % kRemembered];
  operation = {id, lane, ++all.lane_clocks[lane], name};
  return operation;
}

/** The host's clocks, to change: those that were handed out stay. */
Clocks& own_host_clocks(State& all) {
  if (all.host.use_count() > 1) all.host = std::make_shared<Clocks>(*all.host);
  return *all.host;
}

}  // namespace

uint32_t take_lane() {
  State& all = state();
  std::lock_guard<std::mutex> lock(all.mutex);
  if (!all.idle_lanes.empty()) {
    const uint32_t lane = all.idle_lanes.back();
    all.idle_lanes.pop_back();
    return lane;
  }
  all.lane_clocks.push_back(0);
  return static_cast<uint32_t>(all.lane_clocks.size() - 1);
}

void give_lane(uint32_t lane) {
  State& all = state();
  std::lock_guard<std::mutex> lock(all.mutex);
  all.idle_lanes.push_back(lane);
}

Operation begin_operation(uint32_t lane, const char* name, Clocks* known) {
  State& all = state();
  std::lock_guard<std::mutex> lock(all.mutex);
  const Operation operation = begin_locked(all, lane, name);
  known->raise(lane, operation.clock);
  return operation;
}

bool find_operation(uint32_t id, Operation* found) {
  // Without the mutex, for each access of a kernel: an entry is overwritten a
  // million operations later, and then its id tells.
  *found = state().operations[id % kRemembered];
  return found->id == id;
}

const char* intern(const std::string& text) {
  State& all = state();
  std::lock_guard<std::mutex> lock(all.mutex);
  return all.names.insert(text).first->c_str();
}

std::shared_ptr<const Clocks> tell_work() {
  State& all = state();
  std::lock_guard<std::mutex> lock(all.mutex);
  // What the host does from now on is not known to this work.
  all.host_now = {};
  return all.host;
}

void host_learns(const Clocks& known) {
  State& all = state();
  std::lock_guard<std::mutex> lock(all.mutex);
  own_host_clocks(all).join(known);
}

Operation host_operation(std::shared_ptr<const Clocks>* known) {
  State& all = state();
  std::lock_guard<std::mutex> lock(all.mutex);
  if (all.host_now.id == 0) {
    all.host_now = begin_locked(all, kHostLane, "the host");
    own_host_clocks(all).raise(kHostLane, all.host_now.clock);
  }
  *known = all.host;
  return all.host_now;
}

}  // namespace cuda_platform
