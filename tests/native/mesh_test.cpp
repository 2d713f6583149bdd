/** Connections that break in the middle of a message. */
#include "cpu/mesh.h"

#include <gloo/transport/unbound_buffer.h>

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "library_test.h"

namespace native {
namespace {

using atomloss::Mesh;
using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

constexpr milliseconds kTimeout(20000);

/** Both ends of a connection. */
struct Ends {
  Mesh zero{0, 2, "127.0.0.1", kTimeout}, one{1, 2, "127.0.0.1", kTimeout};

  Ends() {
    const auto stride = Mesh::blob_bytes(2);
    std::vector<char> blobs(static_cast<size_t>(2 * stride));
    zero.publish(blobs.data());
    one.publish(blobs.data() + stride);
    std::thread other([&] { one.connect(blobs.data(), stride); });
    zero.connect(blobs.data(), stride);
    other.join();
  }
};

/**
 * Sends so many bytes from zero to one, ends the connection at the end of one
 * of them a little later, and waits at the other. What the wait throws; empty
 * if the message had arrived.
 */
std::string broken(size_t bytes, bool receiver_dies) {
  Ends ends;
  std::vector<char> from(bytes), to(bytes);
  const auto out = ends.zero.createUnboundBuffer(from.data(), bytes);
  const auto in = ends.one.createUnboundBuffer(to.data(), bytes);
  in->recv(0, 1);
  out->send(1, 1);
  std::this_thread::sleep_for(milliseconds(3));
  Mesh& dying = receiver_dies ? ends.one : ends.zero;
  Mesh& survivor = receiver_dies ? ends.zero : ends.one;
  dying.closeConnections();
  const auto start = Clock::now();
  std::string said;
  try {
    receiver_dies ? out->waitSend(kTimeout) : in->waitRecv(kTimeout);
  } catch (const std::exception& error) {
    said = error.what();
    check(survivor.lost() == std::vector<int>{receiver_dies ? 1 : 0},
          "the peer that is lost is not named");
  }
  check(Clock::now() - start < kTimeout / 4, "a wait for a peer that has gone");
  return said;
}

void test_broken_message(bool receiver_dies) {
  // Until one has begun and not yet arrived.
  std::string said;
  for (size_t bytes = 1 << 22; bytes <= 1 << 28; bytes *= 2) {
    said = broken(bytes, receiver_dies);
    if (said.find("in the middle of a message") != std::string::npos) return;
  }
  check(false, "no message was broken: %s", said.c_str());
}

/** What has arrived counts, though the sender has gone. */
void test_message_before_the_end() {
  Ends ends;
  char from = 7, to = 0;
  const auto in = ends.one.createUnboundBuffer(&to, 1);
  in->recv(0, 1);
  const auto out = ends.zero.createUnboundBuffer(&from, 1);
  out->send(1, 1);
  out->waitSend(kTimeout);
  std::this_thread::sleep_for(milliseconds(100));
  ends.zero.closeConnections();
  const auto patience = Clock::now() + kTimeout;
  while (ends.one.lost().empty() && Clock::now() < patience)
    std::this_thread::sleep_for(milliseconds(1));
  check(ends.one.lost() == std::vector<int>{0}, "a peer that has gone");
  check(in->waitRecv(kTimeout) && to == 7, "a message before the end");
}

}  // namespace

void test_mesh() {
  test_broken_message(true);
  test_broken_message(false);
  test_message_before_the_end();
}

}  // namespace native
