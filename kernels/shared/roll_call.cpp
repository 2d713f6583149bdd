#include "shared/roll_call.h"

#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "shared/link_address.h"

namespace atomloss {

struct RollAnswer {
  uint32_t magic;
  uint64_t nonce; /* of the question */
  int64_t number;
  uint64_t hash;
  uint32_t inside;
  uint32_t given_up;
  char text[128];
};

namespace {

using Clock = std::chrono::steady_clock;

constexpr uint32_t kQuestion = 0x616c3f01;
constexpr uint32_t kAnswer = 0x616c2101;

/**
 * Questions are asked again after this, and then after twice as long each time:
 * they can be lost, or reach a socket that its dying process still holds.
 */
constexpr auto kAgain = std::chrono::milliseconds(10);

struct Question {
  uint32_t magic;
  unsigned char token[16]; /* of the one who is asked */
  uint64_t nonce;
};

/** What sets an answer apart from what this replica would say; empty if nothing
 * does. */
std::string describe(const RollAnswer& there, const RollAnswer& here) {
  const std::string number = std::to_string(there.number);
  const std::string text = there.text;
  if (there.given_up) return "has given up call " + number + ", " + text;
  if (!there.inside) return "is in no call, after call " + number;
  if (there.number == here.number && there.hash == here.hash) return "";
  const bool shares = text == here.text && there.hash != here.hash;
  return "is in call " + number + ", " + text +
         (shares ? " of other shares" : "");
}

[[noreturn]] void fail(const char* what) {
  throw std::runtime_error(std::string(what) + ": " + strerror(errno));
}

void fill_random(void* bytes, size_t n) {
  if (getrandom(bytes, n, 0) != static_cast<ssize_t>(n)) fail("getrandom");
}

/** A datagram socket at any port of the address. */
int open_socket(const char* address, sockaddr_storage* bound,
                socklen_t* length) {
  addrinfo hints = {};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  if (const int code = getaddrinfo(address, "0", &hints, &found))
    throw std::runtime_error(std::string(address) + ": " + gai_strerror(code));
  const int fd =
      socket(found->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, IPPROTO_UDP);
  const bool ready =
      fd >= 0 && bind(fd, found->ai_addr, found->ai_addrlen) == 0;
  freeaddrinfo(found);
  *length = sizeof *bound;
  if (!ready || getsockname(fd, reinterpret_cast<sockaddr*>(bound), length)) {
    const int code = errno;
    if (fd >= 0) close(fd);
    errno = code;
    fail("cannot open a socket");
  }
  return fd;
}

}  // namespace

RollCall::RollCall(int rank, int world_size, const char* address)
    : rank_(rank), world_size_(world_size), peers_(world_size) {
  static_assert(kBlobBytes >= 16 + 4 + sizeof(sockaddr_in6));
  socket_ = open_socket(address, &self_.address, &self_.length);
  if (pipe(wake_) != 0) {
    close(socket_);
    fail("pipe");
  }
  fill_random(self_.token, sizeof self_.token);
  thread_ = std::thread([this] { listen(); });
}

RollCall::~RollCall() {
  close(wake_[1]);  // which the thread sees
  thread_.join();
  close(wake_[0]);
  close(socket_);
}

void RollCall::publish(void* blob) const {
  char* const to = static_cast<char*>(blob);
  const auto length = static_cast<uint32_t>(self_.length);
  memset(to, 0, kBlobBytes);
  memcpy(to, self_.token, sizeof self_.token);
  memcpy(to + 16, &length, sizeof length);
  memcpy(to + 20, &self_.address, std::min<size_t>(length, kBlobBytes - 20));
}

void RollCall::meet(int rank, const void* blob) {
  const char* const from = static_cast<const char*>(blob);
  Peer& peer = peers_.at(static_cast<size_t>(rank));
  uint32_t length;
  memcpy(peer.token, from, sizeof peer.token);
  memcpy(&length, from + 16, sizeof length);
  if (length == 0 || length > kBlobBytes - 20)
    throw std::runtime_error("malformed address of rank " +
                             std::to_string(rank));
  memcpy(&peer.address, from + 20, length);
  use_own_link(self_.address, &peer.address);
  peer.length = length;
  peer.known = true;
}

void RollCall::enter(int64_t number, const Call& call) {
  std::lock_guard<std::mutex> lock(mutex_);
  place_ = {number, true, false, call};
}

void RollCall::leave() {
  std::lock_guard<std::mutex> lock(mutex_);
  place_.inside = false;
}

void RollCall::give_up() {
  std::lock_guard<std::mutex> lock(mutex_);
  place_.given_up = true;
}

RollAnswer RollCall::here() {
  Place here;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    here = place_;
  }
  RollAnswer answer = {};
  answer.magic = kAnswer;
  answer.number = here.number;
  answer.hash = here.call.hash();
  answer.inside = here.inside;
  answer.given_up = here.given_up;
  here.call.text().copy(answer.text, sizeof answer.text - 1);
  return answer;
}

