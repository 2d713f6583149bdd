#include "mesh.h"

#include <gloo/common/error.h>
#include <gloo/transport/address.h>
#include <gloo/transport/tcp/device.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "shared/link_address.h"
#include "watched_transport.h"

namespace atomloss {
namespace {

/** Space for one address in a blob, behind its length. */
constexpr int64_t kAddressBytes = gloo::transport::Address::kMaxByteSize;
constexpr int64_t kSlotBytes = sizeof(int64_t) + kAddressBytes;

/** Gloo's form of a peer's address, which begins with that of its socket. */
std::vector<char> on_own_link(const std::vector<char>& self,
                              std::vector<char> peer) {
  sockaddr_storage ours, theirs;
  if (self.size() < sizeof ours || peer.size() < sizeof theirs) return peer;
  memcpy(&ours, self.data(), sizeof ours);
  memcpy(&theirs, peer.data(), sizeof theirs);
  use_own_link(ours, &theirs);
  memcpy(peer.data(), &theirs, sizeof theirs);
  return peer;
}

}  // namespace

Mesh::Mesh(int rank, int size, const char* address,
           std::chrono::milliseconds timeout)
    : gloo::Context(rank, size) {
  gloo::transport::tcp::attr attr;
  attr.hostname = address;
  device_ = gloo::transport::tcp::CreateDevice(attr);
  setTimeout(timeout);
  const auto inner = device_->createContext(rank, size);
  // A pair takes this as its own timeout, and waits 5 times as long for its
  // connection to be made.
  inner->setTimeout(std::max(timeout / 5, std::chrono::milliseconds(1)));
  for (int peer = 0; peer < size; ++peer)
    if (peer != rank) inner->createPair(peer);
  inner->setTimeout(timeout);
  transport_ = std::make_shared<WatchedTransport>(inner);
  transportContext_ = transport_;
}

Mesh::~Mesh() = default;

int64_t Mesh::blob_bytes(int size) { return size * kSlotBytes; }

void Mesh::publish(char* blob) {
  memset(blob, 0, static_cast<size_t>(blob_bytes(size)));
  for (int peer = 0; peer < size; ++peer) {
    if (peer == rank) continue;
    const std::vector<char> bytes = getPair(peer)->address().bytes();
    const auto length = static_cast<int64_t>(bytes.size());
    if (length > kAddressBytes) throw std::length_error("address too long");
    memcpy(blob + peer * kSlotBytes, &length, sizeof length);
    memcpy(blob + peer * kSlotBytes + sizeof length, bytes.data(),
           bytes.size());
  }
}

void Mesh::connect(const char* blobs, int64_t stride) {
  for (int peer = 0; peer < size; ++peer) {
    if (peer == rank) continue;
    const char* slot = blobs + peer * stride + rank * kSlotBytes;
    int64_t length;
    memcpy(&length, slot, sizeof length);
    if (length <= 0 || length > kAddressBytes)
      throw std::length_error("malformed address of rank " +
                              std::to_string(peer));
    const char* bytes = slot + sizeof length;
    try {
      const auto& pair = getPair(peer);
      pair->connect(on_own_link(pair->address().bytes(),
                                std::vector<char>(bytes, bytes + length)));
      transport_->connected(peer);
    } catch (const gloo::Exception& error) {
      throw std::runtime_error("rank " + std::to_string(peer) + ": " +
                               error.what());
    }
  }
}

std::vector<int> Mesh::lost() { return transport_->lost(); }

}  // namespace atomloss