void RollCall::listen() {
  pollfd ready[2] = {{socket_, POLLIN, 0}, {wake_[0], POLLIN, 0}};
  for (;;) {
    if (poll(ready, 2, -1) < 0 && errno != EINTR) return;
    if (ready[1].revents) return;
    if (!(ready[0].revents & POLLIN)) continue;
    Question question;
    sockaddr_storage from;
    socklen_t length = sizeof from;
    const ssize_t bytes =
        recvfrom(socket_, &question, sizeof question, MSG_DONTWAIT,
                 reinterpret_cast<sockaddr*>(&from), &length);
    // Who does not know the token learns nothing.
    if (bytes != static_cast<ssize_t>(sizeof question) ||
        question.magic != kQuestion ||
        memcmp(question.token, self_.token, sizeof self_.token) != 0)
      continue;
    RollAnswer answer = here();
    answer.nonce = question.nonce;
    sendto(socket_, &answer, sizeof answer, MSG_DONTWAIT,
           reinterpret_cast<const sockaddr*>(&from), length);
  }
}

RollCall::Report RollCall::ask(std::chrono::milliseconds patience) {
  enum class State { kUnreachable, kSilent, kGone, kAnswered };
  struct Line {
    int rank = 0;
    int fd = -1;
    State state = State::kUnreachable;
    RollAnswer answer;
  };
  uint64_t nonce;
  fill_random(&nonce, sizeof nonce);
  // A socket each, so that the system can tell which of them is gone.
  std::vector<Line> lines;
  for (int rank = 0; rank < world_size_; ++rank) {
    const Peer& peer = peers_[rank];
    if (rank == rank_ || !peer.known) continue;
    Line line;
    line.rank = rank;
    line.fd =
        socket(peer.address.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, IPPROTO_UDP);
    const auto* address = reinterpret_cast<const sockaddr*>(&peer.address);
    if (line.fd >= 0 && connect(line.fd, address, peer.length) == 0)
      line.state = State::kSilent;
    lines.push_back(line);
  }
  const auto question = [&](const Line& line) {
    Question text = {};
    text.magic = kQuestion;
    memcpy(text.token, peers_[line.rank].token, sizeof text.token);
    text.nonce = nonce;
    send(line.fd, &text, sizeof text, MSG_DONTWAIT);
  };
  const auto listen = [&](Line& line) {
    RollAnswer answer;
    const ssize_t bytes = recv(line.fd, &answer, sizeof answer, MSG_DONTWAIT);
    if (bytes < 0 && errno == ECONNREFUSED) line.state = State::kGone;
    if (bytes != static_cast<ssize_t>(sizeof answer) ||
        answer.magic != kAnswer || answer.nonce != nonce)
      return;
    answer.text[sizeof answer.text - 1] = 0;
    line.state = State::kAnswered;
    line.answer = answer;
    peers_[line.rank].heard = true;
  };

  const auto end = Clock::now() + patience;
  auto again = Clock::now();
  auto pause = kAgain;
  for (;;) {
    std::vector<pollfd> silent;
    for (const Line& line : lines)
      if (line.state == State::kSilent) silent.push_back({line.fd, POLLIN, 0});
    if (silent.empty() || Clock::now() >= end) break;
    if (Clock::now() >= again) {
      for (const Line& line : lines)
        if (line.state == State::kSilent) question(line);
      again += pause;
      pause *= 2;
    }
    poll(silent.data(), silent.size(), 20);
    for (Line& line : lines)
      if (line.state == State::kSilent) listen(line);
  }

  const RollAnswer mine = here();
  Report report;
  for (const Line& line : lines) {
    if (line.fd >= 0) close(line.fd);
    const bool answered = line.state == State::kAnswered;
    report.lost |= answered
                       ? line.answer.given_up != 0
                       : line.state == State::kGone && peers_[line.rank].heard;
    const std::string state =
        line.state == State::kUnreachable ? "cannot be reached"
        : line.state == State::kSilent    ? "does not answer"
        : line.state == State::kGone      ? "has ended"
                                          : describe(line.answer, mine);
    if (state.empty()) continue;
    report.text += (report.text.empty() ? "rank " : "; rank ") +
                   std::to_string(line.rank) + " " + state;
  }
  return report;
}

}  // namespace atomloss
